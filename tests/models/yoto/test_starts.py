"""Several starts in one training: the best on the validation cells gives the panel."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from starts_example import TRAINING, K, assert_same, few_cells, stopped_and_resumed, trained

from kernomics.data import Split
from kernomics.errors import ConfigError
from kernomics.metrics import evaluate_genes, macro_f1, r2
from kernomics.metrics.panel_judge import predictions
from kernomics.models import YOTO, Panel, YOTOConfig
from kernomics.models.yoto.making import outputs_on
from kernomics.models.yoto.schedule import Schedule, legs_of
from kernomics.models.yoto.starts import planned
from kernomics.nn.philox import seed_of
from kernomics.train import TrainConfig, schedules

pytestmark = pytest.mark.filterwarnings(
    "ignore::kernomics.models.yoto.diagnostics.TrainingWarning"  # few steps
)


@pytest.fixture(scope="module")
def adata():
    return few_cells()


@pytest.fixture(scope="module")
def one(adata):
    return trained(adata)


@pytest.fixture(scope="module")
def three(adata):
    return trained(adata, n_starts=3, judge="both")


# -- the starts ------------------------------------------------------------------------------------


def test_one_start_is_the_training_without_starts(adata, one):
    # Nothing of starts is in its module, plan or checkpoints: the code of before runs.
    assert one.starts is None
    assert one.module.starts is None
    assert not [name for name in one.module.state_dict() if name.startswith("starts.")]
    assert "starts" not in one.panel.info
    assert one._plan == one.training
    assert_same(trained(adata, n_starts=1), one)


def test_first_start_is_the_selection_of_a_training_with_one(one, three):
    assert sorted(three.starts.panels[0]) == sorted(one.genes)
    # The first selection has 12 of 30 steps, two epochs.
    ours, theirs = (model.history.select("train").without_timings() for model in (three, one))
    assert ours[:2] == theirs[:2]
    assert ours[2] != theirs[2]


def test_starts_differ_and_the_best_on_validation_cells_is_the_panel(adata, three):
    found = three.starts
    assert len({tuple(panel) for panel in found.panels}) == 3
    assert all(len(set(panel)) == K for panel in found.panels)
    assert found.scores == pytest.approx(np.mean([found.own, found.linear], axis=0))
    assert found.chosen == int(np.argmax(found.scores))
    assert sorted(three.genes) == sorted(found.panels[found.chosen])
    fixed = three.cells.genes[three.module.fixed_panel.numpy()]
    assert set(fixed) == set(three.genes)


def test_regression_judges_many_validation_cells_as_all_panels_are_judged(adata, monkeypatch):
    monkeypatch.setattr("kernomics.models.yoto.starts.FEW", 29)
    model = trained(adata, n_starts=2)
    split, labels = model.split, model.cells.labels["cell_type"].values
    train, held_out = split.train, split.validation
    assert len(held_out) == 29
    assert not model.starts.cross_validated
    for panel, score in zip(model.starts.panels, model.starts.linear, strict=True):
        counts = adata[:, panel].X.toarray()
        expected = evaluate_genes(counts[train], labels[train], counts[held_out], labels[held_out])
        assert score == pytest.approx(expected.macro_f1)


def test_regression_is_cross_validated_where_validation_cells_are_few(adata, three):
    train, labels = three.split.train, three.cells.labels["cell_type"].values
    assert three.starts.cross_validated
    jury = three.module.starts.judge
    folds = jury._folds(train)
    assert np.bincount(folds).tolist() == [42] * 5
    for panel, score in zip(three.starts.panels, three.starts.linear, strict=True):
        counts, guess = adata[train, panel].X.toarray(), np.full(len(train), -1)
        for fold in range(5):
            rest = folds != fold
            guess[~rest] = predictions(
                "categorical", counts[rest], labels[train][rest], counts[~rest]
            )
        assert score == pytest.approx(macro_f1(labels[train], guess))


def test_groups_that_the_split_keeps_whole_are_whole_in_the_folds(adata):
    cells = adata.copy()
    cells.obs["donor"] = [f"d{i % 7}" for i in range(cells.n_obs)]
    model = trained(cells, n_starts=2, split="group", split_key="donor")
    train = model.split.train
    folds = model.module.starts.judge._folds(train)
    donors = cells.obs["donor"].to_numpy()[train]
    assert len(set(zip(donors, folds, strict=True))) == len(set(donors)) > 3
    assert len(set(folds)) > 3


def test_regression_needs_no_validation_cells(adata):
    model = trained(adata, n_starts=2, fractions=(0.8, 0.0, 0.2))
    assert model.starts.cross_validated
    assert sorted(model.genes) == sorted(model.starts.panels[model.starts.chosen])


def test_network_that_judges_is_that_of_the_selection_when_its_start_ends(adata):
    # The same training, stopped where its first start ends, which is the end of an epoch.
    training = {**TRAINING, "max_epochs": 5, "validate_every": 1}
    three = trained(adata, n_starts=3, judge="own", training=training)
    each = three.module.schedule.each
    assert each == 12
    validated = {r["step"]: r for r in three.history.select("validation")}
    for start in range(3):
        at_the_end = validated[each * (start + 1)]
        assert three.starts.own[start] == pytest.approx(at_the_end["macro_f1/cell_type"])


def test_gene_scores_of_the_panel_are_those_of_its_start(adata, three):
    forced = trained(adata, n_starts=3, judge="linear")
    for model in (three, forced):
        chosen = model.starts.panels[model.starts.chosen]
        assert set(model.ranking.index[:K]) == set(chosen)
        assert model.ranking["selected"].iloc[:K].all()
        assert (np.diff(model.ranking["score"].iloc[:K]) <= 0).all()


def test_same_seed_gives_the_same_bits_and_another_seed_other_starts(adata, three):
    torch.manual_seed(3)
    assert_same(trained(adata, n_starts=3, judge="both"), three)
    other = trained(adata, n_starts=3, judge="both", seed=1)
    assert other.starts.panels != three.starts.panels


def test_weights_of_starts_are_drawn_from_different_words():
    seeds = {seed_of(seed, start, 9) for seed in (0, 1, -5, 2**63 - 1) for start in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**64 for seed in seeds)


@pytest.mark.parametrize("judge", ["own", "linear"])
def test_a_single_judge_decides_alone(adata, judge):
    found = trained(adata, n_starts=2, judge=judge).starts
    values = {"own": found.own, "linear": found.linear}
    assert found.scores == values.pop(judge)
    assert found.cross_validated is (judge == "linear")
    assert all(math.isnan(value) for value in next(iter(values.values())))


def test_several_labels_of_both_kinds_are_judged_by_their_weighted_mean(adata, monkeypatch):
    monkeypatch.setattr("kernomics.models.yoto.starts.FEW", 0)
    weights = {"size": 3.0, "half": 0.0}
    model = trained(adata, ["cell_type", "size", "half"], n_starts=2, task_weights=weights)
    train, held_out = model.split.train, model.split.validation
    values = {name: label.values for name, label in model.cells.labels.items()}
    for panel, score in zip(model.starts.panels, model.starts.linear, strict=True):
        x = adata[:, panel].X.toarray()
        figures = []
        for name, kind, metric in (
            ("cell_type", "categorical", macro_f1),
            ("size", "continuous", r2),
        ):
            guess = predictions(kind, x[train], values[name][train], x[held_out])
            figures.append(metric(values[name][held_out], guess))
        assert score == pytest.approx((figures[0] + 3 * figures[1]) / 4)


def test_unlabelled_validation_cells_are_left_out(adata):
    cells = adata.copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
    cells.obs.loc[cells.obs_names[::3], "cell_type"] = None
    found = trained(cells, n_starts=2, judge="both").starts
    assert all(0 <= score <= 1 for score in found.scores)


def test_forced_genes_and_a_budget_hold_in_every_start(adata):
    costs = {gene: 1.0 + i % 3 for i, gene in enumerate(adata.var_names)}
    forced = [adata.var_names[70]]
    model = trained(
        adata, n_starts=3, forced_genes=forced, gene_costs=costs, budget=9.0, min_detection=0.01
    )
    for panel in (*model.starts.panels, model.genes):
        assert forced[0] in panel
        assert sum(costs[gene] for gene in panel) <= 9.0 + 1e-6
    assert model.starts.inclusion[forced[0]] == 1.0


def test_warm_start_is_where_every_start_begins(adata, one):
    model = trained(adata, n_starts=2, start_from=one.panel)
    fresh = model.module.starts.build(1)
    plain = model._module()
    assert torch.equal(fresh.selector.scores, plain.selector.scores)


# -- what they say ---------------------------------------------------------------------------------


def test_history_tells_how_each_start_was_judged(three):
    records = three.history.select("start")
    assert [r["start"] for r in records] == [0, 1, 2]
    assert [r["score"] for r in records] == three.starts.scores
    assert [r["own"] for r in records] == three.starts.own
    assert records[-1]["best"] == three.starts.chosen
    assert [r["step"] for r in records] == [13, 25, 37]  # of the step that comes next


def test_inclusion_is_the_share_of_starts_with_a_gene(three):
    found = three.starts
    for gene, share in found.inclusion.items():
        assert share == sum(gene in panel for panel in found.panels) / 3
    assert set(found.inclusion) == {gene for panel in found.panels for gene in panel}
    assert list(found.inclusion.values()) == sorted(found.inclusion.values(), reverse=True)


def test_certainty_is_the_share_of_resamples_the_chosen_wins(three):
    draws = three.module.starts.resampled[0].numpy()
    chosen = draws[three.starts.chosen]
    others = np.delete(draws, three.starts.chosen, axis=0).max(axis=0)
    expected = np.mean(chosen > others) + np.mean(chosen == others) / 2
    assert three.starts.certainty == pytest.approx(expected)
    assert draws.mean(axis=1) == pytest.approx(three.starts.scores, abs=0.05)
    assert draws.std() > 0


def test_saved_panel_knows_its_starts(three, tmp_path):
    three.save(tmp_path / "model")
    saved = Panel.load(tmp_path / "model").info["starts"]
    assert saved["selections"] == 3
    assert saved["trainings"] == 1
    assert saved["panels"] == three.starts.panels
    assert saved["chosen"] == three.starts.chosen


# -- interrupted and resumed -----------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 11, 12, 13, 17, 30, 36, 37, 50])
def test_resumed_in_any_start_has_the_same_bits(adata, three, tmp_path, step):
    resumed = stopped_and_resumed(adata, tmp_path, step, {"n_starts": 3, "judge": "both"})
    assert_same(resumed, three)
    assert resumed.starts == three.starts


def test_resuming_with_another_number_of_starts_is_refused(adata, tmp_path):
    training = {**TRAINING, "checkpoint_every_epochs": 1}
    model = YOTO(adata, "cell_type", K, n_starts=2)
    model.train(run_dir=tmp_path, callbacks=[lambda epoch, _: epoch == 3], **training)
    with pytest.raises(ConfigError, match=r"max_epochs|restart_at"):
        YOTO(adata, "cell_type", K, n_starts=3).train(run_dir=tmp_path, resume=True, **training)


def test_training_ended_among_its_starts_has_the_panel_of_the_start_under_way(adata):
    model = YOTO(adata, "cell_type", K, n_starts=3)
    model.train(callbacks=[lambda epoch, _: epoch == 3], **TRAINING)
    assert model.starts is None
    assert len(model.genes) == K


def test_skipped_steps_at_the_end_of_a_start_still_end_it(adata):
    model = trained(adata, n_starts=2, training={**TRAINING, "skip_steps": [(12, 14)]})
    assert [r["start"] for r in model.history.select("start")] == [0, 1]
    assert len(model.starts.panels) == 2


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", ["own", "both"])
def test_no_validation_cells_for_the_network_is_an_error_with_remedies(adata, judge):
    found = r"no validation cells.*give fractions a second share above 0, judge='linear'"
    with pytest.raises(ConfigError, match=found):
        YOTO(adata, "cell_type", K, n_starts=2, judge=judge, fractions=(0.8, 0.0, 0.2))
    alone = YOTO(adata, "cell_type", K, judge=judge, fractions=(0.8, 0.0, 0.2))
    assert alone.config.n_starts == 1


def test_validation_cells_without_labels_are_an_error(adata):
    cells = adata.copy()
    rows = np.arange(300)
    split = Split(rows[:200], rows[200:240], rows[240:], "by hand", None, None)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
    cells.obs.loc[cells.obs_names[200:240], "cell_type"] = None
    with pytest.raises(ConfigError, match="40 validation cells, all unlabelled"):
        YOTO(cells, "cell_type", K, split=split, n_starts=2, judge="own")
    assert trained(cells, split=split, n_starts=2).starts.cross_validated


@pytest.mark.parametrize(
    ("options", "training", "message"),
    [
        ({"n_starts": 0}, {}, "n_starts is 0: at least 1 is needed"),
        ({"n_starts": 2, "fix_panel_at": 0.0}, {}, "fix_panel_at must be between 0 and 1"),
        ({"n_starts": 2, "judge": "me"}, {}, "judge is 'me'"),
        ({"n_starts": 2}, {"patience": 3}, "leave patience out"),
        ({"n_starts": 2}, {"restart_at": 0.5}, "leave restart_at out"),
        ({"n_starts": 2}, {"max_epochs": 1, "batch_size": 300}, "give more max_epochs"),
    ],
)
def test_settings_that_do_not_go_with_starts_are_named(adata, options, training, message):
    with pytest.raises(ConfigError, match=message):
        YOTO(adata, "cell_type", K, **options).train(**{**TRAINING, **training})


def test_judge_without_its_package_says_what_to_install(adata, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r"judge='linear' needs the package 'sklearn'"):
        trained(adata, n_starts=2)
    assert len(trained(adata, n_starts=2, judge="own").starts.panels) == 2


# -- the plan --------------------------------------------------------------------------------------


def test_each_start_has_the_steps_of_one_and_the_rest_at_least_its_own():
    for n_starts in (2, 3, 7):
        for n_batches in (1, 4, 6, 35):
            config = YOTOConfig(n_starts=n_starts, halving=False)
            training = TrainConfig(max_epochs=13, restart_at=0.4, schedule="one_cycle")
            plan, legs = planned(config, training, n_batches)
            alone = 13 * n_batches
            each = schedules.first_steps(alone, 0.4)
            total = plan.max_epochs * n_batches
            ends = [schedules.first_steps(total, share) for share in plan.restart_at]
            assert ends == [each * i for i in range(1, n_starts + 1)]
            assert [leg.last for leg in legs] == ends
            assert alone - each <= total - ends[-1] < alone - each + n_batches


def test_learning_rate_has_a_cycle_for_each_start_and_one_for_the_predictor():
    restarts = (0.2, 0.4, 0.6)
    parts = [schedules.part_of(step, 20, restarts) for step in range(20)]
    assert parts == [(i, 4) for i in range(4)] * 3 + [(i, 8) for i in range(8)]
    for step in range(20):
        assert schedules.part_of(step, 20, 0.0) == (step, 20)
        assert schedules.part_of(step, 20, 0.3) == ((step, 6) if step < 6 else (step - 6, 14))


@pytest.mark.parametrize("shares", [(0.5, 0.2), (0.0, 0.5), (0.5, 1.0), (0.3, 0.3)])
def test_restarts_that_do_not_rise_are_refused(shares):
    with pytest.raises(ConfigError, match=r"several fractions must rise"):
        TrainConfig(restart_at=shares)
    assert TrainConfig(restart_at=[0.2, 0.6]).restart_at == (0.2, 0.6)


def test_schedules_run_over_each_start():
    once = Schedule(4, 64, 0.5, (1.0, 0.1), (1.0, 0.0), 0.7, fix_at=0.5)
    legs = tuple(legs_of(2, 10, halving=False))
    twice = dataclasses.replace(once, fix_at=20 / 30, each=10, legs=legs)
    for step in range(10):
        assert twice.at(step, 30) == twice.at(step + 10, 30) == once.at(step, 20)
        assert twice.cycle(step, 30) == twice.cycle(step + 10, 30) == (step, 10)
        assert twice.cycle(step + 20, 30) == (step, 10)
        assert once.cycle(step, 20) is None
    assert twice.at(20, 30) == once.at(10, 20)
    assert [twice.leg_ended(step) for step in (0, 9, 10, 11, 20, 30)] == [
        None, None, 0, None, 1, None,
    ]  # fmt: skip
    assert once.leg_ended(10) is None


# -- scores that are not defined -------------------------------------------------------------------


def numbered(adata, validation):
    """Return cells with a number that few validation cells have, and their split."""
    cells = adata.copy()
    split = Split(np.arange(200), np.arange(200, 250), np.arange(250, 300), "random", None, 0)
    size = cells.obs["size"].to_numpy().copy()
    size[200 + validation : 250] = np.nan
    cells.obs["size"] = size
    return cells, split


@pytest.mark.parametrize("judge", ["own", "both"])
def test_network_is_not_judged_on_a_single_number(adata, judge):
    cells, split = numbered(adata, 1)
    with pytest.raises(ConfigError, match="one number alone, of which R² says nothing"):
        YOTO(cells, "size", K, split=split, n_starts=2, judge=judge)
    YOTO(cells, "size", K, split=split, n_starts=2)  # a regression on the training cells
    # A label with a score is enough; the other one counts nowhere.
    model = trained(cells, ["cell_type", "size"], split=split, n_starts=2, judge=judge)
    truth = model.cells.labels["cell_type"].values[split.validation]
    outputs = outputs_on(model, model.module)[0].argmax(1).numpy()
    assert np.isfinite(model.starts.own).all()
    assert 0 <= model.starts.certainty <= 1
    assert macro_f1(truth, outputs) <= 1


def test_resamples_without_a_score_do_not_count_against_the_best(adata):
    cells, split = numbered(adata, 2)  # half of the resamples have one number alone
    model = trained(cells, "size", split=split, n_starts=2, judge="own")
    found = model.module.starts.resampled[0].numpy()
    told = np.isfinite(found).all(axis=0)
    assert 0.3 < told.mean() < 0.7
    best = model.starts.chosen
    ahead = found[best][told] > found[1 - best][told]
    assert model.starts.certainty == pytest.approx(ahead.mean())
    assert ahead.mean() > 0.6


def test_label_of_one_group_is_cross_validated_within_it(adata):
    cells = adata.copy()
    cells.obs["donor"] = [f"donor {i % 6}" for i in range(300)]
    size = 50 + cells.obs["size"].to_numpy()
    size[np.arange(300) % 6 != 0] = np.nan
    cells.obs["size"] = size
    donor = np.arange(300) % 6
    rows = [np.flatnonzero(donor < 4), np.flatnonzero(donor == 4), np.flatnonzero(donor == 5)]
    split = Split(*rows, "group", "donor", 0)
    model = trained(cells, "size", split=split, n_starts=2)
    # Zeros guessed where nothing was learnt, R² would be about −100,000.
    assert all(-2 < score < 1 for score in model.starts.linear)
