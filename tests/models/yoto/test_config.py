import dataclasses
import json

import numpy as np
import pytest

from kernomics.errors import ConfigError
from kernomics.models import YOTOConfig
from kernomics.models.yoto.config import default_training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_genes": 0}, "n_genes is 0: a panel needs at least 1 gene"),
        ({"n_genes": -3}, "n_genes is -3"),
        ({"n_genes": 2.5}, "n_genes is 2.5: it must be an integer"),
        ({"n_genes": "64"}, "n_genes is '64': it must be an integer"),
        ({"tau_end": 0}, "tau_end is 0: it must be above 0"),
        ({"tau_start": float("nan")}, "tau_start is nan"),
        ({"dropout": True}, "dropout is True: it must be a number"),
        ({"private_encoders": 1}, "private_encoders is 1: it must be true or false"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"shrink_until": 1.5}, "shrink_until is 1.5: it is a fraction, from 0 to 1"),
        ({"noise_end": -1}, "noise_end is -1: it must be 0 or more"),
        ({"start_genes": 3, "n_genes": 4}, "start_genes is 3, below n_genes = 4"),
        ({"start_genes": "all"}, "start_genes is 'all': it must be an integer"),
        ({"min_cells": 0}, "min_cells is 0"),
        ({"hidden": ()}, "give the width of at least one layer"),
        ({"hidden": (128, 0)}, "give the width of at least one layer"),
        ({"hidden": 128}, "hidden is 128: it must be a list of integers"),
        ({"relaxation": "softsrt"}, "relaxation is 'softsrt'; closest: 'softsort'"),
        ({"transform": "log"}, "transform is 'log'; closest: 'log1p'"),
        ({"class_weights": "even"}, "class_weights is 'even'"),
    ],
)
def test_setting_that_makes_no_sense_is_named(settings, message):
    with pytest.raises(ConfigError) as caught:
        YOTOConfig(**settings)
    assert message in str(caught.value)


def test_config_survives_json_and_numpy_integers_are_integers():
    config = YOTOConfig(n_genes=np.int64(7), hidden=(32, 16), start_genes=20)
    saved = json.loads(json.dumps(dataclasses.asdict(YOTOConfig(n_genes=7)) | {"hidden": [32, 16]}))
    assert YOTOConfig(**saved | {"start_genes": 20}) == config


@pytest.mark.parametrize("n_train", [3, 500, 5_000, 10_000_000])
def test_default_training_is_longer_for_few_cells_and_never_empty(n_train):
    config, longer = default_training(n_train), default_training(max(1, n_train // 10))
    assert 1 <= config.max_epochs <= longer.max_epochs
    assert config.batch_size >= longer.batch_size
