"""Write the generated parts of docs/yoto*.md, and their figures, from bench/results/systems/.

    python -m bench.yoto.table           docs/yoto*.md and docs/figures/yoto_*.svg
    python -m bench.yoto.table --print   the parts to the screen

A part stands between two marker lines; the prose around them is not touched.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.machine import ROOT
from bench.records import BySeed, Difference, paired, read_lines
from bench.sets import SETS
from bench.table import NOTHING, duration, grid, put_between
from bench.yoto import partial, starts, sweep, ways
from bench.yoto.costs import persist_part, scale_part, time_part
from bench.yoto.methods import METHODS
from bench.yoto.results import (
    OTHERS,
    Results,
    beside_l1,
    hardest,
    overlap,
    panel_of,
)

DOCS = ROOT / "docs"
SINGLE_TASK = ("hard_k", "hard_k_joint")
RESULTS = ROOT / "bench" / "results" / "systems"
Lines = list[dict[str, Any]]


def markers(part: str) -> tuple[str, str]:
    """Return the lines around a generated part."""
    return f"<!-- {part}: begin (bench/yoto/table.py) -->", f"<!-- {part}: end -->"


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Write the mean of some values, and their standard deviation when there are several."""
    found = list(values)
    if not found:
        return ""
    text = f"{mean(found):.{digits}f}"
    return f"{text} ± {stdev(found):.{digits}f}" if len(found) > 1 else text


def bold_best(rows: list[list[str]], columns: Iterable[int]) -> None:
    """Make the largest mean of some columns bold, with all that are written alike."""
    for column in columns:
        means = [float(row[column].split()[0]) if row[column] else -math.inf for row in rows]
        for row, value in zip(rows, means, strict=True):
            if row[column] and value == max(means):
                row[column] = f"**{row[column]}**"


def has_several_tasks(name: str) -> bool:
    """Return whether a data set has several tasks."""
    return len(SETS[name].labels) > 1


# ---- the parts ----------------------------------------------------------------------------------


def about_part(lines: Lines) -> str:
    """Return the data sets, and what the runs were made with."""
    results = Results.of(lines, "main")
    if not results.lines:
        return NOTHING
    rows = []
    for name in dict.fromkeys(line["set"] for line in results.lines):
        line = results.where(set=name)[0]
        parts = " / ".join(f"{n:,}" for n in line["cells"].values())
        how = f"{line['split']['how']}, by `{line['split']['by']}`"
        tasks = ", ".join(f"`{task}`" for task in SETS[name].labels)
        rows.append([SETS[name].title, tasks, f"{line['n_genes']:,}", parts, how])
    loads = [line["load"] for line in results.lines]
    versions = sorted(
        {
            f"torch {v['torch']}, scanpy {v['scanpy']}, scikit-learn {v['scikit-learn']}"
            for v in (line["versions"] for line in results.lines)
        }
    )
    said = [
        f"{len(results.lines):,} runs",
        f"seeds {', '.join(str(s) for s in sorted({line['seed'] for line in results.lines}))}",
        f"commits {', '.join(sorted({line['commit'] for line in results.lines}))}",
        *versions,
        ", ".join(sorted({line["device"] for line in results.lines})),
        f"threads {', '.join(sorted({str(line['threads']) for line in results.lines}))}",
        f"load average at the start {min(loads):.1f} to {max(loads):.1f}",
    ]
    head = [
        "data set",
        "predicts",
        "genes",
        "cells of the first seed: train / validation / test",
        "split",
    ]
    return grid(head, rows) + f"\n\n{'; '.join(said)}."


def _contenders(results: Results, task: str, own: bool, **case: Any) -> dict[str, dict[int, float]]:
    """Return the scores of other methods, by a title that says whose predictor it is."""
    found = {}
    for method in OTHERS:
        title = METHODS[method].title
        found[f"{title}, LR"] = results.score(task, "lr", method=method, **case)
        if own:
            found[f"{title}, own"] = results.score(task, "own", method=method, **case)
    return found


def summary_part(lines: Lines) -> str:
    """Return ours against the best other, per data set, task and k."""
    results = Results.of(lines, "main")
    rows, verdicts, at_least = [], {"own": Counter[str](), "lr": Counter[str]()}, Counter[str]()
    for name, task, k in results.cases():
        row = [SETS[name].title, f"`{task}`", str(k)]
        for predictor in ("own", "lr"):
            case: dict[str, Any] = {"set": name, "k": k}
            ours = results.score(task, predictor, method="yoto", **case)
            others = _contenders(results, task, predictor == "own", **case)
            best = hardest(ours, others)
            row += _against(ours, best, others)
            if best:
                verdicts[predictor][best[1].verdict] += 1
                at_least[predictor] += best[1].mean >= 0
        rows.append(row)
    if not sum(at_least.values()) + sum(sum(v.values()) for v in verdicts.values()):
        return NOTHING
    said = []
    for predictor, title in (("own", "own predictor"), ("lr", "logistic regression")):
        count = verdicts[predictor]
        said.append(
            f"- {title}: of {sum(count.values())} comparisons {count['won']} won, {count['even']} "
            f"within one standard error, {count['lost']} lost; mean at least as high in "
            f"{at_least[predictor]}"
        )
    said += filter(None, [beside_l1(results)])
    head = [
        "data set", "task", "k",
        "YOTO, own", "best other", "difference", "YOTO, LR", "best other, LR", "difference",
    ]  # fmt: skip
    return "\n".join(said) + "\n\n" + grid(head, rows)


