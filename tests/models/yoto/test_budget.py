"""Panels within a budget."""

from itertools import combinations

import numpy as np
import pytest
import torch

from kernomics.data import CellCollection
from kernomics.errors import ConfigError, DataError
from kernomics.models import YOTO
from kernomics.models.yoto.budget import ROUNDING, costs_of_column, make_budget, read_costs

GENES = np.array(["A", "B", "C", "D", "E"], object)


def budget(costs, limit, k=2, forced=(), never=()):
    """Make the budget of genes A to E, or of as many as there are costs in a list."""
    genes = GENES
    if not isinstance(costs, dict):
        genes = np.array([f"g{i}" for i in range(len(costs))], object)
        costs = dict(zip(genes, costs, strict=True))
    forced, never = np.array(forced, np.int64), np.array(never, np.int64)
    return make_budget(costs, limit, genes, forced=forced, forbidden=never, n_genes=k)


def floats(*values):
    return np.array(values, np.float32)


# -- the price -------------------------------------------------------------------------------------


# Scores 4, 3, 2, 1, 0. With costs 10, 1, 1, 1, 0, of which the dearest counts as 1, gene 0 leaves
# for gene 2 where 4 − λ = 2 − 0.1 λ.
@pytest.mark.parametrize(
    ("costs", "limit", "price", "panel"),
    [
        ([10, 1, 1, 1, 0], 11, 0.0, [0, 1]),
        ([10, 1, 1, 1, 0], 10.9, 2 / 0.9, [1, 2]),
        ([10, 1, 1, 1, 0], 1, 20, [1, 4]),  # gene 2 for gene 4 where 2 − 0.1 λ = 0
        ([0, 0, 0, 0, 0], 0, 0.0, [0, 1]),
        ([1, 2, 3, 4, 5], 3, 0.0, [0, 1]),
        ([5, 4, 3, 2, 1], 3, 5.0, [3, 4]),
    ],
)
def test_smallest_price_within_the_budget(costs, limit, price, panel):
    scores = floats(4, 3, 2, 1, 0)
    found = budget(costs, limit)
    assert found.price(scores) == pytest.approx(price, rel=1e-5, abs=1e-5)
    assert found.best(scores, found.price(scores)).tolist() == panel


def test_total_of_the_best_never_rises_with_the_price():
    rng = np.random.default_rng(0)
    for k in (5, 17, 38):
        scores = rng.normal(size=40).astype(np.float32)
        costs = rng.choice([0.1, 0.3, 1, 1, 2.5, 9], 40) * rng.uniform(1, 2, 40)
        found = budget(costs, costs.sum(), k)
        totals = [found.total(found.best(scores, price)) for price in np.linspace(0, 30, 200)]
        assert (np.diff(totals) <= 1e-9).all()
        assert totals[-1] < totals[0]


def test_panel_at_the_price_is_the_best_of_all_that_cost_no_more():
    rng = np.random.default_rng(1)
    for _ in range(20):
        scores, costs = rng.normal(size=9).astype(np.float32), rng.integers(0, 9, 9).astype(float)
        found = budget(costs, np.sort(costs)[:4].sum() + 4, k=4)
        panel = found.best(scores, found.price(scores))
        total = found.total(panel)
        assert total <= found.limit
        others = [c for c in map(list, combinations(range(9), 4)) if costs[c].sum() <= total]
        assert scores[panel].sum() >= max(scores[c].sum() for c in others) - 1e-4


@pytest.mark.parametrize("scores", [np.zeros(50), np.full(50, -7.0), np.linspace(-1e4, 1e4, 50)])
@pytest.mark.parametrize("smallest", [1e-9, 0.1, 1.0])
def test_budget_of_the_cheapest_panel_is_met_whatever_the_scores(scores, smallest):
    costs = np.random.default_rng(2).uniform(smallest, 1, 50)
    costs[:3] = smallest
    found = budget(costs, float(np.sort(costs)[:8].sum()), k=8)
    given = scores.astype(np.float32)
    assert found.total(found.best(given, found.price(given))) <= found.limit * (1 + ROUNDING)


def test_sums_of_decimal_costs_fit_in_their_own_budget():
    assert budget([0.1, 0.2, 0.3], 0.3).price(floats(2, 1, 0)) == 0


def test_forced_genes_are_paid_from_the_budget_and_the_others_get_the_rest():
    found = budget([5, 5, 1, 1, 9], 11, k=3, forced=[0], never=[3])
    scores = floats(0, 1, 2, 9, 5)
    assert found.best(scores, 0.0).tolist() == [0, 2, 4]  # 15
    assert found.best(scores, found.price(scores)).tolist() == [0, 1, 2]  # 11
    with pytest.raises(ConfigError, match="cheapest 3 usable genes cost 11, including the 1"):
        budget([5, 5, 1, 1, 9], 10, k=3, forced=[0], never=[3])


