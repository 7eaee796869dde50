"""The YOTO benchmark's own rules: what is run, kept, compared and written into the docs."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from yoto_lines import line

from kernomics.data import CellCollection, Labels, Split

ROOT = Path(__file__).resolve().parents[2]


def tiny_problem() -> Any:
    """Forty cells × six genes: genes 0 and 3 tell the label "kind", 1 and 2 the label "place"."""
    import anndata

    from bench.sets import Problem

    random = np.random.default_rng(0)
    kind, place = np.arange(40) % 2, np.arange(40) // 2 % 2
    counts = random.poisson(1.0, (40, 6)).astype(np.float32)
    counts[:, 0], counts[:, 3] = 9 * kind, 9 * (1 - kind)
    counts[:, 1], counts[:, 2] = 9 * place, 9 * (1 - place)
    counts[:, 5] = 1
    obs = pd.DataFrame(
        {"kind": np.array(["a", "b"])[kind], "place": np.array(["x", "y"])[place]},
        index=[f"cell {i}" for i in range(40)],
    )
    cells = CellCollection.from_anndata(
        anndata.AnnData(sparse.csr_matrix(counts), obs=obs), labels_key=["kind", "place"]
    )
    rows = np.arange(40)
    split = Split(rows[:24], rows[24:28], rows[28:], "random", None, 0)
    return Problem(cells, sparse.csr_matrix(counts), split, seed=7)


# ---- comparisons --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "other", "mean", "error", "verdict"),
    [
        # differences 0.1, 0.3: mean 0.2, standard deviation 0.1414, over the root of 2
        ({1: 0.6, 2: 0.9}, {1: 0.5, 2: 0.6}, 0.2, 0.1, "won"),
        ({1: 0.5, 2: 0.6}, {1: 0.6, 2: 0.9}, -0.2, 0.1, "lost"),
        ({1: 0.6, 2: 0.4}, {1: 0.5, 2: 0.5}, 0.0, 0.1, "even"),
        ({1: 0.6, 2: 0.9, 3: 0.1}, {1: 0.5, 3: 0.0, 4: 1.0}, 0.1, 0.0, "won"),  # seeds 1 and 3
        ({1: 0.6}, {1: 0.5}, 0.1, math.nan, "even"),  # one seed has no error
    ],
)
def test_methods_are_compared_over_the_seeds_that_both_have(
    ours: dict[int, float], other: dict[int, float], mean: float, error: float, verdict: str
) -> None:
    from bench.records import paired

    found = paired(ours, other)
    assert found is not None
    assert found.mean == pytest.approx(mean)
    assert found.error == pytest.approx(error, abs=1e-12, nan_ok=True)
    if error != 0:  # rounding decides at 0
        assert found.verdict == verdict
    assert paired({1: 0.5}, {2: 0.5}) is None


def test_the_best_other_is_the_one_that_ours_gains_least_over() -> None:
    from bench.yoto.results import hardest

    ours = {10: 0.8, 11: 0.6}
    others = {"a": {10: 0.7, 11: 0.5}, "two seeds less": {10: 0.79}, "none": {}}
    found = hardest(ours, others)
    assert found is not None
    assert found[0] == "two seeds less"
    assert str(found[1]) == "+0.010"
    assert hardest(ours, {"none": {}}) is None


def test_overlap_is_the_mean_jaccard_index_over_pairs() -> None:
    from bench.yoto.results import overlap

    # {A B} and {B C}: 1/3; {A B} and {A B}: 1; {B C} and {A B}: 1/3
    assert overlap([["A", "B"], ["B", "C"], ["A", "B"]]) == pytest.approx(5 / 9)
    assert math.isnan(overlap([["A"]]))


# ---- the results file ---------------------------------------------------------------------------


def test_a_torn_line_is_left_out_and_the_next_starts_on_its_own(tmp_path: Path) -> None:
    from bench.records import read_lines
    from bench.yoto.panels import append_line

    path = tmp_path / "results" / "yoto.jsonl"
    append_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "b')  # killed here
    append_line(path, {"a": 3})
    assert read_lines(path) == [{"a": 1}, {"a": 3}]


def test_runs_of_older_settings_and_failed_runs_are_not_used() -> None:
    from bench.yoto.results import Results

    lines = [
        line(seed=10, own=0.1, config="old"),
        line(seed=11, own=0.2, config="old"),
        line(seed=10, own=0.3),
        line(seed=10, own=0.4),  # the same again: the last counts
        {**line(seed=12), "error": "ValueError: no"},
    ]
    results = Results.of(lines, "main")
    assert results.score("cell_type", "own", method="yoto") == {10: 0.4}


# ---- what is run --------------------------------------------------------------------------------


def planned(*argv: str) -> list[Any]:
    from bench.yoto import panels as yoto

    return yoto.plan(yoto._arguments(argv))


def test_shards_share_the_runs_without_overlap() -> None:
    whole = planned()
    parts = [planned("--shard", f"{i}/2") for i in range(2)]
    assert len(whole) == len(set(whole)) == sum(map(len, parts))
    assert set(whole) == set(parts[0]) | set(parts[1])
    for part in parts:  # both have runs of every data set
        assert {run.set for run in part} == {run.set for run in whole}


def test_some_methods_run_where_they_make_sense_only() -> None:
    runs = planned()
    persist = {(run.set, run.k, run.seed) for run in runs if run.method == "persist"}
    assert persist == {(s, 32, seed) for s in ("pbmc3k", "zheng", "paul15") for seed in (10, 11)}
    for method in ("yoto_single", "de_joint", "l1_joint", "hard_k_joint"):
        found = {run.set for run in runs if run.method == method}
        assert found == {"zheng_2", "kang_2", "oligo_2"}
    partial = planned("--experiment", "partial")
    assert len(partial) == 7 * 5 * 4  # scenarios, seeds, methods
    assert {run.k for run in partial} == {32}


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2"])
def test_a_share_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        planned(f"--shard={text}")
    assert "is no share such as 0/2 or 1/2" in capsys.readouterr().err


def test_settings_decide_the_hash_and_titles_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from bench import sets as yoto_sets
    from bench.yoto import panels as yoto

    runs = [yoto.Run("main", "pbmc3k", 10, k, "yoto") for k in (16, 32)]
    assert yoto.config_hash(runs[0]) != yoto.config_hash(runs[1])
    before = yoto.config_hash(runs[0])
    what = yoto_sets.SETS["pbmc3k"]
    monkeypatch.setitem(yoto_sets.SETS, "pbmc3k", dataclasses.replace(what, title="other"))
    assert yoto.config_hash(runs[0]) == before
    monkeypatch.setitem(yoto_sets.SETS, "pbmc3k", dataclasses.replace(what, no_label=None))
    assert yoto.config_hash(runs[0]) != before


def test_a_failed_run_is_recorded_and_tried_again_and_a_done_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.records import read_lines
    from bench.yoto import methods as yoto_methods
    from bench.yoto import panels as yoto

    class Loaded:
        def problem(self, seed: int) -> Any:
            return tiny_problem()

    calls = []

    def fails_once(name: str, bench: Any, k: int) -> Any:
        calls.append(k)
        if len(calls) == 1:
            raise ValueError("no luck")
        return yoto_methods._random(name, bench, k)

    monkeypatch.setattr(yoto, "load", lambda name, smoke: Loaded())
    monkeypatch.setattr(yoto, "warm_up", lambda threads: None)
    monkeypatch.setitem(yoto_methods.METHODS, "random", yoto_methods.Method("random", fails_once))
    path = tmp_path / "yoto.jsonl"
    argv = ["--methods", "random", "--sets", "oligo_2", "--k", "2", "3", "--seeds", "100"]
    argv += ["--out", str(path)]
    with pytest.raises(SystemExit, match="1 of 2 runs failed"):
        yoto.main(argv)
    lines = read_lines(path)
    assert [x.get("error") for x in lines] == ["ValueError: no luck", None]
    yoto.main(argv)
    yoto.main(argv)
    assert calls == [2, 3, 2]
    done = read_lines(path)[-1]
    assert done["k"] == 2
    assert done["labelled_train"] == {"kind": 24, "place": 24}
    assert len(done["panels"]) == 5
    assert set(done["scores"]["kind"]["lr"]) == {"accuracy", "macro_f1", "auprc"}
    assert done["scores"]["kind"]["own"] is None
    yoto.main([*argv, "--dry-run"])
    assert "0 runs left" in capsys.readouterr().out


# ---- data sets, methods, judge ------------------------------------------------------------------


def test_rare_classes_and_the_class_that_means_none_are_unlabelled() -> None:
    from bench.sets import _classes

    column = pd.Series(["a"] * 3 + ["b"] * 2 + ["c"] + ["none"] * 3 + [None])
    found = _classes(column, "none", 2)
    assert found.isna().tolist() == [False] * 5 + [True] * 5


def test_a_tenth_of_each_class_keeps_its_training_label() -> None:
    from bench.yoto.partial import few_labels

    values = np.repeat([0, 1, 2], [60, 36, 4])
    train = np.concatenate([np.arange(50), np.arange(60, 90), np.arange(96, 99)])
    found = few_labels(Labels("x", "categorical", values, ("a", "b", "c")), train, seed=3)
    kept = found.values[train]
    assert [int((kept == code).sum()) for code in range(3)] == [5, 3, 1]
    elsewhere = np.setdiff1d(np.arange(100), train)
    np.testing.assert_array_equal(found.values[elsewhere], values[elsewhere])
    assert (values >= 0).all()  # the labels given are left alone


def test_a_task_alone_is_trained_on_its_labelled_cells() -> None:
    from bench.yoto.partial import only_task, with_few_labels

    problem = with_few_labels(tiny_problem(), "kind")
    few, all_cells = (only_task(problem, "kind", labelled_cells=x) for x in (True, False))
    assert few.tasks == all_cells.tasks == ("kind",)
    assert len(few.split.train) == 2  # one of the twelve cells of each class
    assert len(all_cells.split.train) == 24
    np.testing.assert_array_equal(few.split.test, all_cells.split.test)


def test_a_joint_panel_takes_the_best_gene_of_each_task_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bench.yoto import methods as yoto_methods

    bench = yoto_methods.Bench(tiny_problem(), largest=3)
    de = yoto_methods.METHODS["de"].run("de", bench, 1)
    # Round robin starts with the first class of each label: 3 marks "a", 2 marks "x".
    found = [(panel.tasks, panel.genes.tolist()) for panel in de.panels]
    assert found == [(("kind",), [3]), (("place",), [2])]

    def never(name: str, smoke: bool = False) -> Any:
        raise AssertionError("ranked again")

    monkeypatch.setattr(yoto_methods, "_baseline", never)
    joint = yoto_methods.METHODS["de_joint"].run("de_joint", bench, 2)
    (panel,) = joint.panels
    assert panel.tasks == ("kind", "place")
    assert panel.genes.tolist() == [3, 2]
    assert joint.n_trainings == 0
    assert joint.seconds == pytest.approx(de.seconds)


def test_single_task_panels_are_joined_by_turns_and_predicted_from_together() -> None:
    from bench.yoto import methods as yoto_methods

    bench = yoto_methods.Bench(tiny_problem(), largest=3, smoke=True)
    apart = yoto_methods.METHODS["hard_k"].run("hard_k", bench, 2)
    joint = yoto_methods.METHODS["hard_k_joint"].run("hard_k_joint", bench, 2)
    assert (len(apart.panels), apart.n_trainings, joint.n_trainings) == (2, 2, 3)
    (panel,) = joint.panels
    assert panel.tasks == tuple(panel.outputs) == ("kind", "place")
    first, second = (found.genes for found in apart.panels)
    of_second = next(gene for gene in second if gene != first[0])
    assert set(panel.genes) == {first[0], of_second}


def test_panels_for_one_task_are_averaged_and_own_predictors_scored() -> None:
    from bench.yoto.methods import JudgedPanel, judge

    problem = tiny_problem()
    truth = problem.codes("kind", problem.split.test)
    wrong = np.eye(2, dtype=np.float32)[1 - truth]
    tells, tells_not = np.array([0]), np.array([5])  # gene 5 is 1 in every cell
    scores = judge(
        problem,
        [
            JudgedPanel(("kind", "place"), tells, {"kind": wrong}),
            JudgedPanel(("kind",), tells_not),
        ],
    )
    own, lr = scores["kind"]["own"], scores["kind"]["lr"]
    assert own is not None
    assert lr is not None
    assert own["accuracy"] == 0.0
    assert lr["accuracy"] == pytest.approx((1.0 + 0.5) / 2)
    assert scores["place"]["own"] is None


# ---- the commands -------------------------------------------------------------------------------


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=dict(os.environ), cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["main", "partial"])
def test_every_method_of_the_benchmark_runs(experiment: str, data_dir: Path) -> None:
    from bench.yoto.methods import METHODS
    from bench.yoto.partial import METHODS as PARTIAL
    from bench.yoto.peers import missing

    said = run("-m", "bench.yoto.panels", "--smoke", "--experiment", experiment)
    methods = [name for name in METHODS if not missing(name)]
    for method in methods if experiment == "main" else PARTIAL:
        assert f", {method}: " in said


@pytest.mark.slow
def test_the_benchmark_of_rising_numbers_of_cells_runs() -> None:
    assert "300 cells: training" in run("-m", "bench.yoto.scale", "--smoke")
