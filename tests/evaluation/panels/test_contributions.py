"""A gene's contribution is the rise of the loss without it: by hand, per label and per class."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from kernomics import datasets
from kernomics.data import CellCollection
from kernomics.errors import DataError
from kernomics.evaluation.panels import contributions
from kernomics.models import YOTO, Panel
from kernomics.models.tasks import Task, task_loss
from kernomics.models.yoto.network import PanelNetwork, transformed

SAY = Task("type", "categorical", ("x", "y"))


def panel_of(genes, tasks, first, heads, transform="binary", all_genes=None):
    """A panel whose network is a layer `first` [h, k] with a ReLU and `heads` [n_out, h]."""
    first = torch.tensor(first, dtype=torch.float32)
    weights = {"first.weight": first, "first.bias": torch.zeros(len(first))}
    for i, head in enumerate(heads):
        weights[f"heads.{i}.weight"] = torch.tensor(head, dtype=torch.float32)
        weights[f"heads.{i}.bias"] = torch.zeros(len(head))
    network = PanelNetwork.from_weights(weights, tasks, (len(first),), transform)
    every = all_genes or genes
    return Panel(network, genes, every, np.zeros(len(every)), {})


def collection(counts, obs, genes, **options):
    counts = np.array(counts, dtype=np.float32)
    table = pd.DataFrame(obs, index=[f"c{i}" for i in range(len(counts))])
    adata = AnnData(sparse.csr_matrix(counts), obs=table, var=pd.DataFrame(index=genes))
    return CellCollection.from_anndata(
        adata, labels_key=list(obs), empty_cells="keep", check=False, **options
    )


# Cells 0–3 are held out, 4–7 the background, in which the mean of A is 1/2, of B 1/4 and of C 1.
# Input is whether a gene is there. The logits are x: 2A, y: B; the network does not read C.
COUNTS = [
    [5, 0, 1], [5, 0, 0], [0, 4, 1], [0, 0, 1],
    [5, 0, 1], [5, 0, 1], [0, 4, 1], [0, 0, 1],
]  # fmt: skip
TYPES = ["x", "x", "y", "y", "x", "x", "y", "y"]
HELD_OUT, BACKGROUND = [0, 1, 2, 3], [4, 5, 6, 7]


@pytest.fixture
def cells():
    return collection(COUNTS, {"type": TYPES}, ["A", "B", "C"])


@pytest.fixture
def panel():
    return panel_of(["A", "B", "C"], [SAY], [[1, 0, 0], [0, 1, 0]], [[[2, 0], [0, 1]]])


def nats(lead):
    """Cross-entropy of the true class when its logit leads by so much: log(1 + exp(−lead))."""
    return math.log1p(math.exp(-lead))


def test_contributions_are_those_worked_out_by_hand(panel, cells):
    found = contributions(panel, cells, HELD_OUT, background_rows=BACKGROUND)
    # Leads of the true class with all genes: 2, 2, 1, 0. With A at 1/2: 1, 1, 1 − 1, 0 − 1.
    # With B at 1/4: 2 − 1/4, 2 − 1/4, 1/4, 1/4.
    x_a, y_a = nats(1) - nats(2), (nats(0) + nats(-1) - nats(1) - nats(0)) / 2
    x_b, y_b = nats(1.75) - nats(2), (2 * nats(0.25) - nats(1) - nats(0)) / 2
    expected = pd.DataFrame(
        [[x_a, y_a], [x_b, y_b], [0, 0]],
        index=pd.Index(["A", "B", "C"], name="gene"),
        columns=pd.Index(["x", "y"], name="class"),
    )
    pd.testing.assert_frame_equal(found.by_class["type"], expected, rtol=1e-6)
    np.testing.assert_allclose(
        found.loss_without["type"], [(x_a + y_a) / 2, (x_b + y_b) / 2, 0], rtol=1e-6
    )


def test_gene_that_the_network_does_not_read_contributes_exactly_0(panel, cells):
    found = contributions(panel, cells, HELD_OUT, background_rows=BACKGROUND)
    assert found.loss_without.loc["C", "type"] == 0.0
    assert (found.by_class["type"].loc["C"] == 0.0).all()


def test_negative_contribution_means_better_without_the_gene(cells):
    liar = panel_of(["A"], [SAY], [[1]], [[[-2], [0]]])
    found = contributions(liar, cells, HELD_OUT, background_rows=BACKGROUND)
    assert found.by_class["type"].loc["A", "x"] == pytest.approx(nats(-1) - nats(-2))
    assert found.by_class["type"].loc["A", "x"] < 0


def test_number_is_scored_by_its_squared_error_in_standard_deviations():
    # Input log1p: A is 0 or log 4. The age is 30 + 10·(input of A)/log 4, exactly as predicted.
    task = Task("age", "continuous", mean=30.0, sd=10.0)
    panel = panel_of(["A"], [task], [[1 / math.log(4)]], [[[1.0]]], transform="log1p")
    obs = {"age": [40.0, 30.0, 45.0, np.nan, 40.0, 30.0]}
    kinds = {"age": "continuous"}
    cells = collection([[3], [0], [3], [3], [3], [0]], obs, ["A"], label_kinds=kinds)
    found = contributions(panel, cells, [0, 1, 2, 3], background_rows=[4, 5])
    # Without A every prediction is 0.5: errors 0.5, −0.5, 1 instead of 0, 0, 0.5.
    expected = (0.25 + 0.25 + 1.0 - 0.25) / 3
    assert found.loss_without.loc["A", "age"] == pytest.approx(expected, rel=1e-6)
    assert found.by_class == {}


def test_label_mean_weighs_classes_as_training_did():
    task = Task("type", "categorical", ("x", "y"), class_weights=(3.0, 0.5))
    panel = panel_of(["A", "B", "C"], [task], [[1, 0, 0], [0, 1, 0]], [[[2, 0], [0, 1]]])
    cells = collection(COUNTS, {"type": ["x", "x", "x", *TYPES[3:]]}, ["A", "B", "C"])
    found = contributions(panel, cells, HELD_OUT, background_rows=BACKGROUND)
    batch = cells.batch(HELD_OUT)
    x = transformed(batch, "binary").dense()
    means = torch.tensor([0.5, 0.25, 1.0])
    network = panel.network

    @torch.no_grad()
    def loss(inputs):
        output = network.heads[0](network.trunk(network.first(inputs)))
        return float(task_loss(task, output, batch.labels["type"]))

    for gene in range(3):
        without = x.clone()
        without[:, gene] = means[gene]
        rise = loss(without) - loss(x)
        assert found.loss_without.iloc[gene, 0] == pytest.approx(rise, abs=1e-6)


def test_unlabelled_cells_count_nowhere_and_a_class_without_cells_is_nan(panel):
    types = ["x", None, "x", None, *TYPES[4:]]
    found = contributions(
        panel, collection(COUNTS, {"type": types}, ["A", "B", "C"]), HELD_OUT,
        background_rows=BACKGROUND,
    )  # fmt: skip
    assert found.by_class["type"]["y"].isna().all()
    np.testing.assert_array_equal(found.loss_without["type"], found.by_class["type"]["x"])


def test_background_cells_need_no_label(panel, cells):
    unlabelled = collection(COUNTS, {"type": [*TYPES[:4], *[None] * 4]}, ["A", "B", "C"])
    one, two = (
        contributions(panel, c, HELD_OUT, background_rows=BACKGROUND) for c in (cells, unlabelled)
    )
    pd.testing.assert_frame_equal(one.loss_without, two.loss_without)


# -- a trained panel -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adata():
    adata = datasets.simulate(300, 40, 3, 5, seed=4)
    adata.obs["age"] = np.log1p(adata.X[:, :5].sum(axis=1)).A1 * 10 + 30
    return adata


@pytest.fixture(scope="module")
def trained(adata):
    return YOTO(adata, ["cell_type", "age"], 8, seed=2).train(30, batch_size=64, progress=False)


def test_planted_marker_contributes_to_its_class(adata, trained):
    found = contributions(
        trained.panel, trained.cells, trained.split.test, background_rows=trained.split.train
    )
    table = found.by_class["cell_type"]
    assert table.index.tolist() == trained.genes
    for gene, kind in adata.var["marker_of"].dropna().items():
        if gene in table.index:
            assert table.loc[gene].idxmax() == kind
    assert (found.loss_without["cell_type"] > 0).any()


def test_equals_setting_the_input_by_hand_in_any_blocks(trained, monkeypatch):
    test, train = trained.split.test, trained.split.train
    network, view = trained.panel.network, trained.cells.with_genes(trained.genes, 1.0)
    x = transformed(view.batch(test), network.transform).dense()
    means = transformed(view.batch(train), network.transform).dense().double().mean(0).float()
    batch = trained.cells.batch(test)
    expected = []
    with torch.no_grad():
        for gene in (None, *range(8)):
            without = x.clone()
            if gene is not None:
                without[:, gene] = means[gene]
            expected.append(
                [
                    float(task_loss(task, output, batch.labels[task.name]))
                    for task, output in zip(network.tasks, network.outputs(without), strict=True)
                ]
            )
    expected = np.array(expected[1:]) - expected[0]
    for block in (9, 4096):
        # The module: in the package its name means the function.
        monkeypatch.setattr("kernomics.data.row_numbers.CELLS_AT_A_TIME", block)
        found = contributions(trained.panel, trained.cells, test, background_rows=train)
        assert list(found.loss_without) == ["cell_type", "age"]
        np.testing.assert_allclose(found.loss_without, expected, atol=1e-5)


def test_cells_on_disk_and_genes_in_another_order_give_the_same(adata, trained, tmp_path):
    adata[:, ::-1].copy().write_h5ad(tmp_path / "cells.h5ad")
    stored = CellCollection.from_anndata(tmp_path / "cells.h5ad", labels_key=["cell_type", "age"])
    parts = trained.split.test, trained.split.train
    one, two = (
        contributions(trained.panel, c, parts[0], background_rows=parts[1])
        for c in (trained.cells, stored)
    )
    pd.testing.assert_frame_equal(one.loss_without, two.loss_without)
    pd.testing.assert_frame_equal(one.by_class["cell_type"], two.by_class["cell_type"])


def test_library_sizes_are_used_where_the_network_needs_them():
    # 1 and 3 of 10⁴ counts per cell: the input is log 2 and log 4, without the gene their mean.
    task = Task("age", "continuous")
    panel = panel_of(["A"], [task], [[1.0]], [[[1.0]]], transform="lognorm")
    obs = {"age": [math.log(2), math.log(4)], "total": [1e4, 1e4]}
    cells = collection([[1], [3]], obs, ["A"], library_key="total")
    found = contributions(panel, cells, [0, 1], background_rows=[0, 1])
    assert found.loss_without.loc["A", "age"] == pytest.approx((math.log(2) / 2) ** 2, rel=1e-5)


# -- what is refused -------------------------------------------------------------------------------


def test_cells_that_the_panel_cannot_be_measured_on_are_refused(panel, cells):
    def ask(cells, rows=HELD_OUT, background=BACKGROUND):
        return contributions(panel, cells, rows, background_rows=background)

    with pytest.raises(DataError, match=r"none of the panel's labels .'type'.*; they have .'kind'"):
        ask(collection(COUNTS, {"kind": TYPES}, ["A", "B", "C"]))
    with pytest.raises(DataError, match=r"1 of the panel's 3 genes is missing from the data: 'C'"):
        ask(collection([row[:2] for row in COUNTS], {"type": TYPES}, ["A", "B"]))
    with pytest.raises(
        DataError, match="none of the 4 cells of rows has a label known to the panel"
    ):
        ask(collection(COUNTS, {"type": [*[None] * 4, *TYPES[4:]]}, ["A", "B", "C"]))
    with pytest.raises(DataError, match="'type' is continuous in the cells and categorical in the"):
        ask(collection(COUNTS, {"type": np.linspace(0, 1, 8)}, ["A", "B", "C"]))
    with pytest.raises(DataError, match="background_rows names no cell"):
        ask(cells, background=[])
    with pytest.raises(DataError, match="rows names no cell"):
        ask(cells, rows=[])


def test_classes_that_the_panel_does_not_know_are_left_out_with_a_warning(panel, cells):
    other = collection(COUNTS, {"type": [*TYPES[:3], "z", *TYPES[4:]]}, ["A", "B", "C"])
    with pytest.warns(UserWarning, match="1 of 4 labelled cells have classes unknown to the panel"):
        found = contributions(panel, other, HELD_OUT, background_rows=BACKGROUND)
    same = contributions(panel, cells, [0, 1, 2], background_rows=BACKGROUND)
    np.testing.assert_allclose(found.loss_without, same.loss_without)
