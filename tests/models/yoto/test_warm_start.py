"""Selections that begin with a panel, or are built around one."""

import numpy as np
import pytest
import torch

from kernomics import datasets
from kernomics.errors import CheckpointError, ConfigError, DataError
from kernomics.models import YOTO, Panel
from kernomics.models.tasks import Task
from kernomics.models.yoto.network import PanelNetwork
from kernomics.models.yoto.warm_start import BONUS, SPREAD, START_FACTOR, WarmStart, read_panel

SHORT = pytest.mark.filterwarnings("ignore::kernomics.models.yoto.diagnostics.TrainingWarning")
OTHER_NETWORK = pytest.mark.filterwarnings("ignore:start_from. the panel's scores")


def made_panel(scores, genes, hidden=(4,), classes=("a", "b")):
    """Make a panel of given genes and scores with a random network."""
    names = [f"gene_{i}" for i in range(len(scores))]
    network = PanelNetwork(len(genes), [Task("cell_type", "categorical", classes)], hidden, "log1p")
    return Panel(network, genes, names, scores, {})


@pytest.fixture(scope="module")
def before(simulated, train_quickly):
    """A panel of 12 genes."""
    return train_quickly(simulated, n_genes=12, max_epochs=60, seed=0)


# -- extending -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["list", "panel", "model", "csv", "text"])
def test_an_extended_panel_keeps_its_genes(adata, before, train_quickly, tmp_path, form):
    genes = before.genes
    before.save(tmp_path / "model")
    (tmp_path / "panel.csv").write_text("rank,gene\n" + "".join(f"1,{g}\n" for g in genes))
    (tmp_path / "genes.txt").write_text("# mine\n\n" + "\n".join(genes) + "\n")
    given = {
        "list": genes,
        "panel": before.panel,
        "model": str(tmp_path / "model"),
        "csv": tmp_path / "panel.csv",
        "text": tmp_path / "genes.txt",
    }[form]
    model = train_quickly(adata, n_genes=15, extend=given, forced_genes="gene_99")
    assert {*genes, "gene_99"} <= set(model.genes)
    assert len(model.genes) == 15
    assert model.options["extend"] == genes


def test_no_room_to_extend_is_refused(adata):
    with pytest.raises(ConfigError, match=r"extend has 3 genes and n_genes is 3: .* at least 4"):
        YOTO(adata, "cell_type", 3, extend=["gene_1", "gene_2", "gene_3"])


def test_extension_with_a_gene_that_is_not_there_is_refused(adata):
    with pytest.raises(DataError, match="1 of 2 forced genes are not in the data, first 'CD3D'"):
        YOTO(adata, "cell_type", 3, extend=["gene_1", "CD3D"])


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nowhere/panel", ConfigError, "start_from is 'nowhere/panel', and there is no such file"),
        ([], ConfigError, "start_from names no genes"),
        ("empty.txt", ConfigError, "start_from names no genes"),
        ("other.csv", DataError, "has no column 'gene'; closest: 'genes'"),
        ("folder", CheckpointError, "manifest"),
    ],
)
def test_panels_that_cannot_be_read_are_named(tmp_path, monkeypatch, source, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").write_text("# none yet\n")
    (tmp_path / "other.csv").write_text("genes\nA\n")
    with pytest.raises(error) as caught:
        read_panel(source, "start_from")
    assert message in str(caught.value)


# -- what a warm start takes over ------------------------------------------------------------------


def test_scores_of_a_panel_are_standardised_and_infinite_ones_are_its_best_and_worst():
    # Finite: 5, 3, 1, mean 3, standard deviation √(8/3).
    panel = made_panel([np.inf, 5, 3, 1, -np.inf], ["gene_0", "gene_1"])
    genes = np.array(["gene_4", "new", "gene_3", "gene_2", "gene_1", "gene_0"], object)
    step = 2 / np.sqrt(8 / 3) * SPREAD
    expected = [-step, 0, -step, 0, step, step]
    cold = np.full(6, 7, np.float32)
    assert WarmStart(panel).scores(genes, cold) == pytest.approx(expected, abs=1e-6)


def test_genes_of_a_list_begin_with_a_bonus():
    genes = np.array(["a", "b", "c"], object)
    cold = np.array([0.5, -1, 0.25], np.float32)
    assert WarmStart(["c", "x"]).scores(genes, cold).tolist() == [0.5, -1, 0.25 + BONUS]


def test_panel_without_scores_of_its_own_counts_as_a_list():
    panel = made_panel([np.inf, np.inf, -np.inf], ["gene_0", "gene_1"])
    genes = np.array(["gene_2", "gene_1", "gene_0"], object)
    assert WarmStart(panel).scores(genes, np.zeros(3, np.float32)).tolist() == [0, BONUS, BONUS]


def test_network_is_taken_over_and_predicts_as_before(adata, before):
    model = YOTO(adata, "cell_type", 12, start_from=before.panel, split=before.split)
    module = model._module().eval()
    with torch.no_grad():
        chosen = module.selector(12).indices
        assert set(adata.var_names[chosen.numpy()]) == set(before.genes)
        output = module(model.cells.batch(np.arange(50)))[0].softmax(1)
    expected = before.panel.outputs(before.cells, np.arange(50))["cell_type"]
    assert np.allclose(output.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": (16,)}, r"its hidden is \(128, 128\), not \(16,\)"),
        ({"transform": "binary"}, "its transform is 'log1p', not 'binary'"),
        ({"labels_key": ["cell_type", "age"]}, r"label is \['cell_type'\], not \['cell_type', 'ag"),
        ({"labels_key": "donor"}, r"its label is \['cell_type'\], not \['donor'\]"),
        ({"unlabelled_category": "type_3"}, "its label 'cell_type' has other classes"),
    ],
)
def test_network_of_another_shape_stays_out_with_a_warning(adata, before, options, message):
    options = {"labels_key": "cell_type", "n_genes": 8, "start_from": before.panel, **options}
    with pytest.warns(UserWarning, match=f"reused, but not its network: .*{message}"):
        model = YOTO(adata, **options)
    module = model._module()
    chosen = module.selector(8).indices.numpy()
    assert set(adata.var_names[chosen]) <= set(before.genes)


