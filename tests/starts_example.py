"""A small training with several starts, for tests of them."""

import numpy as np
import pytest
import torch

from kernomics import datasets
from kernomics.models import YOTO

TRAINING = {"max_epochs": 5, "batch_size": 35, "progress": False}  # 30 steps: 12 select
K = 6


def few_cells():
    cells = datasets.simulate(300, 80, 4, 5, seed=5)
    cells.obs["half"] = (cells.obs["cell_type"].cat.codes % 2).astype(str)
    cells.obs["size"] = np.log(np.asarray(cells.X.sum(axis=1)).ravel())
    return cells


def trained(adata, labels="cell_type", *, training=TRAINING, **options):
    options = {"marker_prior": 0.0, **options}  # so that starts differ
    return YOTO(adata, labels, K, **options).train(**training)


def weights_of(model):
    return {**model.module.state_dict(), **model.panel.network.state_dict()}


def assert_same(one, other):
    assert one.genes == other.genes
    assert one.ranking.equals(other.ranking)
    assert one.history.without_timings() == other.history.without_timings()
    expected = weights_of(other)
    assert weights_of(one).keys() == expected.keys()
    for name, tensor in weights_of(one).items():
        assert torch.equal(tensor.nan_to_num(), expected[name].nan_to_num()), name


def stopped_and_resumed(adata, folder, step, options):
    class Stop(Exception):
        pass

    def stop(optimizer):
        steps.append(1)
        if len(steps) == step:
            raise Stop

    options = {"marker_prior": 0.0, **options}
    model, steps = YOTO(adata, "cell_type", K, **options), []
    inner = model._optimizer

    def stopping(module):
        optimizer = inner(module)
        optimizer.register_step_post_hook(lambda *_: stop(optimizer))
        return optimizer

    model._optimizer = stopping
    training = {**TRAINING, "checkpoint_every_epochs": 1, "checkpoint_every_seconds": 0.0}
    with pytest.raises(Stop):
        model.train(run_dir=folder, **training)
    resumed = YOTO(adata, "cell_type", K, **options)
    resumed.train(run_dir=folder, resume=step > 1, **training)
    return resumed
