"""The PERSIST-style baseline: gates, mask, classifier, and what they promise together."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from bench.yoto.persist import ClassifierConfig, PersistBaseline, PersistConfig
from bench.yoto.persist.classifier import LabelledCells, fit_classifier, hold_out
from bench.yoto.persist.gates import OPEN_SHIFT, GatedClassifier, Gates, _SparseLinear, eliminate
from bench.yoto.persist.mask import distinct_picks, draw_mask
from kernomics.errors import ConfigError, DataError
from kernomics.nn import Draws

QUICK = PersistConfig(
    hidden=(32, 32),
    target_genes=20,
    skip_gates_at=30,
    max_gate_trainings=3,
    gate_epochs=25,
    gate_learning_rate=0.1,
    first_penalty=3e-3,
    mask_epochs=40,
    mask_learning_rate=0.1,
    classifier=ClassifierConfig(hidden=(32, 32), max_epochs=60, patience=10),
)


@pytest.fixture(scope="module")
def marked() -> tuple[sparse.csr_matrix, np.ndarray]:
    """320 cells × 80 genes; genes 3c, 3c + 1, 3c + 2 mark class c of four, the rest is noise."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(4), 80)
    rate = np.full((codes.size, 80), 0.4)
    for c in range(4):
        rate[np.ix_(codes == c, range(3 * c, 3 * c + 3))] = 5.0
    return sparse.csr_matrix(rng.poisson(rate)), codes


@pytest.fixture(scope="module")
def trained(marked: Any) -> Any:
    return PersistBaseline(QUICK).train(*marked, 6, seed=0)


# ---- the whole ----------------------------------------------------------------------------------