# -- what is refused -------------------------------------------------------------------------------

COSTS = {"A": 1, "B": 2, "C": 3, "D": 4, "E": 5}


@pytest.mark.parametrize(
    ("costs", "limit", "error", "message"),
    [
        (COSTS, 2.9, ConfigError, "budget is 2.9, but the cheapest 2 usable genes cost 3; raise"),
        (COSTS, -1, ConfigError, "budget is -1: it must be a number of 0 or more"),
        (COSTS, float("nan"), ConfigError, "budget is nan"),
        (COSTS, "9", ConfigError, "budget is '9'"),
        ({"A": 1, "b": 1}, 9, DataError, "4 of 5 usable genes have no cost, first 'B'"),
        ({**COSTS, "C": -3}, 9, DataError, "1 of 5 usable genes have a cost that is below 0 or not "
         "finite, first 'C' with -3"),
        ({**COSTS, "E": np.inf}, 9, DataError, "first 'E' with inf"),
        ({**COSTS, "E": None}, 9, DataError, "the cost of gene 'E' is None, which is not a number"),
        ({**COSTS, "E": 1e-13}, 9, DataError, "costs go from 1e-13 to 4, a range too wide"),
    ],
)  # fmt: skip
def test_costs_and_budgets_that_cannot_be_used_are_named(costs, limit, error, message):
    with pytest.raises(error) as caught:
        budget(costs, limit)
    assert message in str(caught.value)


def test_genes_never_usable_need_no_cost():
    costs = {name: cost for name, cost in COSTS.items() if name != "B"}
    found = budget(costs, 4, never=[1])
    assert found.best(floats(0, 9, 1, 0, 0), 0.0).tolist() == [0, 2]


def test_costs_are_read_from_files_and_columns(tmp_path, adata):
    (tmp_path / "costs.csv").write_text("gene,cost\nNA,1.5\nB,2\nC,\n")
    assert read_costs(tmp_path / "costs.csv") == pytest.approx(
        {"NA": 1.5, "B": 2, "C": np.nan}, nan_ok=True
    )
    adata.var["price"] = np.arange(120) / 4
    adata.write_h5ad(tmp_path / "cells.h5ad")
    expected = {f"gene_{i}": i / 4 for i in range(120)}
    assert costs_of_column(adata, "price", {}) == expected
    assert costs_of_column(tmp_path / "cells.h5ad", "price", {}) == expected
    with pytest.raises(DataError, match="'prise', and var has no such column; closest: 'price'"):
        costs_of_column(adata, "prise", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,cost\nA,1\n", "has no column 'gene'; it needs gene and cost, and has 'name'"),
        ("gene,cost\nA,1\nB,1\nA,2\n", "names 1 genes more than once, first 'A'"),
        ("gene,cost\nA,dear\n", "the cost of gene 'A' is 'dear', which is not a number"),
    ],
)  # fmt: skip
def test_files_that_hold_no_costs_are_named(tmp_path, text, message):
    (tmp_path / "costs.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_costs(tmp_path / "costs.csv")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 3}, "gene_costs is missing: gene_costs and budget are given together"),
        ({"gene_costs": {"gene_1": 1}}, "budget is missing"),
        (
            {"gene_costs": "price", "budget": 3},
            "'price', a var column, but a CellCol",
        ),
    ],
)
def test_costs_and_budget_come_together(adata, options, message):
    cells = CellCollection.from_anndata(adata, labels_key="cell_type")
    with pytest.raises(ConfigError, match=message):
        YOTO(cells, n_genes=4, **options)


# -- training --------------------------------------------------------------------------------------


@pytest.fixture
def costly(adata):
    """Half of each type's markers cost ten times the other genes."""
    costs = np.ones(120)
    for _, genes in adata.var.groupby("marker_of", observed=True):
        costs[adata.var_names.get_indexer(genes.index[::2])] = 10
    adata.var["price"] = costs
    return adata


def total_of(model, adata):
    return adata.var["price"][model.genes].sum()


def test_trained_panel_is_within_its_budget_and_takes_the_cheap_markers(costly, train_quickly):
    free = train_quickly(costly, max_epochs=40)
    budget = total_of(free, costly) - 9
    model = train_quickly(costly, gene_costs="price", budget=budget, max_epochs=40)
    assert len(model.genes) == 8
    assert total_of(model, costly) <= budget
    assert model.panel.info["costs"] == {"total": total_of(model, costly), "budget": budget}
    assert costly.var["marker_of"][model.genes].notna().sum() >= 5  # 2.1 of 8 by chance
    ranking = model.ranking["score"].to_numpy()
    assert ranking[:8].min() >= ranking[8:].max()


