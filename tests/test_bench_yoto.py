"""The YOTO benchmark's own rules: what is run, kept, compared and written into the docs."""

from __future__ import annotations

import json
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

from kernomics.data import CellCollection, Labels, Split

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"


@pytest.fixture(autouse=True)
def bench_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def line(
    method: str = "yoto",
    seed: int = 10,
    own: float | None = None,
    lr: float = 0.5,
    **others: Any,
) -> dict[str, Any]:
    """A line of the results, of one task on pbmc3k unless said otherwise."""
    task = others.pop("task", "cell_type")

    def scores(value: float) -> dict[str, float]:
        return {"macro_f1": value, "accuracy": value + 0.01, "auprc": value + 0.02}

    return {
        "experiment": "main", "set": "pbmc3k", "seed": seed, "k": 16, "method": method,
        "poor": "", "config": "new", "commit": "abc", "device": "A chip", "threads": 1,
        "versions": {"torch": "2", "scanpy": "1", "scikit-learn": "1"}, "load": 0.2,
        "cells": {"train": 1000, "validation": 100, "test": 200}, "n_genes": 5000,
        "split": {"how": "stratified", "by": "cell_type", "seed": seed},
        "panels": [{"tasks": [task], "genes": ["A", "B"]}], "n_trainings": 1, "seconds": 2.0,
        "labelled_train": {task: 90}, "wall_seconds": 3.0,
        "scores": {task: {"own": None if own is None else scores(own), "lr": scores(lr)}},
        **others,
    }  # fmt: skip


def tiny_problem() -> Any:
    """Forty cells × six genes: genes 0 and 3 tell the label "kind", 1 and 2 the label "place"."""
    import anndata

    from yoto_sets import Problem

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
    from yoto_results import paired

    found = paired(ours, other)
    assert found is not None
    assert found.mean == pytest.approx(mean)
    assert found.error == pytest.approx(error, abs=1e-12, nan_ok=True)
    if error != 0:  # rounding decides at 0
        assert found.verdict == verdict
    assert paired({1: 0.5}, {2: 0.5}) is None


def test_the_best_other_is_the_one_that_ours_gains_least_over() -> None:
    from yoto_results import hardest

    ours = {10: 0.8, 11: 0.6}
    others = {"a": {10: 0.7, 11: 0.5}, "two seeds less": {10: 0.79}, "none": {}}
    found = hardest(ours, others)
    assert found is not None
    assert found[0] == "two seeds less"
    assert str(found[1]) == "+0.010"
    assert hardest(ours, {"none": {}}) is None


def test_overlap_is_the_mean_jaccard_index_over_pairs() -> None:
    from yoto_results import overlap

    # {A B} and {B C}: 1/3; {A B} and {A B}: 1; {B C} and {A B}: 1/3
    assert overlap([["A", "B"], ["B", "C"], ["A", "B"]]) == pytest.approx(5 / 9)
    assert math.isnan(overlap([["A"]]))


# ---- the results file ---------------------------------------------------------------------------


def test_a_torn_line_is_left_out_and_the_next_starts_on_its_own(tmp_path: Path) -> None:
    from yoto import append_line
    from yoto_results import read_lines

    path = tmp_path / "results" / "yoto.jsonl"
    append_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "b')  # killed here
    append_line(path, {"a": 3})
    assert read_lines(path) == [{"a": 1}, {"a": 3}]


def test_runs_of_older_settings_and_failed_runs_are_not_used() -> None:
    from yoto_results import Results

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
    import yoto

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
    for method in ("yoto_single", "de_joint", "l1_joint"):
        found = {run.set for run in runs if run.method == method}
        assert found == {"zheng_2", "kang_2", "oligo_2"}
    partial = planned("--experiment", "partial")
    assert len(partial) == 5 * 5 * 4  # scenarios, seeds, methods
    assert {run.k for run in partial} == {32}


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2"])
def test_a_share_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        planned(f"--shard={text}")
    assert "is no share such as 0/2 or 1/2" in capsys.readouterr().err


def test_settings_decide_the_hash_and_titles_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    import yoto
    import yoto_sets

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
    import yoto
    import yoto_methods
    from yoto_results import read_lines

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
    from yoto_sets import _classes

    column = pd.Series(["a"] * 3 + ["b"] * 2 + ["c"] + ["none"] * 3 + [None])
    found = _classes(column, "none", 2)
    assert found.isna().tolist() == [False] * 5 + [True] * 5


def test_a_tenth_of_each_class_keeps_its_training_label() -> None:
    from yoto_partial import few_labels

    values = np.repeat([0, 1, 2], [60, 36, 4])
    train = np.concatenate([np.arange(50), np.arange(60, 90), np.arange(96, 99)])
    found = few_labels(Labels("x", "categorical", values, ("a", "b", "c")), train, seed=3)
    kept = found.values[train]
    assert [int((kept == code).sum()) for code in range(3)] == [5, 3, 1]
    elsewhere = np.setdiff1d(np.arange(100), train)
    np.testing.assert_array_equal(found.values[elsewhere], values[elsewhere])
    assert (values >= 0).all()  # the labels given are left alone