def _against(
    ours: dict[int, float],
    best: tuple[str, Difference] | None,
    others: dict[str, dict[int, float]],
) -> list[str]:
    if best is None:
        return [spread(ours.values()), "", ""]
    name, difference = best
    other = f"{mean(others[name].values()):.3f} ({name})"
    return [spread(ours.values()), other, str(difference)]


def tables_part(lines: Lines) -> str:
    """Return all methods of every data set and task."""
    results = Results.of(lines, "main")
    blocks = []
    for name, task in dict.fromkeys(case[:2] for case in results.cases()):
        rows: list[list[str]] = []
        for k in sorted({line["k"] for line in results.where(set=name)}):
            block = _method_rows(results, name, task, k)
            bold_best(block, (2, 3, 4, 5))
            rows += block
        head = [
            "k", "method", "macro-F1, own", "macro-F1, LR", "accuracy, LR", "AUPRC, LR",
            "trainings", "processor time", "overlap", "seeds",
        ]  # fmt: skip
        blocks.append(
            f"<details><summary>{SETS[name].title}: {task}</summary>\n\n{grid(head, rows)}\n\n"
            "</details>"
        )
    return "\n\n".join(blocks) or NOTHING


def _method_rows(results: Results, name: str, task: str, k: int) -> list[list[str]]:
    rows = []
    for method, what in METHODS.items():
        case = {"set": name, "k": k, "method": method}
        found = [line for line in results.where(**case) if task in line["scores"]]
        if not found:
            continue
        shared = overlap([panel_of(line, task) for line in found])
        scores = [
            results.score(task, predictor, metric, **case).values()
            for predictor, metric in (
                ("own", "macro_f1"), ("lr", "macro_f1"), ("lr", "accuracy"), ("lr", "auprc"),
            )
        ]  # fmt: skip
        rows.append(
            [
                str(k),
                what.title,
                *[spread(values) for values in scores],
                f"{mean(line['n_trainings'] for line in found):g}",
                duration(mean(line["seconds"] for line in found)),
                "" if math.isnan(shared) else f"{shared:.2f}",
                str(len(found)),
            ]
        )
    return rows


def tasks_part(lines: Lines) -> str:
    """Return one training for all tasks against one for each."""
    results = Results.of(lines, "main")
    rows = []
    for name, task, k in results.cases():
        case: dict[str, Any] = {"set": name, "k": k}
        if not has_several_tasks(name) or not _compared(results, **case):
            continue
        row = [SETS[name].title, f"`{task}`", str(k)]
        for predictor in ("own", "lr"):
            ours = results.score(task, predictor, method="yoto", **case)
            row.append(spread(ours.values()))
            for method in ("yoto_single", *SINGLE_TASK):
                other = results.score(task, predictor, method=method, **case)
                row.append(str(paired(ours, other) or ""))
        unions = [
            len({gene for panel in line["panels"] for gene in panel["genes"]})
            for line in results.where(method="yoto_single", **case)
        ]
        row.append(f"{mean(unions):.0f}" if unions else "")
        rows.append(row)
    head = ["data set", "task", "k"]
    for predictor in ("own", "LR"):
        head.append(f"YOTO, {predictor}")
        head += [f"− {METHODS[method].title}" for method in ("yoto_single", *SINGLE_TASK)]
    head.append("genes together, YOTO per task")
    if not rows:
        return NOTHING
    return f"{grid(head, rows)}\n\nMean over the tasks:\n\n{_mean_over_tasks(results)}"


def _compared(results: Results, **case: Any) -> bool:
    """Whether a training for each task is on record beside that for all."""
    return any(results.where(method=method, **case) for method in ("yoto_single", *SINGLE_TASK))


def _mean_over_tasks(results: Results) -> str:
    """Return YOTO − single-task trainings, the mean over a set's tasks and over all, by seed."""
    tasks: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for name, task, k in results.cases():
        if has_several_tasks(name) and _compared(results, set=name, k=k):
            tasks.setdefault((SETS[name].title, k), []).append((name, task))
    for (_, k), of in list(tasks.items()):
        tasks.setdefault(("all of them", k), []).extend(of)
    columns = [(other, predictor) for other in SINGLE_TASK for predictor in ("own", "lr")]
    rows = []
    for (title, k), of in tasks.items():
        row = [title, str(k)]
        for other, predictor in columns:
            ours, theirs = (_mean_by_seed(results, of, k, m, predictor) for m in ("yoto", other))
            row.append(str(paired(ours, theirs) or ""))
        rows.append(row)
    titles = {"own": "own", "lr": "LR"}
    head = [f"{titles[predictor]}, − {METHODS[other].title}" for other, predictor in columns]
    return grid(["data set", "k", *head], rows)