def test_the_planted_markers_are_found_and_predict(marked: Any, trained: Any) -> None:
    counts, codes = marked
    assert trained.genes.dtype == np.int64
    assert len(set(trained.genes.tolist())) == 6
    assert set(trained.genes.tolist()) <= set(range(12))
    assert set((trained.genes // 3).tolist()) >= {0, 1, 2}  # three classes tell the fourth
    probability = trained.predict(counts)
    assert probability.shape == (320, 4)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)
    assert (probability.argmax(1) == codes).mean() > 0.95


def test_the_report_names_every_training(trained: Any) -> None:
    gates = [name for name in trained.losses if name.startswith("gates/")]
    assert 1 <= len(gates) <= QUICK.max_gate_trainings
    assert trained.n_trainings == len(gates) + 2
    assert set(trained.losses) == {*gates, "mask", "classifier", "classifier/held_out"}
    assert len(trained.info["penalties"]) == len(trained.info["genes_left"]) == len(gates)
    assert all(trained.info["epochs"][name] == len(v) for name, v in trained.losses.items())
    assert trained.losses["classifier"][-1] < trained.losses["classifier"][0] / 2
    assert 12 <= trained.info["candidates"] <= 30
    assert set(trained.info["seconds"]) == {"gates", "mask", "classifier"}
    json.dumps(trained.info)


def test_the_same_seed_gives_the_same_panel_and_bits_and_leaves_torch_alone(marked: Any) -> None:
    brief = PersistBaseline(dataclasses.replace(QUICK, gate_epochs=3, mask_epochs=3))
    state = torch.random.get_rng_state()
    first = brief.train(*marked, 5, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(12)
    again = brief.train(*marked, 5, seed=4)
    np.testing.assert_array_equal(first.genes, again.genes)
    np.testing.assert_array_equal(first.predict(marked[0]), again.predict(marked[0]))
    np.testing.assert_array_equal(first.genes, brief.select(*marked, 5, seed=4))
    other = brief.train(*marked, 5, seed=-5)
    assert not np.array_equal(other.predict(marked[0]), first.predict(marked[0]))


def test_unlabelled_cells_play_no_part(marked: Any) -> None:
    counts, codes = marked
    brief = PersistBaseline(dataclasses.replace(QUICK, gate_epochs=2, mask_epochs=2))
    kept = np.arange(codes.size) % 3 > 0
    some = np.where(kept, codes, -1)
    a = brief.train(counts, some, 4, seed=0)
    b = brief.train(counts[kept], codes[kept], 4, seed=0)
    np.testing.assert_array_equal(a.genes, b.genes)
    np.testing.assert_array_equal(a.predict(counts), b.predict(counts))


@pytest.mark.parametrize("k", [1, 12])
def test_panels_of_one_gene_and_of_every_gene(marked: Any, k: int) -> None:
    counts, codes = marked
    brief = PersistBaseline(dataclasses.replace(QUICK, mask_epochs=3))
    trained = brief.train(counts[:, :12], codes, k, seed=0)
    assert len(set(trained.genes.tolist())) == k
    assert trained.losses.keys() == {"mask", "classifier", "classifier/held_out"}  # no gates
    assert trained.n_trainings == 2
    assert trained.predict(counts[:0, :12]).shape == (0, 4)


def test_two_million_genes_need_no_dense_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    n_genes = 2_000_000
    columns = np.sort(rng.choice(n_genes, 400, replace=False))
    codes = np.repeat([0, 1], 10)
    rate = np.full((20, 400), 0.5)
    rate[:10, 0] = rate[10:, 1] = 20.0
    few = sparse.csr_matrix(rng.poisson(rate))
    counts = sparse.csr_matrix((few.data, columns[few.indices], few.indptr), (20, n_genes))

    widest = 0

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal widest
        widest = max(widest, self.shape[1])
        return original(self, *args, **kwargs)

    original = sparse.csr_matrix.toarray
    monkeypatch.setattr(sparse.csr_matrix, "toarray", watched)
    quick = dataclasses.replace(QUICK, max_gate_trainings=2, gate_epochs=10, mask_epochs=10)
    trained = PersistBaseline(quick).train(counts, codes, 2, seed=0)
    assert set(trained.genes.tolist()) <= set(columns.tolist())
    assert trained.predict(counts).shape == (20, 2)
    assert 0 < widest <= 30


def test_a_class_without_training_cells_can_be_predicted_for(marked: Any) -> None:
    counts, codes = marked
    brief = PersistBaseline(dataclasses.replace(QUICK, gate_epochs=1, mask_epochs=1))
    gap = np.where(codes == 2, 4, codes)  # no cell has code 2
    trained = brief.train(counts[:, :12], gap, 3, seed=0, n_classes=6)
    assert trained.predict(counts[:, :12]).shape == (320, 6)
    assert not np.isin(trained.predict(counts[:, :12]).argmax(1), [2, 5]).any()


@pytest.mark.parametrize(
    ("change", "k", "error", "message"),
    [
        (lambda c: c[1:], 3, DataError, "319 labels were given for 320 cells"),
        (lambda c: c * 0.5, 3, DataError, "labels must be integer class codes, found dtype float"),
        (lambda c: c * 0, 3, DataError, "found 1 among 320 labelled of 320 cells"),
        (lambda c: c * 0 - 1, 3, DataError, "found 0 among 0 labelled of 320 cells"),
        (lambda c: c, 0, ConfigError, "a panel of 0 genes was asked for, from 80 genes"),
        (lambda c: c, 81, ConfigError, "a panel of 81 genes was asked for, from 80 genes"),
    ],
)
def test_bad_input_is_named(marked: Any, change: Any, k: int, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        PersistBaseline(QUICK).train(marked[0], change(marked[1]), k, seed=0)


def test_genes_that_no_labelled_cell_has_are_not_chosen(marked: Any) -> None:
    counts, codes = marked
    few = sparse.hstack([sparse.csr_matrix((320, 5), dtype=np.int64), counts[:, :4]]).tocsr()
    brief = PersistBaseline(dataclasses.replace(QUICK, mask_epochs=1))
    assert set(brief.train(few, codes, 4, seed=0).genes.tolist()) == {5, 6, 7, 8}
    with pytest.raises(DataError, match="only 4 of 9 genes are seen in a labelled training cell"):
        brief.train(few, codes, 5, seed=0)
    with pytest.raises(ConfigError, match="n_classes is 3, but the labels go up to 3"):
        brief.train(few, codes, 4, seed=0, n_classes=3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gate_epochs": 0}, "gate_epochs is 0: it must be an integer of at least 1"),
        ({"batch_size": 1.5}, "batch_size is 1.5: it must be an integer"),
        ({"tau_end": 0.0}, "tau_end is 0.0: it must be above 0"),
        ({"tolerance": 0.5}, "tolerance is 0.5: it must be from 0 to below 0.5"),
        ({"class_weights": "equal"}, "class_weights is 'equal'; use 'balanced' or None"),
        ({"hidden": ()}, "give the width of at least one layer"),
    ],
)
def test_bad_settings_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PersistConfig(**setting)


# ---- gates --------------------------------------------------------------------------------------


def test_the_sparse_first_layer_is_a_matrix_product_with_its_gradients() -> None:
    torch.manual_seed(0)
    dense = torch.tensor([[0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.5]])
    weight = torch.randn(4, 5, requires_grad=True)
    csr = sparse.csr_matrix(dense.numpy())
    values = torch.from_numpy(csr.data).requires_grad_()
    columns, starts = (torch.from_numpy(a.astype(np.int64)) for a in (csr.indices, csr.indptr))
    delta = torch.randn(3, 5)
    output = _SparseLinear.apply(values, weight, columns, starts)
    torch.testing.assert_close(output, dense @ weight)
    output.backward(delta)
    torch.testing.assert_close(weight.grad, dense.T @ delta)
    expected = (delta @ weight.detach().T)[dense != 0]
    torch.testing.assert_close(values.grad, expected)


def test_a_gate_is_open_as_often_as_its_probability_says() -> None:
    # One gene with count e − 1 (input 1), an identity network: the output is the gate itself.
    network = GatedClassifier(1, (1,), 1, Draws())
    n = 20_000
    x = sparse.csr_matrix(np.ones((n, 1), dtype=np.float32))
    cells = LabelledCells(x, np.zeros(n, np.int64), 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.0)
        network.weight.fill_(1.0)
        network.rest[1][0].weight.fill_(1.0)
        network.logits.fill_(-1.0)
        gates = network(cells).flatten()
    # σ(−1 + (2/3) log 11) = 0.645; five standard errors of n draws.
    p = 1 / (1 + math.exp(1.0 + OPEN_SHIFT))
    assert p == pytest.approx(0.6454, abs=1e-4)
    assert abs((gates > 0).float().mean() - p) < 5 * math.sqrt(p * (1 - p) / n)
    assert float(network.expected_open().detach()) == pytest.approx(p, abs=1e-6)
    assert gates.min() == 0
    assert gates.max() == 1


def _gates(penalty: float, n_open: int, total: int = 10_000) -> Gates:
    logits = np.full(total, -9.0, dtype=np.float32)
    logits[:n_open] = np.linspace(5, 1, n_open)
    return Gates(penalty, logits, [])


@pytest.mark.parametrize("first", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("slope", [0.4, 1.0])
def test_the_penalty_search_comes_within_the_tolerance(first: float, slope: float) -> None:
    def train(penalty: float) -> Gates:
        return _gates(penalty, min(10_000, round(500 * (2e-3 / penalty) ** slope)))

    found = eliminate(train, 500, first=first, tolerance=0.2, max_trainings=6)
    assert found.hit
    assert 400 <= found.genes.size <= 600
    assert len(found.tried) <= 6
    assert found.tried[0].penalty == pytest.approx(first)


def test_a_jump_over_the_target_ends_within_the_budget_with_the_best_gates() -> None:
    def train(penalty: float) -> Gates:
        return _gates(penalty, 900 if penalty < 0.01 else 3)

    found = eliminate(train, 500, first=1e-3, tolerance=0.2, max_trainings=6)
    assert not found.hit
    assert len(found.tried) == 6
    assert found.genes.tolist() == list(range(500))
    penalties = sorted(gates.penalty for gates in found.tried)
    below, above = ([p for p in penalties if (p < 0.01) == side] for side in (True, False))
    assert above[0] / below[-1] < 2  # the bracket has closed in


# ---- mask ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "picks"),
    [
        ([[0, 9, 0], [9, 0, 0]], [1, 0]),
        ([[0, 5, 1], [0, 9, 0]], [1, 2]),  # the surer second pick keeps gene 1
        ([[5, 4, 3], [5, 4, 3], [5, 4, 3]], [0, 1, 2]),
        ([[1.0, 2.0]], [1]),
    ],
)
def test_duplicate_picks_give_way_to_the_next_best(logits: Any, picks: list[int]) -> None:
    assert distinct_picks(np.array(logits, dtype=np.float32)).tolist() == picks


def test_a_cold_mask_is_binary_and_holds_one_gene_per_pick() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([[40.0, 0.0, 0.0, 0.0], [0.0, 0.0, 40.0, 0.0]])
    mask = draw_mask(logits, 7, tau=0.01, generator=generator)
    torch.testing.assert_close(mask, torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(7, 4))
    warm = draw_mask(torch.zeros(1, 4), 5000, tau=1.0, generator=generator)
    torch.testing.assert_close(warm.sum(1), torch.ones(5000))
    # Each entry is a quarter on average, with a standard deviation below 0.5.
    assert (warm.mean(0) - 0.25).abs().max() < 5 * 0.5 / math.sqrt(5000)


# ---- classifier ---------------------------------------------------------------------------------


def test_hold_out_takes_a_share_of_every_class_and_leaves_one_cell() -> None:
    codes = np.repeat([0, 1, 2], [200, 50, 1])
    kept, aside = hold_out(codes, 0.1, np.random.default_rng(0))
    assert np.bincount(codes[aside], minlength=3).tolist()[0] in (20, 21)
    assert np.bincount(codes[aside], minlength=3)[1] in (5, 6)
    assert 2 not in codes[aside]
    assert sorted([*kept, *aside]) == list(range(251))


def test_the_classifier_keeps_its_best_weights_and_stops_early(marked: Any) -> None:
    counts, codes = marked
    shuffled = np.random.default_rng(0).permutation(codes)  # nothing to learn: it overfits
    cells = LabelledCells.from_counts(counts, shuffled, 5)
    config = ClassifierConfig(hidden=(32,), max_epochs=200, patience=5, dropout=0.0)
    fitted = fit_classifier(cells, np.arange(30), config, seed=0)
    best = int(np.argmin(fitted.held_out_losses))
    assert len(fitted.losses) == len(fitted.held_out_losses) == best + 6
    shorter = dataclasses.replace(config, max_epochs=best + 1)
    once = fit_classifier(cells, np.arange(30), shorter, seed=0)
    np.testing.assert_array_equal(fitted(counts), once(counts))
