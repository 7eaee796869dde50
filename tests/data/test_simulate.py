import anndata
import numpy as np
import pytest

from kernomics.data import CellCollection
from kernomics.data.simulate import CHUNK_CELLS, simulate
from kernomics.errors import ConfigError


def test_counts_are_sorted_integers_in_csr():
    adata = simulate(600, 80, 3, 4)
    assert adata.shape == (600, 80)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert adata.X.has_canonical_format
    assert (adata.X.data >= 1).all()
    assert np.array_equal(adata.X.data, np.rint(adata.X.data))
    assert CellCollection.from_anndata(adata, labels_key="cell_type").n_cells == 600


def test_the_same_seed_gives_the_same_cells_and_another_seed_others():
    first, again, other = (simulate(100, 60, seed=seed) for seed in (4, 4, 5))
    assert (first.X != again.X).nnz == 0
    assert first.obs.equals(again.obs)
    assert (first.X != other.X).nnz > 0


@pytest.mark.parametrize("n", [1, 300, CHUNK_CELLS, CHUNK_CELLS + 1])
def test_a_cell_does_not_depend_on_how_many_there_are(n):
    many = simulate(2 * CHUNK_CELLS + 10, 60, n_batches=2)
    few = simulate(n, 60, n_batches=2)
    assert (many.X[:n] != few.X).nnz == 0
    assert list(many.obs["cell_type"][:n]) == list(few.obs["cell_type"])


def test_written_to_a_file_the_cells_are_the_same(tmp_path):
    keys = {"n_cells": 1100, "n_genes": 70, "n_perturbations": 2, "type_weights": [5, 1, 1, 1, 1]}
    memory = simulate(**keys)
    backed = simulate(**keys, path=tmp_path / "a.h5ad")
    assert backed.isbacked
    backed.file.close()
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert (read.X != memory.X).nnz == 0
    assert read.obs.equals(memory.obs)
    assert read.var.equals(memory.var)
    assert read.uns["kernomics"]["simulation"]["n_perturbations"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]
    with pytest.raises(ConfigError, match=r"a.h5ad' exists"):
        simulate(**keys, path=tmp_path / "a.h5ad")


@pytest.mark.parametrize("dispersion", [0.0, 0.5])
def test_mean_and_variance_follow_the_law(dispersion):
    n = 20_000
    adata = simulate(n, 20, 1, 0, mean_counts=40, depth_spread=0, dispersion=dispersion, seed=1)
    counts = adata.X.toarray().astype(np.float64)
    mean, variance = counts.mean(axis=0), counts.var(axis=0)
    expected = mean + dispersion * mean**2
    # Six standard errors of a mean, and of a variance with the fourth moment measured.
    assert abs(mean.sum() - 40) < 6 * np.sqrt(variance.sum() / n)
    fourth = ((counts - mean) ** 4).mean(axis=0)
    assert (np.abs(variance - expected) < 6 * np.sqrt((fourth - variance**2) / n)).all()


def test_zeros_are_as_many_as_the_law_says_at_every_depth():
    n, phi = 40_000, 0.5
    adata = simulate(n, 10, 1, 0, mean_counts=10, depth_spread=0.5, dispersion=phi, seed=2)
    from kernomics.data.simulate import Simulation, draw_cells, draw_genes

    what = Simulation(**adata.uns["kernomics"]["simulation"], type_weights=None)
    depth = np.concatenate([draw_cells(what, i)["depth"] for i in range(-(-n // CHUNK_CELLS))])[:n]
    mean = depth[:, None] * draw_genes(what).profiles[0]
    p_zero = (1 + phi * mean) ** (-1 / phi)
    zero = adata.X.toarray() == 0
    for low, high in ((0, 0.7), (0.7, 1), (1, 1.5), (1.5, 3.1)):
        cells = (depth > low) & (depth <= high)
        off = np.abs(zero[cells].sum(axis=0) - p_zero[cells].sum(axis=0))
        assert (off < 6 * np.sqrt((p_zero * (1 - p_zero))[cells].sum(axis=0))).all()


def test_markers_are_high_in_their_type():
    adata = simulate(3000, 100, 4, 5, fold_change=8, depth_spread=0, batch_spread=0)
    assert adata.var["marker_of"].value_counts().tolist() == [5] * 4
    summary = CellCollection.from_anndata(adata, labels_key="cell_type").summary(by="cell_type")
    for kind, name in enumerate(adata.obs["cell_type"].cat.categories):
        marking = (adata.var["marker_of"] == name).to_numpy()
        others = np.delete(summary.mean, kind, axis=0).mean(axis=0)
        assert 5 < (summary.mean[kind] / others)[marking].sum() / 5 < 11


def test_perturbations_lower_their_targets_and_nothing_else():
    adata = simulate(
        6000, 100, 1, 0, n_perturbations=3, n_targets=4, perturbation_fold=0.2, mean_counts=2000
    )
    assert adata.obs["perturbation"].cat.categories[0] == "control"
    assert adata.var["target_of"].value_counts().tolist() == [4] * 3
    collection = CellCollection.from_anndata(adata, labels_key="perturbation")
    mean = collection.summary(by="perturbation").mean
    for i in range(3):
        ratio = mean[1 + i] / mean[0]
        hit = (adata.var["target_of"] == f"perturbation_{i}").to_numpy()
        assert ratio[hit].max() < 0.45
        assert ratio[~hit].min() > 0.6
    assert not (adata.var["target_of"].notna() & adata.var["marker_of"].notna()).any()


def test_batches_shift_genes():
    def spread(batch_spread) -> float:
        adata = simulate(4000, 30, 1, 0, n_batches=2, batch_spread=batch_spread, mean_counts=3000)
        collection = CellCollection.from_anndata(adata, batch_key="batch")
        mean = collection.summary(by="batch").mean
        return float(np.log(mean[0] / mean[1]).std())

    assert spread(0.0) < 0.1
    assert spread(0.5) > 0.3


def test_types_follow_their_weights():
    adata = simulate(8000, 30, 3, 2, type_weights=[6, 3, 1])
    share = adata.obs["cell_type"].value_counts(normalize=True)
    assert np.allclose(share[["type_0", "type_1", "type_2"]], [0.6, 0.3, 0.1], atol=0.03)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_cells": 0}, "n_cells must be at least 1, not 0"),
        ({"mean_counts": 0}, "mean_counts must be above 0, not 0"),
        ({"dispersion": -1}, "dispersion must not be negative, but is -1"),
        ({"dispersion": float("nan")}, "dispersion is nan: it must be a finite number"),
        (
            {"n_markers": 30},
            "5 types × 30 markers .* need 150 genes of their own, but n_genes is 100",
        ),
        ({"type_weights": [1, 2]}, "type_weights must be 5 positive numbers"),
    ],
)
def test_senseless_parameters_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        simulate(**{"n_cells": 10, "n_genes": 100, **keys})