def test_genes_of_the_start_that_are_absent_are_told(adata, before):
    fewer = adata[:, ~adata.var_names.isin(before.genes[:2])].copy()
    with pytest.warns(UserWarning, match=f"2 of 12 genes .*first '{before.genes[0]}'"):
        model = YOTO(fewer, "cell_type", 8, start_from=before.panel)
    assert len(model._module().selector.scores) == 118
    with pytest.raises(DataError, match="none of the 2 genes of start_from is in the data"):
        YOTO(fewer, "cell_type", 8, start_from=before.genes[:2])


@pytest.mark.parametrize(("given", "expected"), [(None, START_FACTOR * 6), (9, 9)])
def test_subset_of_a_warm_start_begins_small(adata, before, given, expected):
    model = YOTO(adata, "cell_type", 6, start_from=before.panel, start_genes=given)
    assert model._module().schedule.start_genes == expected
    assert model.config.start_genes == given


@SHORT
def test_warm_start_is_deterministic_and_keeps_to_its_source(adata, before):
    scores = before.ranking.copy()
    weights = {name: w.clone() for name, w in before.panel.network.state_dict().items()}
    one, other = (
        YOTO(adata, "cell_type", 8, start_from=before.panel).train(max_epochs=2, progress=False)
        for _ in range(2)
    )
    assert one.ranking.equals(other.ranking)
    assert before.ranking.equals(scores)
    assert all(torch.equal(w, weights[n]) for n, w in before.panel.network.state_dict().items())


def test_digest_tells_panels_apart(before):
    listed = WarmStart(before.genes)
    assert WarmStart(before.panel).sha256 == WarmStart(before.panel).sha256
    assert len({WarmStart(before.panel).sha256, listed.sha256, WarmStart(["a"]).sha256}) == 3


# -- what it is good for ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_genes", [10, 24])
@SHORT
def test_warm_start_keeps_the_markers_in_few_epochs(n_genes):
    # 40 of 600 genes are markers. Five epochs from nothing find few of them, five from a panel of
    # 16 genes keep its markers and, with room for more, find others.
    adata = datasets.simulate(800, 600, 5, 8, seed=11, fold_change=4)
    old = YOTO(adata, "cell_type", 16).train(max_epochs=50, progress=False)
    settings = {"split": old.split, "seed": 1, "marker_prior": 0.0}

    def markers(genes):
        return set(adata.var["marker_of"].loc[list(genes)].dropna().index)

    warm, cold = (
        YOTO(adata, "cell_type", n_genes, start_from=start, **settings)
        .train(max_epochs=5, progress=False)
        for start in (old.panel, None)
    )  # fmt: skip
    kept = markers(warm.genes) & markers(old.genes)
    assert len(kept) >= 0.7 * min(n_genes, len(markers(old.genes)))
    assert len(markers(warm.genes)) > len(markers(cold.genes))
    scores = [model.test_metrics()["cell_type"]["macro_f1"] for model in (warm, cold)]
    assert scores[0] > scores[1]
