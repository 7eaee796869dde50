"""Starts that begin among the genes of another method."""

import numpy as np
import pytest
import torch
from starts_example import K, assert_same, few_cells, stopped_and_resumed, trained

from kernomics.baselines import de_panel, l1_panel, round_robin
from kernomics.data import Split
from kernomics.errors import ConfigError
from kernomics.models import YOTO, YOTOConfig
from kernomics.models.yoto import start_rankings
from kernomics.models.yoto.warm_start import BONUS

pytest.importorskip("scanpy", reason="differential expression is scanpy's")
pytestmark = pytest.mark.filterwarnings(
    "ignore::kernomics.models.yoto.diagnostics.TrainingWarning"  # few steps
)
RANKINGS = ("markers", "l1", "de")


@pytest.fixture(scope="module")
def adata():
    return few_cells()


def raised(model, start):
    """Return the genes that a start begins with ahead of the others."""
    ahead = model._module(start).selector.scores - model._module(0).selector.scores
    found = torch.nonzero(ahead).squeeze(1)
    assert ahead[found].tolist() == pytest.approx([BONUS] * len(found), abs=1e-5)
    return set(model.cells.genes[found.numpy()])


def test_each_start_begins_with_the_genes_of_its_ranking(adata):
    model = YOTO(adata, "cell_type", K, n_starts=4, start_rankings=RANKINGS)
    train, codes = model.split.train, model.cells.labels["cell_type"].values
    for start, panel in ((1, l1_panel), (2, de_panel)):
        expected = panel(adata.X[train], codes[train], K)
        assert raised(model, start) == set(adata.var_names[expected])
    assert raised(model, 3) == set()  # by turns


def test_rankings_of_several_labels_take_turns_and_one_of_weight_0_is_passed_over(adata):
    weights = {"half": 0.0}
    model = YOTO(
        adata, ["cell_type", "size", "half"], K, n_starts=2, start_rankings=RANKINGS[:2],
        task_weights=weights,
    )  # fmt: skip
    train = model.split.train
    size = adata.obs["size"].to_numpy()[train]
    x = np.log1p(adata.X[train].toarray())
    follows = np.argsort(-np.abs([np.corrcoef(size, gene)[0, 1] for gene in x.T]))
    codes = model.cells.labels["cell_type"].values[train]
    expected = round_robin([l1_panel(adata.X[train], codes, K), follows[:K]], K)
    assert raised(model, 1) == set(adata.var_names[expected])


def test_forbidden_genes_are_not_ranked(adata):
    free = YOTO(adata, "cell_type", K, n_starts=2, start_rankings=("markers", "l1"))
    best = sorted(raised(free, 1))
    barred = YOTO(
        adata, "cell_type", K, n_starts=2, start_rankings=("markers", "l1"),
        forbidden_genes=best[:2],
    )  # fmt: skip
    assert len(raised(barred, 1)) == K
    assert not set(best[:2]) & raised(barred, 1)


def test_first_start_is_the_one_without_rankings(adata):
    ranked = trained(adata, n_starts=2, start_rankings=("markers", "l1"))
    plain = trained(adata, n_starts=2)
    assert ranked.starts.panels[0] == plain.starts.panels[0]
    assert ranked.starts.panels[1] != plain.starts.panels[1]


def test_resumed_in_a_ranked_start_has_the_same_bits(adata, tmp_path):
    options = {"n_starts": 2, "start_rankings": ("markers", "l1")}
    whole = trained(adata, **options)
    assert_same(stopped_and_resumed(adata, tmp_path, 20, options), whole)


def test_single_start_may_begin_with_a_ranking(adata):
    model = trained(adata, start_rankings=("de",))
    assert model.starts is None
    assert len(model.genes) == K


def test_what_does_not_go_together_is_refused(adata):
    with pytest.raises(ConfigError, match="at least 1 and at most as many as there are starts"):
        YOTOConfig(n_starts=2, start_rankings=RANKINGS)
    with pytest.raises(ConfigError, match="at least 1 and at most"):
        YOTOConfig(start_rankings=())
    with pytest.raises(ConfigError, match="start_rankings"):
        YOTOConfig(start_rankings=("random",))
    with pytest.raises(ConfigError, match="both say where the scores begin"):
        YOTO(adata, "cell_type", K, start_rankings=("l1",), start_from=["gene_1"])
    again = YOTOConfig(n_starts=2, start_rankings=["markers", "l1"])
    assert again.start_rankings == ("markers", "l1")


@pytest.mark.filterwarnings("ignore:label 'lonely':UserWarning")
def test_ranking_that_cannot_be_made_is_refused_before_the_training(adata, tmp_path):
    cells = adata[:200].copy()
    lonely = np.full(200, "most", dtype=object)
    lonely[0] = "one"
    cells.obs["lonely"] = lonely
    split = Split(np.arange(150), np.arange(150, 175), np.arange(175, 200), "random", None, 0)
    model = YOTO(cells, "lonely", K, split=split, n_starts=2, start_rankings=("markers", "de"))
    with pytest.raises(ConfigError, match="'de', which compares classes of at least two"):
        model.train(2, run_dir=tmp_path / "run", progress=False)
    assert model.module is None


@pytest.mark.filterwarnings("ignore:.*(too few|fewer than 5):UserWarning")
def test_cells_without_a_label_are_not_drawn_for_its_ranking(adata, monkeypatch):
    cells = adata.copy()
    types = cells.obs["cell_type"].astype(object).to_numpy()
    types[np.arange(300) % 10 != 0] = None
    cells.obs["cell_type"] = types
    model = YOTO(cells, "cell_type", K, n_starts=2, start_rankings=("markers", "l1"))
    every = raised(model, 1)
    monkeypatch.setattr(start_rankings, "MOST_CELLS", 40)  # as many as are labelled, or more
    assert raised(model, 1) == every