def test_a_task_alone_is_trained_on_its_labelled_cells() -> None:
    from yoto_partial import only_task, with_few_labels

    problem = with_few_labels(tiny_problem(), "kind")
    few, all_cells = (only_task(problem, "kind", labelled_cells=x) for x in (True, False))
    assert few.tasks == all_cells.tasks == ("kind",)
    assert len(few.split.train) == 2  # one of the twelve cells of each class
    assert len(all_cells.split.train) == 24
    np.testing.assert_array_equal(few.split.test, all_cells.split.test)


def test_a_joint_panel_takes_the_best_gene_of_each_task_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import yoto_methods

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


def test_panels_for_one_task_are_averaged_and_own_predictors_scored() -> None:
    from yoto_methods import JudgedPanel, judge

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


# ---- tables and figures -------------------------------------------------------------------------


def example() -> list[dict[str, Any]]:
    lines = []
    for seed, shift in ((10, 0.0), (11, 0.02)):
        lines += [
            line("yoto", seed, own=0.80 + shift, lr=0.70 + shift),
            line("hard_k", seed, own=0.75 + shift / 2, lr=0.72),
            line("de", seed, lr=0.60 + shift, n_trainings=0, seconds=0.5),
        ]
    lines.append(line("persist", 10, own=0.7, lr=0.7, seconds=50.0, n_trainings=8))
    return lines


def test_the_summary_names_the_best_other_and_counts_wins() -> None:
    from yoto_table import summary_part

    text = summary_part(example())
    # own: 0.81 against hard-k's own 0.755: differences 0.05 and 0.06
    # LR: 0.71 against hard-k's 0.72: differences −0.02 and 0
    assert (
        "| PBMC 3k | `cell_type` | 16 | 0.810 ± 0.014 | 0.755 (hard-k per task, own) "
        "| **+0.055 ± 0.005** | 0.710 ± 0.014 | 0.720 (hard-k per task, LR) | −0.010 ± 0.010 |"
    ) in text
    assert "own predictor: of 1 comparisons 1 won, 0 within one standard error, 0 lost" in text


def test_the_tables_show_each_method_with_the_best_in_bold() -> None:
    from yoto_table import tables_part

    text = tables_part(example())
    assert "<summary>PBMC 3k: cell_type</summary>" in text
    yoto = "| 16 | YOTO | **0.810 ± 0.014** | 0.710 ± 0.014 | 0.720 ± 0.014 | 0.730 ± 0.014 |"
    assert f"{yoto} 1 | 2 s | 1.00 | 2 |" in text
    assert "| 16 | DE (Wilcoxon) |  | 0.610 ± 0.014 | 0.620 ± 0.014 | 0.630 ± 0.014 | 0 |" in text
    assert "| 16 | PERSIST-style | 0.700 | 0.700 | 0.710 | 0.720 | 8 | 50 s |  | 1 |" in text


def test_time_is_compared_with_persist_over_common_seeds() -> None:
    from yoto_table import time_part

    text = time_part(example())
    assert "| PBMC 3k | 16 | 2 s | 50 s | 8 | 25.0 × | 1 |" in text


def test_persist_is_told_run_by_run() -> None:
    from yoto_table import persist_part

    losses = {"gates/1": [2.0, 1.5], "gates/2": [2.0, 1.25], "mask": [2.0, 0.5]}
    losses |= {"classifier": [1.0, 0.25], "classifier/held_out": [1.0, 0.75]}
    info = {"genes_left": [1039, 477], "losses": losses}
    panel = {"tasks": ["cell_type"], "genes": ["A", "B"], "info": info}
    text = persist_part([line("persist", own=0.8, panels=[panel]), line("persist", seed=11)])
    row = "| PBMC 3k | 10 | 1,039, 477 | 1.250 | 0.500 | 0.250 | 0.750 | 0.810 | 0.800 |"
    assert row in text
    assert "| 11 |" not in text  # from before the losses were kept


def test_help_is_compared_with_either_way_alone() -> None:
    from yoto_table import partial_part

    case = {"experiment": "partial", "set": "oligo_2", "poor": "region", "task": "region", "k": 32}
    values = {
        "helped": (0.5, 0.7), "aided": (0.4, 0.5), "alone": (0.4, 0.4), "alone_all": (0.3, 0.6),
    }  # fmt: skip
    lines = [
        line(method, seed, own=value, lr=value, **case)
        for method, pair in values.items()
        for seed, value in zip((10, 11), pair, strict=True)
    ]
    own, lr = (x for x in partial_part(lines).splitlines() if "`region`" in x)
    assert "| 90 | `cell_type` | own | 0.600 ± 0.141 | 0.450 ± 0.071 | 0.400 ± 0.000 |" in own
    assert own.endswith(
        "| **+0.200 ± 0.100** | **+0.150 ± 0.050** | +0.050 ± 0.050 | +0.000 ± 0.100 |"
    )
    assert lr == own.replace("| own |", "| LR |")


