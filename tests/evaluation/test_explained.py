"""Held-out counts explained: the shares are those of plain regressions, and the worse is told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from kernomics.data import CellCollection, make_split
from kernomics.data.splits import Split
from kernomics.datasets import simulate
from kernomics.evaluation import explained as module
from kernomics.evaluation.explained import Explained, explained_counts
from kernomics.models import TxFM

pytest.importorskip("sklearn")
TINY = {"d_model": 8, "n_heads": 2, "decoder_layers": 0}


@pytest.fixture(scope="module")
def adata():
    return simulate(300, 60, 3, 8, mean_counts=800, seed=3)


@pytest.fixture(scope="module")
def model(adata):
    return TxFM(adata, "XXS", validation=0.3, seed=2, **TINY).train(2, progress=False)


class Stand:
    """What stands for a trained model: a representation of its own."""

    def __init__(self, model, of):
        self.genes, self.config, self.of = model.genes, model.trained.config, of

    def get_latent_representation(self, cells, *, rows, n_tokens, empty_cells):
        return self.of(rows).astype(np.float32)


def asked(stand, cells, split, **options):
    return explained_counts.__wrapped__(stand, cells, split, **options)


def test_the_types_of_cells_explain_their_counts_and_noise_none(adata, model):
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    types = asked(Stand(model, lambda rows: np.eye(3)[codes[rows]]), model.cells, model.split)
    noise = np.random.default_rng(0).normal(size=(300, 8))
    none = asked(Stand(model, lambda rows: noise[rows]), model.cells, model.split)
    assert types.n_cells == len(model.split.validation) == 90
    assert types.pca == none.pca  # draws hang on the seed alone
    assert types.model > 0.02 > none.model
    assert types.difference == pytest.approx(types.model - types.pca)
    assert none.worse
    assert str(none).endswith("; what a TxFM adds does not show in these counts")
    assert str(types).endswith(f"a PCA of as many dimensions {types.pca:.1%}")
    assert not types.worse


def test_a_constant_representation_is_the_rate_of_each_gene(model):
    found = asked(Stand(model, lambda rows: np.ones((len(rows), 4))), model.cells, model.split)
    assert found.model == pytest.approx(0, abs=1e-6)


def test_the_deviance_is_that_of_poisson_counts():
    found = module._deviance(np.array([[0.0, 3.0]]), np.array([[2.0, 1.5]]))
    np.testing.assert_allclose(found, [[4.0, 2 * (3 * np.log(2) - 1.5)]])


def test_a_trained_model_is_asked_by_the_same_name(model):
    found = explained_counts(model.trained, model.cells, model.split)
    assert isinstance(found, Explained)
    assert 0 < found.n_genes <= 60
    assert f"{found.model:.1%} of the deviance" in str(found)
    assert dataclasses.asdict(found)["n_cells"] == 90


def test_where_nothing_can_be_compared(adata, model):
    few = Split(model.split.train, model.split.validation[:19], np.empty(0, np.int64), "random",
                None, 0)  # fmt: skip
    assert explained_counts(model.trained, model.cells, few) is None
    empty = adata.copy()
    empty.X = sparse.csr_matrix(np.eye(300, 60, dtype=np.float32))
    cells = CellCollection.from_anndata(empty, empty_cells="keep")
    split = make_split(300, how="random", fractions=(0.5, 0.5, 0.0))
    assert explained_counts(model.trained, cells, split) is None


def test_deviance_of_fractions_is_poissons():
    metrics = pytest.importorskip("sklearn.metrics")
    counts, means = np.array([[0.3, 0.01, 1.5, 2, 0]]), np.array([[0.5, 0.2, 1, 1, 0.1]])
    expected = [
        metrics.mean_poisson_deviance([c], [m]) for c, m in zip(counts[0], means[0], strict=True)
    ]
    np.testing.assert_allclose(module._deviance(counts, means)[0], expected, rtol=1e-12)
