"""The YOTO benchmark's tables and figures say what its results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from yoto_lines import line


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
    from bench.yoto.table import summary_part

    text = summary_part(example())
    # own: 0.81 against hard-k's own 0.755: differences 0.05 and 0.06
    # LR: 0.71 against hard-k's 0.72: differences −0.02 and 0
    assert (
        "| PBMC 3k | `cell_type` | 16 | 0.810 ± 0.014 | 0.755 (hard-k per task, own) "
        "| **+0.055 ± 0.005** | 0.710 ± 0.014 | 0.720 (hard-k per task, LR) | −0.010 ± 0.010 |"
    ) in text
    assert "own predictor: of 1 comparisons 1 won, 0 within one standard error, 0 lost" in text


def test_l1_is_compared_with_as_many_genes_and_with_more() -> None:
    from bench.yoto.results import Results, beside_l1

    lines = [line("yoto", lr=0.80), line("l1", lr=0.75)]
    lines += [line(name, set="zheng_2", lr=lr) for name, lr in
              (("yoto", 0.8), ("l1", 0.9), ("l1_joint", 0.7))]  # fmt: skip
    lines += [line(name, set="zheng_2", lr=lr, k=32) for name, lr in (("yoto", 0.8), ("l1", 0.8))]
    # 0.05 and 0.1; −0.1 and 0
    assert beside_l1(Results(lines)) == (
        "- logistic regression, mean difference from L1 with as many genes +0.075 ± 0.025 "
        "(2 cases), from L1 with k genes for each of two labels −0.050 ± 0.050 (2 cases)"
    )
    assert not beside_l1(Results(lines[:1]))


def test_the_tables_show_each_method_with_the_best_in_bold() -> None:
    from bench.yoto.table import tables_part

    text = tables_part(example())
    assert "<summary>PBMC 3k: cell_type</summary>" in text
    yoto = "| 16 | YOTO | **0.810 ± 0.014** | 0.710 ± 0.014 | 0.720 ± 0.014 | 0.730 ± 0.014 |"
    assert f"{yoto} 1 | 2 s | 1.00 | 2 |" in text
    assert "| 16 | DE (Wilcoxon) |  | 0.610 ± 0.014 | 0.620 ± 0.014 | 0.630 ± 0.014 | 0 |" in text
    assert "| 16 | PERSIST-style | 0.700 | 0.700 | 0.710 | 0.720 | 8 | 50 s |  | 1 |" in text


def test_time_is_compared_with_persist_over_common_seeds() -> None:
    from bench.yoto.table import time_part

    text = time_part(example())
    assert "| PBMC 3k | 16 | 2 s | 50 s | 8 | 25.0 × | 1 |" in text


def test_persist_is_told_run_by_run() -> None:
    from bench.yoto.table import persist_part

    losses = {"gates/1": [2.0, 1.5], "gates/2": [2.0, 1.25], "mask": [2.0, 0.5]}
    losses |= {"classifier": [1.0, 0.25], "classifier/held_out": [1.0, 0.75]}
    info = {"genes_left": [1039, 477], "losses": losses}
    panel = {"tasks": ["cell_type"], "genes": ["A", "B"], "info": info}
    text = persist_part([line("persist", own=0.8, panels=[panel]), line("persist", seed=11)])
    row = "| PBMC 3k | 10 | 1,039, 477 | 1.250 | 0.500 | 0.250 | 0.750 | 0.810 | 0.800 |"
    assert row in text
    assert "| 11 |" not in text  # from before the losses were kept


def test_help_is_compared_with_either_way_alone() -> None:
    from bench.yoto.table import partial_part

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
    from bench.yoto import table as yoto_table

    text = "".join(f"Prose.\n{a}\nold\n{b}\n" for a, b in map(yoto_table.markers, yoto_table.PARTS))
    made = yoto_table.render(text, {"yoto": example()})
    assert "old" not in made
    assert made.count("Prose.\n") == len(yoto_table.PARTS)
    assert yoto_table.render(made, {"yoto": example()}) == made
    with pytest.raises(SystemExit, match="needs the lines"):
        yoto_table.render("no markers", {})


def test_figures_are_the_same_for_the_same_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.yoto.figures import write_figures
    from bench.yoto.results import Results

    results = Results.of(example(), "main")
    twice = [write_figures(results, tmp_path / name) for name in "ab"]
    assert [path.name for path in twice[0]] == ["yoto_f1_pbmc3k.svg", "yoto_time.svg"]
    for one, other in zip(*twice, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert "own predictor" in twice[0][0].read_text()
    assert write_figures(Results([]), tmp_path / "none") == []


def test_the_time_per_cell_is_drawn_of_the_newest_deep_cells(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.yoto.figures import scale_figure

    def of(n_cells: int, speed: float, mean_counts: int = 1000) -> dict[str, Any]:
        case = f"{n_cells} {mean_counts}"
        return {"case": case, "n_cells": n_cells, "n_genes": 20_000,
                "mean_counts": mean_counts, "cells_per_second": speed,
                "one_epoch": {"seconds": 1.0, "cells_per_second": speed / 2}}  # fmt: skip

    lines = [of(10_000, 1.0), of(1_000_000, 2e4), of(10_000, 1e4), of(700, 5.0), of(10**6, 9, 200)]
    figure = scale_figure(lines)
    assert figure is not None
    drawn = [[list(x.get_xdata()), list(x.get_ydata())] for x in figure.axes[0].lines]
    cells = [10_000, 1_000_000]
    assert drawn == [[cells, [100, 50]], [cells, [200, 100]]]
    assert scale_figure(lines[3:]) is None


def test_the_docs_show_the_committed_results() -> None:
    from bench.yoto import table as yoto_table

    records = {
        name: yoto_table.read_lines(yoto_table.RESULTS / f"{name}.jsonl")
        for name in yoto_table.FILES
    }
    if not any(records.values()):
        pytest.skip("there are no results of bench.yoto.panels yet")
    for page, parts in yoto_table.PAGES.items():
        text = page.read_text()
        assert text == yoto_table.render(text, records, parts), "run python -m bench.yoto.table"
        for path in yoto_table.linked_figures(text):
            assert path.is_file(), f"{path.name} is missing: run python -m bench.yoto.table"


def test_every_part_is_on_one_page() -> None:
    from bench.yoto import table as yoto_table

    shown = [part for parts in yoto_table.PAGES.values() for part in parts]
    assert sorted(shown) == sorted(yoto_table.PARTS)


def test_sweep_is_compared_with_the_default_of_its_round() -> None:
    from bench.yoto.sweep import table

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
    from bench.yoto.table import scale_part

    old = json.loads(
        '{"case": "1k", "n_cells": 1000, "nonzeros": 200000, "n_markers": 64, "seconds": 2.0,'
        ' "recovered": {"yoto": 50, "de": 52}, "cells_per_second": 5000.0,'
        ' "peak_bytes": 5e8, "start_bytes": 3e8, "dense_bytes": 8e7, "epochs": 1,'
        ' "one_epoch": {"seconds": 3.0},'
        ' "others": {"txfm": {"steps": 200, "batch_size": 64, "opening_seconds": 2.0,'
        ' "milliseconds_a_step": 12.3, "peak_bytes": 6e8}}}'
    )
    text = scale_part([old | {"seconds": 9.0}, old])  # the newest of a case
    row = "| 1,000 | 200 | 1 | 50 of 64 | 52 | 2 s | 5,000 | 3 s | 0.50 GB | 0.30 GB | 0.1 GB |"
    assert row in text
    assert "| TxFM | 1,000 | 200 of 64 cells | 2 s | 12 ms | 0.60 GB |" in text


def test_the_mean_over_tasks_is_paired_by_seed() -> None:
    from bench.yoto.table import tasks_part

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
    one, both = tasks_part(lines).splitlines()[-2:]
    assert one.count("| +0.050 ± 0.050 ") == both.count("| +0.050 ± 0.050 ") == 2
    assert both.startswith("| all of them | 16 |")


def test_best_of_some_starts_is_a_mean_over_all_subsets() -> None:
    from bench.yoto.starts import EACH, chosen, table

    def one(seed: int, own: list[float], scores: list[float]) -> dict[str, Any]:
        reached = [{"a": score, "b": score} for score in scores]
        judged = {"own": own, "regression": own, "cross-validation": scores, EACH: own}
        test = {"own": reached, "regression": reached}
        return {"set": "a", "seed": seed, "judged": judged, "test": test}

    lines = [
        one(seed, [0.5, 0.4, 0.3, 0.2, 0.1], [0.1 * seed, 0.2, 0.3, 0.4, 0.5]) for seed in (0, 1)
    ]
    assert chosen(lines[0], "own", 1, "own") == pytest.approx(0.28)
    assert chosen(lines[0], "own", 5, "own") == 0.0
    assert chosen(lines[0], "cross-validation", 5, "own") == 0.5
    # The best of three of five: the first in 6 of 10 subsets, the second in 3, the third in 1.
    assert chosen(lines[0], "own", 3, "own") == pytest.approx((3 * 0.2 + 0.3) / 10)
    assert chosen(lines[0], "own + regression", 5, "own") == 0.0
    text = table(lines)
    assert "| 1 | 1 | none | 0.290 |  | 0.290 |  |" in text
    assert "| 5 | 1 | the selection's network, validation cells | 0.050 |" in text
    assert "| 5 | 5 | a predictor trained on each, validation cells | 0.050 |" in text
    assert table([]) == "No runs on record."


def test_ways_to_make_starts_are_compared_with_one_start_of_their_split() -> None:
    from bench.yoto.starts import table as starts_table
    from bench.yoto.ways import table

    def plain(seed: int, *scores: float) -> dict[str, Any]:
        by_task = [{"type": score} for score in scores]
        return {"set": "a", "seed": seed, "test": {"own": by_task, "regression": by_task}}

    def way(name: str, seed: int, own: float, seconds: float | None) -> dict[str, Any]:
        about = {"way": name, "set": "a", "seed": seed, "seconds": seconds}
        return about | {"own": own, "regression": own - 0.1}

    lines = [
        plain(1, 0.5, 0.7), plain(2, 0.6, 0.8),
        way("one start", 1, 0.0, 2.0), way("one start", 2, 0.0, 2.0),
        way("4 starts, halving", 1, 0.7, 3.0), way("4 starts, halving", 2, 0.7, 4.0),
        way("4 starts, halving", 3, 0.0, 9.0),  # without starts of its split
        way("L1's panel", 1, 0.6, None),
    ]  # fmt: skip
    rows = table(lines).splitlines()[2:]
    assert rows == [
        "| 4 starts, halving | 0.700 | +0.050 ± 0.050 | 0.600 | −0.050 ± 0.050 | 1.8 × | 2 |",
        "| L1's panel | 0.600 | +0.000 ± nan | 0.500 | −0.100 ± nan |  | 1 |",
    ]
    assert table(lines[:2]) == starts_table(lines[2:]) == "No runs on record."