def test_generous_budget_changes_nothing(costly, train_quickly):
    free = train_quickly(costly, max_epochs=6)
    model = train_quickly(costly, gene_costs="price", budget=1e6, max_epochs=6)
    assert model.genes == free.genes
    assert model.ranking.equals(free.ranking)


def test_panel_of_the_cheapest_genes_is_reached(costly, train_quickly):
    costly.var["price"] = np.where(np.arange(120) % 15 == 0, 1.0, 50.0)
    costly.var["price"] += np.arange(120) / 1000
    cheapest = costly.var["price"].nsmallest(8)
    model = train_quickly(
        costly, gene_costs=costly.var["price"].to_dict(), budget=cheapest.sum(), max_epochs=4
    )
    assert sorted(model.genes) == sorted(cheapest.index)


@pytest.mark.filterwarnings("ignore::kernomics.models.yoto.diagnostics.TrainingWarning")
def test_resumed_training_has_the_same_price(costly, tmp_path):
    # 12 steps an epoch: the price set at step 10, not that of the scores, is in force in between.
    settings = {"max_epochs": 4, "batch_size": 24, "progress": False, "validate_every": 4}
    settings |= {"checkpoint_every_epochs": 1}

    def model():
        return YOTO(costly, "cell_type", 8, gene_costs="price", budget=26)

    class Stop(Exception):
        pass

    stopped, steps = model(), []
    inner = stopped._optimizer

    def stopping(module):
        optimizer = inner(module)
        optimizer.register_step_pre_hook(lambda *_: steps.append(len(steps)))
        optimizer.register_step_post_hook(lambda *_: stop())
        return optimizer

    def stop():
        if len(steps) == 30:
            raise Stop

    stopped._optimizer = stopping
    with pytest.raises(Stop):
        stopped.train(run_dir=tmp_path, **settings)
    assert any((tmp_path / "checkpoints").iterdir())
    resumed = model().train(run_dir=tmp_path, resume=True, **settings)
    straight = model().train(**settings)
    assert resumed.genes == straight.genes
    assert resumed.ranking.equals(straight.ranking)
    assert resumed.history.without_timings() == straight.history.without_timings()
    saved = straight.module.state_dict()
    assert "selector.penalty" in saved
    for name, tensor in resumed.module.state_dict().items():
        assert torch.equal(tensor, saved[name]), name


def test_fixed_panel_that_the_network_learns_is_the_one_that_is_kept(costly, train_quickly):
    # Fixed after 12 of 30 steps, between two looks at the price.
    costly.var["price"] = np.random.default_rng(0).lognormal(size=120)
    model = train_quickly(costly, gene_costs="price", budget=3.0, max_epochs=6, fix_panel_at=0.4)
    learnt = model.module.fixed_panel.numpy()
    assert set(model.cells.genes[learnt]) == set(model.genes)
    assert model.history[-1]["step"] == 30
    assert model.module.schedule.selection_steps(30) == 12


@pytest.mark.filterwarnings("ignore::kernomics.models.yoto.diagnostics.TrainingWarning")
def test_best_weights_of_early_stopping_are_within_the_budget(costly):
    model = YOTO(costly, "cell_type", 8, gene_costs="price", budget=26)
    model.train(max_epochs=30, patience=2, validate_every=1, progress=False)
    assert model.history.stopped_early
    assert total_of(model, costly) <= 26


def test_price_is_constant_to_the_gradient(costly):
    module = YOTO(costly, "cell_type", 8, gene_costs="price", budget=26)._module()
    module.selector(8, noise=0.0).mask[3].backward()
    assert module.selector.scores.grad is not None
    assert not module.selector.penalty.requires_grad


def test_options_give_the_same_selection_on_another_seed(costly, train_quickly):
    start = costly.var_names[:3].tolist()
    model = YOTO(
        costly, "cell_type", 8, gene_costs="price", budget=40, exclude_patterns="gene_9",
        extend=start, forced_genes="gene_50", task_weights={"cell_type": 2.0},
    )  # fmt: skip
    again = YOTO(model.cells, split=model.split, seed=5, config=model.config, **model.options)
    assert again.constraints.description == model.constraints.description
    assert np.array_equal(again.bounds.forced, model.bounds.forced)
    assert np.array_equal(again.bounds.forbidden, model.bounds.forbidden)
    assert again.tasks == model.tasks
    assert again.options == model.options


def test_costs_as_a_series_or_a_mapping_are_the_same(costly):
    series = costly.var["price"]
    one, other = (
        YOTO(costly, "cell_type", 8, gene_costs=costs, budget=26).constraints.description
        for costs in (series, series.to_dict())
    )
    assert one == other
