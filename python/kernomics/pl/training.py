"""Curves of a training run, drawn from its history records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernomics._arguments import checked
from kernomics.errors import ConfigError
from kernomics.pl import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 400  # longer curves are averaged in blocks of neighbouring records
MONITORS = {
    "temperature": "temperature τ",
    "score_variance": "variance of the scores",
    "subset_size": "subset size k",
}
SCORES = {
    "knn_accuracy/": "kNN accuracy of ",
    "linear_accuracy/": "linear accuracy of ",
    "balanced_accuracy/": "balanced accuracy of ",
}


@dataclass(frozen=True)
class Curve:
    """One line: the steps and values of one quantity in one part of the split."""

    split: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class TrainingPanel:
    """One quantity of a run, with a curve per part of the split that recorded it."""

    key: str
    title: str
    curves: tuple[Curve, ...]


def _plain_key(key: str, split: str) -> str:
    return key.removeprefix(f"{split}_")


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    block = math.ceil(values.size / MOST_POINTS)
    starts = np.arange(0, values.size, max(block, 1))
    sums = np.add.reduceat(values, starts)
    return np.asarray(sums / np.diff(np.append(starts, values.size)))


@checked
def training_panels(history: Sequence[Mapping[str, Any]]) -> list[TrainingPanel]:
    """Sort history records into the quantities worth drawing.

    Parameters
    ----------
    history
        Records with ``step``, ``split`` (``"train"``, ``"validation"``, or ``"step"`` for figures
        logged between epochs, which are drawn only where ``"train"`` has none) and numbers by name.
        Drawn are ``loss``, ``loss_<task>`` (or ``loss/<task>``) of each task, ``knn_accuracy/``,
        ``linear_accuracy/`` and ``balanced_accuracy/`` of each label, ``temperature``,
        ``score_variance`` and ``subset_size``; a prefix ``train_`` or ``validation_`` equal to the
        record's split is taken off first. Values that are missing or not finite are left out.

    Returns
    -------
    list of TrainingPanel
        The total loss first, then the tasks' in the order met (left out for a single task, whose
        loss is the total), the accuracies, then the monitors. Empty for an empty history.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for place, record in enumerate(history):
        split = str(record.get("split", "train"))
        step = float(record.get("step", place))
        for name, value in record.items():
            key = _plain_key(name, split)
            wanted = key in MONITORS or key.startswith(("loss_", "loss/", *SCORES)) or key == "loss"
            if wanted and isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(key, {}).setdefault(split, []).append((step, float(value)))

    tasks = [key for key in found if key.startswith(("loss_", "loss/"))]
    if len(tasks) == 1 and "loss" in found:
        tasks = []
    scores = [key for key in found if key.startswith(tuple(SCORES))]
    order = [key for key in ("loss", *tasks, *scores, *MONITORS) if key in found]
    titles = {key: f"loss of {key[len('loss_') :]}" for key in tasks} | MONITORS
    for key in scores:
        kind = next(kind for kind in SCORES if key.startswith(kind))
        titles[key] = SCORES[kind] + key.removeprefix(kind)
    panels = []
    for key in order:
        if "train" in found[key]:
            found[key].pop("step", None)
        curves = []
        for split, points in found[key].items():
            steps, values = np.array(sorted(points)).T
            curves.append(Curve(split, _thinned(steps), _thinned(values)))
        panels.append(TrainingPanel(key, titles.get(key, "loss"), tuple(curves)))
    return panels


@checked
def training_panel(
    panel: TrainingPanel, *, ax: Axes | None = None, theme: style.ThemeName = "light"
) -> Axes:
    """Draw one quantity of a training run against the optimiser's steps.

    Parameters
    ----------
    panel
        One of those that `training_panels` returns.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    colors = style.get_theme(theme)
    if ax is None:
        ax = style.new_axes(2.85, 1.75, colors, left=0.6, bottom=0.5, right=0.15, top=0.35)
    looks = {"validation": (colors.palette[1], "--")}
    for curve in panel.curves:
        color, line = looks.get(curve.split, (colors.palette[0], "-"))
        ax.plot(
            curve.steps,
            curve.values,
            line,
            color=color,
            linewidth=1.6,
            marker="o" if curve.steps.size < 12 else "",
            markersize=3.5,
            label={"train": "training", "step": "training"}.get(curve.split, curve.split),
        )
    style.dress(ax, colors, grid="y", x="step", title=panel.title)
    lowest = min((float(curve.values.min()) for curve in panel.curves), default=0.0)
    if lowest >= 0:
        ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(style.matplotlib_module("ticker").MaxNLocator(5, integer=True))
    if len(panel.curves) > 1:
        ax.legend(frameon=False, fontsize=style.SMALL, labelcolor=colors.ink, loc="best")
    return ax


@checked
def training_curves(
    history: Sequence[Mapping[str, Any]], *, theme: style.ThemeName = "light"
) -> Figure:
    """Draw all curves of a run in one figure, two side by side.

    Parameters
    ----------
    history
        Records of the run; see `training_panels` for the keys that are drawn.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ConfigError
        If the history holds nothing to draw.
    """
    colors = style.get_theme(theme)
    panels = training_panels(history)
    if not panels:
        raise ConfigError(
            f"none of the {len(history)} history records has a loss or a monitored score to draw"
        )
    n_rows = math.ceil(len(panels) / 2)
    figure = style.new_figure(2 * style.PHONE, 2.6 * n_rows, colors)
    grid = figure.add_gridspec(
        n_rows, 2, left=0.09, right=0.98, top=1 - 0.13 / n_rows, bottom=0.2 / n_rows,
        hspace=0.55, wspace=0.28,
    )  # fmt: skip
    for place, panel in enumerate(panels):
        ax = figure.add_subplot(grid[place // 2, place % 2])
        training_panel(panel, ax=ax, theme=theme)
    return figure
