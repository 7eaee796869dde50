import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from kernomics import datasets
from kernomics.data import CellCollection, Cells, Labels, row_numbers
from kernomics.errors import DataError
from kernomics.models.tasks import Task, read_outputs, task_loss
from kernomics.models.yoto.module import YOTOModule
from kernomics.models.yoto.network import input_means, transformed
from kernomics.models.yoto.schedule import Schedule

CLASSES = Task("type", "categorical", ("a", "b", "c"))
NUMBER = Task("age", "continuous", mean=50.0, sd=10.0)
NAN = math.nan


def matrix(n_cells: int = 40, n_genes: int = 25, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(1.0, (n_cells, n_genes)).astype(np.float32)


def cells_of(counts: np.ndarray, library: np.ndarray | None = None) -> Cells:
    n = len(counts)
    labels = {
        "type": (np.arange(n) % 4 - 1).astype(np.int64),
        "age": np.where(np.arange(n) % 3 == 0, NAN, 40.0 + np.arange(n)).astype(np.float32),
    }
    return Cells.from_scipy(sparse.csr_matrix(counts), library=library, labels=labels)


def module_of(transform: str = "log1p", *, k: int = 4, start: int | None = None) -> YOTOModule:
    torch.manual_seed(0)
    module = YOTOModule(
        25,
        [CLASSES, NUMBER],
        (8, 6),
        transform,
        Schedule(k, start or k, 0.5, (1.0, 0.05), (0.3, 0.0), 0.7),
        dropout=0.2,
        seed=5,
        forced=[2],
        forbidden=[7],
    )
    with torch.no_grad():
        module.selector.scores.normal_()
        module.gene_means.uniform_()
    return module


@pytest.mark.parametrize("transform", ["log1p", "binary", "lognorm"])
def test_small_network_on_the_panels_columns_equals_the_large_one(transform):
    module, cells = module_of(transform).eval(), cells_of(matrix())
    chosen = module.selector(4).indices.flip(0)
    network = module.panel_network(chosen)
    for small, large in zip(network(cells.select_genes(chosen)), module(cells), strict=True):
        torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("transform", ["log1p", "binary"])
def test_counts_of_other_genes_change_no_bit(transform, training):
    module = module_of(transform, start=10).train(training)
    module.on_step(3, 20)
    counts = matrix()

    def outputs(counts: np.ndarray) -> list[torch.Tensor]:
        module.draws.begin(1, torch.device("cpu"))  # dropout
        return module(cells_of(counts))

    before = outputs(counts)
    panel = module.first.touched
    assert len(panel) == (module.subset_size if training else 4)
    others = np.setdiff1d(np.arange(25), panel)
    changed = counts.copy()
    changed[:, others] = matrix(seed=1)[:, others] * 7
    for one, other in zip(before, outputs(changed), strict=True):
        assert torch.equal(one, other)


def test_lognorm_sees_other_genes_through_the_library_size_alone():
    module = module_of("lognorm").eval()
    counts = matrix()
    library = counts.sum(axis=1)
    others = np.setdiff1d(np.arange(25), module.selector(4).indices)
    changed = counts.copy()
    changed[:, others] *= 3
    before = module(cells_of(counts))[0]
    assert not torch.equal(before, module(cells_of(changed))[0])
    assert torch.equal(before, module(cells_of(changed, library))[0])


def test_transforms_have_their_formulas_and_keep_zeros():
    counts = np.array([[0, 1, 3], [2, 0, 0]], dtype=np.float32)
    cells = cells_of(counts, library=np.array([100.0, 0.0]))
    expected = {
        "log1p": np.log1p(counts),
        "binary": (counts > 0).astype(np.float32),
        "lognorm": np.log1p(counts * [[100.0], [10_000.0]]),
    }
    for transform, values in expected.items():
        torch.testing.assert_close(
            transformed(cells, transform).dense(), torch.tensor(values, dtype=torch.float32)
        )


@pytest.mark.parametrize("transform", ["log1p", "binary", "lognorm"])
def test_input_means_are_those_of_the_dense_input_over_the_cells_asked_for(transform, monkeypatch):
    adata = datasets.simulate(60, 25, 3, 2, seed=1)
    collection = CellCollection.from_anndata(adata, labels_key="cell_type")
    rows = np.arange(5, 45)
    expected = transformed(collection.batch(rows), transform).dense().double().mean(dim=0)
    for at_a_time in (7, 8192):
        monkeypatch.setattr(row_numbers, "CELLS_AT_A_TIME", at_a_time)
        found = input_means(collection, rows, transform)
        # One rounding to float32 of a sum made in float64.
        torch.testing.assert_close(found, expected.float(), rtol=1.2e-7, atol=0)


# -- losses ----------------------------------------------------------------------------------------


def test_classification_loss_is_the_mean_over_labelled_cells():
    output = torch.tensor([[0.0, 0, 0], [1, 2, 3], [5, 0, 0]])
    loss = task_loss(CLASSES, output, torch.tensor([1, -1, 0]))
    expected = (math.log(3) + math.log(1 + 2 * math.exp(-5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_class_weights_weigh_cells_as_in_a_weighted_mean():
    task = Task("type", "categorical", ("a", "b"), class_weights=(3.0, 1.0))
    output = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [9.0, 9.0]])
    loss = task_loss(task, output, torch.tensor([0, 0, -1]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-5)
    loss = task_loss(task, output, torch.tensor([0, 1, -1]))
    assert loss.item() == pytest.approx((3 * math.log(2) + math.log(4 / 3)) / 4, rel=1e-5)


def test_regression_loss_is_that_of_standardised_numbers():
    loss = task_loss(NUMBER, torch.tensor([[0.0], [1.0], [7.0]]), torch.tensor([60.0, 40.0, NAN]))
    assert loss.item() == pytest.approx((1 + 4) / 2)


def test_numbers_are_read_in_the_labels_unit_and_classes_as_probabilities():
    assert read_outputs(NUMBER, torch.tensor([[0.0], [-1.5]])).tolist() == [50.0, 35.0]
    probabilities = read_outputs(CLASSES, torch.tensor([[0.0, math.log(2), 0.0]]))
    assert probabilities == pytest.approx(np.array([[0.25, 0.5, 0.25]]))


@pytest.mark.parametrize(
    ("task", "target"),
    [
        (CLASSES, torch.tensor([-1, -1])),
        (Task("type", "categorical", ("a", "b", "c"), 1.0, (1.0, 0.0, 2.0)), torch.tensor([-1, 1])),
        (NUMBER, torch.tensor([NAN, NAN])),
    ],
)
def test_task_without_labelled_cells_has_loss_and_gradient_zero(task, target):
    output = torch.randn(2, task.n_out, requires_grad=True)
    loss = task_loss(task, output, target)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(output.grad, torch.zeros_like(output))


def test_loss_is_the_weighted_mean_over_tasks():
    module = module_of().eval()
    module.tasks = (Task("type", "categorical", ("a", "b", "c"), weight=3.0), NUMBER)
    losses = module.task_losses(cells_of(matrix()))
    assert losses["loss"].item() == pytest.approx(
        ((3 * losses["loss/type"] + losses["loss/age"]) / 2).item()
    )


def test_training_gives_finite_gradients_to_scores_panel_rows_and_network():
    module = module_of(start=6).train()
    losses = module.training_loss(cells_of(matrix()))
    losses["loss"].backward()
    found = [p.grad.to_dense() for p in module.parameters()]
    assert all(torch.isfinite(gradient).all() for gradient in found)
    rows = module.first.weight.grad.to_dense().ne(0).any(dim=1).nonzero().squeeze(1)
    assert rows.tolist() == module.first.touched.tolist()
    assert module.selector.scores.grad[[2, 7]].tolist() == [0.0, 0.0]
    assert losses["subset_size"].item() == len(module.first.touched) == 6


# -- what a task is --------------------------------------------------------------------------------


def test_task_statistics_come_from_the_training_cells_alone():
    train = np.array([0, 1, 2, 3])
    values = np.array([1, 3, NAN, 5, 1000], dtype=np.float32)
    labels = Labels("age", "continuous", values)
    task = Task.from_labels(labels, train, weight=2.0, class_weights="balanced")
    assert (task.mean, task.sd, task.weight) == (3.0, pytest.approx(math.sqrt(8 / 3)), 2.0)
    codes = np.array([0, 0, 0, 1, 2, -1])
    labels = Labels("type", "categorical", codes, ("a", "b", "c"))
    task = Task.from_labels(labels, train, weight=1.0, class_weights="balanced")
    assert task.class_weights == pytest.approx((4 / (2 * 3), 4 / (2 * 1), 0.0))
    task = Task.from_labels(labels, train, weight=1.0, class_weights="sqrt")
    # 3 cells of a and 1 of b: the weights are as 1/√3 to 1, and 3 w_a + w_b = 4.
    assert task.class_weights == pytest.approx((4 / (3 + 3**0.5), 4 / (3**0.5 + 1), 0.0))
    assert Task.from_labels(labels, train, weight=1.0, class_weights=None).class_weights == ()


def test_label_with_one_class_among_the_training_cells_is_refused():
    labels = Labels("type", "categorical", np.array([0, 0, 1]), ("a", "b"))
    with pytest.raises(DataError, match=r"among the training cells, label 'type' has one value"):
        Task.from_labels(labels, np.array([0, 1]), weight=1.0, class_weights="balanced")


# -- schedule --------------------------------------------------------------------------------------


@given(
    n_genes=st.integers(1, 200),
    more=st.integers(0, 3000),
    total=st.integers(1, 300),
    until=st.floats(0, 1),
)
@settings(deadline=None)
def test_schedule_goes_from_start_to_end_and_never_back(n_genes, more, total, until):
    schedule = Schedule(n_genes, n_genes + more, until, (2.0, 0.1), (0.5, 0.1), until)
    sizes, taus, noises = zip(*(schedule.at(step, total) for step in range(total)), strict=True)
    for values in (sizes, taus, noises):
        assert list(values) == sorted(values, reverse=True)
    if total > 1:
        assert (sizes[-1], taus[-1]) == (n_genes, 0.1)
        assert noises[-1] == pytest.approx(0.1)
        assert taus[0] == 2.0
        if until > 0:
            assert (sizes[0], noises[0]) == (n_genes + more, 0.5)


def test_schedule_has_its_formulas_half_way():
    schedule = Schedule(4, 64, 0.5, (1.0, 0.01), (0.8, 0.0), 1.0)
    assert schedule.at(25, 101) == (16, pytest.approx(0.01**0.25), pytest.approx(0.6))
    assert schedule.at(50, 101) == (4, pytest.approx(0.1), pytest.approx(0.4))


def test_panel_is_the_same_for_all_batches_of_a_step_and_another_in_the_next():
    module = module_of().train()
    seen = []
    for step in (0, 1):
        module.on_step(step, 1000)
        for part in (slice(0, 20), slice(20, 40)):
            module.training_loss(cells_of(matrix()[part]))
            seen.append(module.first.touched.tolist())
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert seen[0] != seen[2]