def test_generated_parts_replace_what_stood_there_and_nothing_else() -> None:
    import yoto_table

    text = "".join(f"Prose.\n{a}\nold\n{b}\n" for a, b in map(yoto_table.markers, yoto_table.PARTS))
    made = yoto_table.render(text, {"yoto": example()})
    assert "old" not in made
    assert made.count("Prose.\n") == len(yoto_table.PARTS)
    assert yoto_table.render(made, {"yoto": example()}) == made
    with pytest.raises(SystemExit, match="needs the lines"):
        yoto_table.render("no markers", {})


def test_figures_are_the_same_for_the_same_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from yoto_figures import write_figures
    from yoto_results import Results

    results = Results.of(example(), "main")
    twice = [write_figures(results, tmp_path / name) for name in "ab"]
    assert [path.name for path in twice[0]] == ["yoto_f1_pbmc3k.svg", "yoto_time.svg"]
    for one, other in zip(*twice, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert "own predictor" in twice[0][0].read_text()
    assert write_figures(Results([]), tmp_path / "none") == []


def test_the_docs_show_the_committed_results() -> None:
    import yoto_table

    records = {
        name: yoto_table.read_lines(yoto_table.RESULTS / f"{name}.jsonl")
        for name in yoto_table.FILES
    }
    if not any(records.values()):
        pytest.skip("there are no results of bench/yoto.py yet")
    text = yoto_table.DOCS.read_text()
    assert text == yoto_table.render(text, records), "run python bench/yoto_table.py"
    for path in yoto_table.linked_figures(text):
        assert path.is_file(), f"{path.name} is missing: run python bench/yoto_table.py"


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
    from yoto_methods import METHODS
    from yoto_partial import METHODS as PARTIAL

    said = run(str(BENCH / "yoto.py"), "--smoke", "--experiment", experiment)
    for method in METHODS if experiment == "main" else PARTIAL:
        assert f", {method}: " in said


@pytest.mark.slow
def test_the_benchmark_of_rising_numbers_of_cells_runs() -> None:
    assert "300 cells: training" in run(str(BENCH / "yoto_scale.py"), "--smoke")


def test_sweep_is_compared_with_the_default_of_its_round() -> None:
    from yoto_sweep import table

    def one(number: int, variant: str, seed: int, own: float, lr: float) -> dict[str, Any]:
        about = {"round": number, "variant": variant, "set": "a", "k": 16, "seed": seed}
        return about | {"own": {"type": own}, "regression": {"type": lr}}

    lines = [
        one(1, "default", 1, 0.5, 0.5), one(1, "other", 1, 0.9, 0.9),
        one(2, "default", 1, 0.6, 0.7), one(2, "default", 2, 0.8, 0.7),
        one(2, "other", 1, 0.7, 0.6), one(2, "other", 2, 0.9, 0.6),
    ]  # fmt: skip
    first, second = table(lines).split("Round 2, about the defaults:")
    assert "| other | 0.900 | +0.400 ± nan | 0.900 | +0.400 ± nan | 1 |" in first
    assert "| default | 0.700 |  | 0.700 |  | 2 |" in second
    assert "| other | 0.800 | +0.100 ± 0.000 | 0.600 | -0.100 ± 0.000 | 2 |" in second
    assert table([]) == "No runs on record."


def test_scale_lines_become_a_table() -> None:
    from yoto_table import scale_part

    text = scale_part(
        [
            json.loads(
                '{"n_cells": 1000, "nonzeros": 200000, "n_markers": 64, "seconds": 2.0,'
                ' "recovered": {"yoto": 50, "de": 52}, "cells_per_second": 5000.0,'
                ' "peak_bytes": 5e8, "start_bytes": 3e8, "dense_bytes": 8e7}'
            )
        ]
    )
    row = "| 1,000 | 200 | 50 of 64 | 52 | 2 s | 5,000 | 0.50 GB | 0.30 GB | 0.1 GB |"
    assert row in text


def test_the_mean_over_tasks_is_paired_by_seed() -> None:
    from yoto_table import tasks_part

    def run(method: str, seed: int, *values: float) -> dict[str, Any]:
        made = line(method, seed, set="oligo_2")
        made["scores"] = {
            task: {name: {"macro_f1": value, "accuracy": 0, "auprc": 0} for name in ("own", "lr")}
            for task, value in zip(("cell_type", "region"), values, strict=True)
        }
        return made

    lines = [
        run("yoto", 10, 0.8, 0.6), run("yoto", 11, 0.7, 0.5), run("yoto", 12, 0.1, 0.1),
        run("hard_k", 10, 0.7, 0.5), run("hard_k", 11, 0.6, 0.6),
    ]  # fmt: skip
    # Seed 10: 0.7 − 0.6; seed 11: 0.6 − 0.6; seed 12 has no other.
    row = tasks_part(lines).splitlines()[-1]
    assert row.count("| +0.050 ± 0.050 ") == 2