def _mean_by_seed(
    results: Results, of: Sequence[tuple[str, str]], k: int, method: str, predictor: str
) -> BySeed:
    """Return a method's mean over (set, task), for the seeds with all of them."""
    scores = [results.score(task, predictor, set=name, k=k, method=method) for name, task in of]
    return {
        seed: mean(score[seed] for score in scores)
        for seed in set.intersection(*(set(score) for score in scores))
    }


def partial_part(lines: Lines) -> str:
    """Return few labels of one task, with another task's help and without."""
    results = Results.of(lines, "partial")
    rows = []
    for name, poor in partial.SCENARIOS:
        for k in sorted({line["k"] for line in results.where(set=name, poor=poor)}):
            case = {"set": name, "poor": poor, "k": k}
            helpers = ", ".join(f"`{task}`" for task in SETS[name].labels if task != poor)
            labelled = mean(line["labelled_train"][poor] for line in results.where(**case))
            start = [SETS[name].title, f"`{poor}`", f"{labelled:.0f}", helpers]
            for predictor in ("own", "lr"):
                by_method = {
                    method: results.score(poor, predictor, method=method, **case)
                    for method in partial.METHODS
                }
                row = [*start, {"lr": "LR"}.get(predictor, predictor)]
                row += [spread(values.values()) for values in by_method.values()]
                for helped in ("helped", "aided"):
                    for alone in ("alone", "alone_all"):
                        row.append(str(paired(by_method[helped], by_method[alone]) or ""))
                rows.append(row)
    titles = partial.METHODS
    head = ["data set", "task with few labels", "labelled cells", "helped by", "judged by"]
    head += titles.values()
    for helped in ("helped", "aided"):
        head += [f"{titles[helped]} − {titles[alone]}" for alone in ("alone", "alone_all")]
    return grid(head, rows) if rows else NOTHING


def figures_part(lines: Lines) -> str:
    """Return the links to the figures."""
    results = Results.of(lines, "main")
    names = dict.fromkeys(line["set"] for line in results.lines)
    links = [
        f"![macro-F1 against the panel size on {SETS[name].title}](figures/yoto_f1_{name}.svg)"
        for name in names
    ]
    if names:
        links.append("![macro-F1 against time](figures/yoto_time.svg)")
    return "\n\n".join(links) or NOTHING


def linked_figures(text: str) -> list[Path]:
    """Return the figures that a document's generated parts link to."""
    return [DOCS / name for name in re.findall(r"\((figures/yoto_\w+\.svg)\)", text)]


PARTS: dict[str, Callable[[Lines], str]] = {
    "about": about_part,
    "summary": summary_part,
    "figures": figures_part,
    "tables": tables_part,
    "tasks": tasks_part,
    "partial": partial_part,
    "time": time_part,
    "persist": persist_part,
    "scale": scale_part,
    "sweep": sweep.table,
    "starts": starts.table,
    "ways": ways.table,
}
PAGES = {
    DOCS / "yoto.md": ("summary", "time", "scale"),
    DOCS / "yoto-benchmarks.md": (
        "about",
        "figures",
        "sweep",
        "starts",
        "ways",
        "tasks",
        "partial",
        "persist",
        "tables",
    ),
}  # fmt: skip
"""Which parts each page shows."""

FILES = ("yoto", "yoto_scale", "yoto_starts", "yoto_sweep")


def file_of(part: str) -> str:
    """Return which file of results a part is made from."""
    part = {"ways": "starts"}.get(part, part)
    return f"yoto_{part}" if f"yoto_{part}" in FILES else "yoto"


def render(text: str, records: Mapping[str, Lines], parts: Iterable[str] = tuple(PARTS)) -> str:
    """Return a document with its generated parts made anew.

    Raises
    ------
    SystemExit
        When the document lacks a part's marker lines.
    """
    for part in parts:
        made = PARTS[part](records.get(file_of(part), []))
        text = put_between(text, *markers(part), made, "the document")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the generated parts of docs/yoto*.md.")
    parser.add_argument("--print", action="store_true", help="to the screen, no files")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    records = {name: read_lines(args.results / f"{name}.jsonl") for name in FILES}
    if args.print:
        for part, make in PARTS.items():
            print(f"\n== {part}\n{make(records[file_of(part)])}")
        return
    for page, parts in PAGES.items():
        page.write_text(render(page.read_text(), records, parts))
    from bench.yoto.figures import save, scale_figure, write_figures

    drawn = scale_figure(records["yoto_scale"])
    if drawn is not None:
        print(save(drawn, DOCS / "figures" / "yoto_scale.svg").relative_to(ROOT))
    for path in write_figures(Results.of(records["yoto"], "main"), DOCS / "figures"):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
