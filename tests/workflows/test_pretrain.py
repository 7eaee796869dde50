"""A pre-training's run: what it refuses before it trains, and what does not cost it the run."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn")

from kernomics import datasets
from kernomics.data import CellCollection, make_split
from kernomics.errors import ConfigError, DataError
from kernomics.models import TxFM
from kernomics.workflows.pretrain import run_pretraining

TINY = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_tokens": 5}
SHORT = {"max_epochs": 1, "batch_size": 40, "progress": False}


def model_without(part: str | None, n_genes: int = 60) -> TxFM:
    """Return an untrained model, of whose labels some cells have none."""
    cells = datasets.simulate(150, n_genes, 3, 2, seed=1)
    split = make_split(cells.n_obs, how="random", fractions=(0.6, 0.2, 0.2), seed=0)
    found = CellCollection.from_anndata(cells, labels_key="cell_type")
    if part is not None:
        label = found.labels["cell_type"]
        values = label.values.copy()
        values[getattr(split, part)] = -1
        found = found.with_labels({"cell_type": replace(label, values=values)})
    return TxFM(found, split=split, **TINY)


def test_labels_that_no_test_cell_has_are_refused_before_the_training(tmp_path):
    with pytest.raises(DataError, match="none of the 30 test cells has a value to score by"):
        run_pretraining(model_without("test"), tmp_path / "run", dataset="cells", **SHORT)
    assert not (tmp_path / "run").exists()


def test_epochs_are_not_scored_by_labels_that_no_validation_cell_has(tmp_path):
    model = model_without("validation")
    with pytest.raises(ConfigError, match="none of the 30 validation cells has a value of 'cell_t"):
        run_pretraining(model, tmp_path / "run", dataset="cells", score_epochs=True, **SHORT)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("unreported")
def test_fewer_genes_than_dimensions_do_not_cost_the_run(tmp_path):
    model = model_without(None, n_genes=12)
    with pytest.warns(UserWarning, match="12 genes has 11 components, fewer than the 16 dimens"):
        result = run_pretraining(model, tmp_path / "run", dataset="cells", **SHORT)
    assert result.scores is not None
    assert np.isfinite(result.scores.table["knn_accuracy"]).all()
