"""The figures of docs/yoto*.md: macro-F1 against the panel size, and against time."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from bench.sets import SETS
from bench.yoto.costs import newest
from bench.yoto.methods import METHODS
from bench.yoto.results import Results
from kernomics.pl.style import SMALL, THEMES, dress, new_figure

THEME = THEMES["light"]
LINES = ("yoto", "hard_k", "persist", "l1", "de", "hvg")
"""Methods that are drawn, in the order of the theme's colours; random panels lie far below."""
DEPTH, LEAST_CELLS = 1_000, 10_000
"""Mean counts a cell, and cells, of the simulated sets whose times are drawn: with fewer cells a
pass has too few batches."""
WIDTH, HEIGHT, LEGEND = 3.3, 2.6, 1.9  # inches


def save(figure: Figure, path: Path) -> Path:
    """Write an SVG that is the same for the same data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "kernomics", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return path


def f1_figure(results: Results, name: str) -> Figure:
    """Draw macro-F1 against k on one data set, one pair of axes per task.

    Lines are the logistic regression on each method's genes; our own predictor is dashed. Bars are
    one standard deviation over seeds.
    """
    tasks = [task for found, task, _ in results.cases() if found == name]
    tasks = list(dict.fromkeys(tasks))
    sizes = sorted({line["k"] for line in results.where(set=name)})
    figure = new_figure(WIDTH * len(tasks) + LEGEND, HEIGHT, THEME)
    for place, (task, ax) in enumerate(
        zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True)
    ):
        for method, color in zip(LINES, THEME.palette, strict=False):
            style = {"color": color, "linewidth": 2.2 if method == "yoto" else 1.2}
            title = METHODS[method].title
            _line(ax, results, name, task, sizes, method, "lr", style | {"label": title})
            if method == "yoto":
                own = style | {"label": f"{title}, own predictor", "linestyle": "--"}
                _line(ax, results, name, task, sizes, method, "own", own)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(sizes))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel("genes in the panel")
        ax.set_title(f"{SETS[name].title}: {task}", parse_math=False)
        if place == 0:
            ax.set_ylabel("macro-F1 on test cells")
        dress(ax, THEME, grid="y")
    _legend(figure)
    return figure


def _line(
    ax: Any,
    results: Results,
    name: str,
    task: str,
    sizes: list[int],
    method: str,
    predictor: str,
    style: dict[str, Any],
) -> None:
    scores = {k: results.score(task, predictor, set=name, k=k, method=method) for k in sizes}
    found = {k: list(values.values()) for k, values in scores.items() if values}
    if found:
        error = [stdev(values) if len(values) > 1 else 0.0 for values in found.values()]
        ax.errorbar(
            list(found), [mean(values) for values in found.values()], error,
            marker="o", markersize=3.5, elinewidth=0.8, **style,
        )  # fmt: skip


def time_figure(results: Results, k: int = 32) -> Figure:
    """Draw each method's macro-F1 against its processor time, means over common cases."""
    by_method: dict[str, dict[tuple[Any, ...], tuple[float, float]]] = {}
    for method in LINES:
        found = {}
        for line in results.where(method=method, k=k):
            for task, scores in line["scores"].items():
                best = max(s["macro_f1"] for s in scores.values() if s is not None)
                found[line["set"], task, line["seed"]] = (line["seconds"], best)
        if found:
            by_method[method] = found
    cases = set.intersection(*(set(found) for found in by_method.values())) if by_method else set()
    figure = new_figure(WIDTH + LEGEND, HEIGHT, THEME)
    ax = figure.subplots()
    for method, color in zip(LINES, THEME.palette, strict=False):
        points = [by_method[method][case] for case in sorted(cases) if method in by_method]
        if points:
            seconds, score = (mean(values) for values in zip(*points, strict=True))
            title = METHODS[method].title
            ax.plot(max(seconds, 1e-2), score, "o", color=color, markersize=7, label=title)
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(0.22, 0.15)
    ax.set_xlabel("processor seconds, selection and own predictor")
    ax.set_ylabel("macro-F1, better predictor")
    sets = ", ".join(SETS[name].title for name in dict.fromkeys(case[0] for case in sorted(cases)))
    ax.set_title(f"k = {k}, mean over {len(cases)} cases of\n{sets}", parse_math=False)
    dress(ax, THEME, grid="y")
    _legend(figure)
    return figure


def scale_figure(lines: list[dict[str, Any]]) -> Figure | None:
    """Draw the time per cell and pass against the number of cells; None without results."""
    deep = [x for x in newest(lines) if x["mean_counts"] == DEPTH and x["n_cells"] >= LEAST_CELLS]
    if not deep:
        return None
    deep.sort(key=lambda x: int(x["n_cells"]))
    figure = new_figure(WIDTH, HEIGHT, THEME)
    ax = figure.subplots()
    cells = [x["n_cells"] for x in deep]
    curves = {
        "a default training": [1e6 / x["cells_per_second"] for x in deep],
        "one pass alone": [1e6 / x["one_epoch"]["cells_per_second"] for x in deep],
    }
    for color, (label, micros) in zip(THEME.palette, curves.items(), strict=False):
        ax.plot(cells, micros, "o-", color=color, markersize=5, label=label)
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(0, 1.1 * max(map(max, curves.values())))
    ax.set_xlabel("cells in the file")
    ax.set_ylabel("µs per cell and pass")
    ax.set_title(f"YOTO, {deep[0]['n_genes']:,} genes, one thread", parse_math=False)
    dress(ax, THEME, grid="y")
    ax.legend(loc="lower left", frameon=False, fontsize=SMALL, labelcolor=THEME.ink)
    return figure


def _legend(figure: Figure) -> None:
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.subplots_adjust(right=1 - LEGEND / figure.get_figwidth())
        figure.legend(
            handles=list(entries.values()), labels=list(entries), loc="center right",
            frameon=False, fontsize=SMALL, labelcolor=THEME.ink,
        )  # fmt: skip


def write_figures(results: Results, folder: Path) -> list[Path]:
    """Write all figures; returns their paths, none without results."""
    names = dict.fromkeys(line["set"] for line in results.lines)
    written = [save(f1_figure(results, name), folder / f"yoto_f1_{name}.svg") for name in names]
    if names:
        written.append(save(time_figure(results), folder / "yoto_time.svg"))
    return written
