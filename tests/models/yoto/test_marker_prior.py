"""Where the gene scores start."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from kernomics import datasets
from kernomics.data import CellCollection
from kernomics.models import YOTO
from kernomics.models.tasks import Task
from kernomics.models.yoto import marker_prior
from kernomics.models.yoto.marker_prior import marker_scores

# Genes: 0 marks a, 1 marks b, 2 marks b less well, 3 is constant, 4 no cell has.
COUNTS = np.array(
    [
        [9, 0, 0, 1, 0],
        [8, 0, 0, 1, 0],
        [9, 1, 1, 1, 0],
        [0, 7, 4, 1, 0],
        [1, 6, 0, 1, 0],
        [0, 7, 3, 1, 0],
    ]
)


def collection(counts, label, kind="categorical"):
    obs = pd.DataFrame({"y": label}, index=[f"cell_{i}" for i in range(len(counts))])
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs)
    return CellCollection.from_anndata(adata, labels_key="y", label_kinds={"y": kind})


def scores_of(cells, rows=None, prior=1.0):
    rows = np.arange(cells.n_cells) if rows is None else rows
    task = Task.from_labels(cells.labels["y"], rows, weight=1.0, class_weights="balanced")
    return marker_scores(cells, rows, [task], prior)


def test_best_marker_of_every_class_starts_at_the_top():
    scores = scores_of(collection(COUNTS, list("aaabbb")))
    # Ranks for a: 0 first, then the genes that say nothing, then 2 and 1; for b the other way.
    assert scores[0] == scores[1] == scores.max()
    best_rank = np.exp(scores.max() - scores) - 1
    np.testing.assert_allclose(best_rank, [0, 0, 1, 1, 2], atol=1e-5)
    assert scores.mean() == pytest.approx(0, abs=1e-7)


def test_prior_scales_the_scores_and_zero_makes_all_genes_alike():
    cells = collection(COUNTS, list("aaabbb"))
    np.testing.assert_allclose(scores_of(cells, prior=0.2), 0.2 * scores_of(cells), rtol=1e-6)
    assert not scores_of(cells, prior=0.0).any()


def test_statistic_is_welchs_t():
    rng = np.random.default_rng(0)
    counts, codes = rng.poisson(2.0, (60, 30)), rng.integers(0, 3, 60)
    cells = collection(counts, [f"type {code}" for code in codes])
    x = np.log1p(counts)
    best = np.full(30, np.inf)
    for code in range(3):
        t, _ = stats.ttest_ind(x[codes == code], x[codes != code], equal_var=False)
        # ddof 1 there and 0 here: on 60 cells the order of some close genes may differ
        best = np.minimum(best, np.argsort(np.argsort(-t)))
    found = np.exp(scores_of(cells).max() - scores_of(cells)) - 1
    assert stats.spearmanr(found, best).statistic > 0.98


def test_continuous_label_ranks_by_absolute_correlation():
    rng = np.random.default_rng(1)
    age = rng.normal(size=80)
    counts = rng.poisson(3.0, (80, 6))
    counts[:, 2] = np.round(20 - 5 * age).clip(0)
    counts[:, 4] = np.round(8 + 2 * age + rng.normal(size=80)).clip(0)
    scores = scores_of(collection(counts, age, "continuous"))
    assert list(np.argsort(-scores)[:2]) == [2, 4]


def test_only_the_rows_given_are_looked_at():
    cells = collection(np.vstack([COUNTS, 50 * COUNTS[::-1]]), list("aaabbb") * 2)
    np.testing.assert_array_equal(
        scores_of(cells, np.arange(6)), scores_of(collection(COUNTS, list("aaabbb")))
    )


def test_unlabelled_cells_and_classes_of_one_cell_say_nothing():
    label = pd.Categorical(["a", "a", "a", "b", "b", "b", "lone", None])
    more = np.vstack([COUNTS, [[0, 0, 0, 1, 99], [0, 0, 0, 1, 99]]])
    scores = scores_of(collection(more, label))
    assert scores[4] < scores.max()


def test_reading_in_blocks_changes_nothing(monkeypatch):
    adata = datasets.simulate(150, 40, 4, 5, seed=3)
    cells = CellCollection.from_anndata(adata, labels_key="cell_type")
    task = Task.from_labels(
        cells.labels["cell_type"], np.arange(150), weight=1.0, class_weights="balanced"
    )
    whole = marker_scores(cells, np.arange(150), [task], 1.0)
    monkeypatch.setattr(marker_prior, "CELLS_AT_A_TIME", 17)
    blocks = marker_scores(cells, np.arange(150), [task], 1.0)
    np.testing.assert_allclose(whole, blocks, atol=1e-6)


def test_training_starts_from_the_prior_and_forced_genes_stay():
    adata = datasets.simulate(200, 40, 4, 5, seed=4)
    model = YOTO(adata, "cell_type", 5, forced_genes="gene_7", marker_prior=0.5)
    module = model._module()
    expected = marker_scores(model.cells, model.split.train, model.tasks, 0.5)
    np.testing.assert_array_equal(module.selector.scores.detach().numpy(), expected)
    assert module.selector.bounded_scores[7] == np.inf


@pytest.mark.parametrize("n_class", [2, 3, 7, 30])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 11, 50])
def test_gene_of_one_count_in_all_cells_of_a_class_alone_is_its_best_marker(n_class, count):
    # Its variances are 0, but for what the last bit of a mean square leaves.
    rng = np.random.default_rng(n_class)
    counts = rng.poisson(1.0, (n_class + 60, 6))
    counts[:, 0], counts[:n_class, 0], counts[:, 1] = 0, count, 4
    counts[:n_class, 2] += rng.poisson(5.0, n_class)
    cells = collection(counts, ["a"] * n_class + ["b"] * 60)
    rows = np.arange(cells.n_cells)
    task = Task.from_labels(cells.labels["y"], rows, weight=1.0, class_weights=None)
    ((_, strengths),) = marker_prior.marker_strengths(cells, rows, [task])
    assert strengths[0].argmax() == 0
    assert strengths[0, 0] == pytest.approx(-strengths[1, 0])
    assert strengths[0, 0] == pytest.approx(1e6 * np.sqrt(n_class), rel=0.01)
    assert np.abs(strengths[:, 1]).max() < 1e-3  # all cells have it alike


def test_large_numbers_that_differ_little_are_followed_exactly():
    rng = np.random.default_rng(0)
    size = rng.normal(size=400)
    counts = rng.poisson(3.0, (400, 5))
    counts[:, 1] = rng.poisson(np.exp(0.4 * size))
    cells = collection(counts, 1e6 + size, "continuous")
    rows = np.arange(400)
    stored = cells.labels["y"].values.astype(np.float64)
    task = Task.from_labels(cells.labels["y"], rows, weight=1.0, class_weights=None)
    assert (task.mean, task.sd) == (
        pytest.approx(stored.mean(), abs=1e-9),
        pytest.approx(stored.std()),
    )
    ((_, found),) = marker_prior.marker_strengths(cells, rows, [task])
    x = np.log1p(counts)
    expected = [abs(np.corrcoef(gene, stored)[0, 1]) for gene in x.T]
    np.testing.assert_allclose(found[0], expected, atol=1e-10)
    # Of cells of which none has the number, or all one, nothing is followed.
    task = Task("y", "continuous", mean=0.0, sd=1.0)
    for few in (rows[:0], rows[:1]):
        ((_, found),) = marker_prior.marker_strengths(cells, few, [task])
        assert not found.any()


def test_label_of_weight_0_moves_no_score():
    adata = datasets.simulate(200, 40, 3, 4, seed=1)
    adata.obs["half"] = np.arange(200) % 2 == adata.obs["cell_type"].cat.codes % 2
    adata.obs["half"] = adata.obs["half"].map({True: "a", False: "b"})
    alone = YOTO(adata, "cell_type", 4)._module().selector.scores
    both = {w: YOTO(adata, ["cell_type", "half"], 4, task_weights={"half": w}) for w in (0.0, 1.0)}
    assert both[0.0]._module().selector.scores.equal(alone)
    assert not both[1.0]._module().selector.scores.equal(alone)
