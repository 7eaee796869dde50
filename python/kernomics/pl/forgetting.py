"""How the losses of old and new genes change over the stages of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kernomics._arguments import checked, numbers_of
from kernomics.errors import ConfigError
from kernomics.pl import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 7


@checked
def stage_losses(
    losses: pd.DataFrame,
    *,
    oracle: pd.DataFrame | None = None,
    title: str = "",
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw each group's loss after each stage; the stage that brings the group is ringed.

    Parameters
    ----------
    losses
        As `kernomics.models.GIL.losses` returns: a row of the untrained network, then one after
        each stage; at most seven groups.
    oracle
        The same of a training of all stages at once, whose losses are drawn as dotted lines.
    title
        Above the plot.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    n_rows, n_groups = losses.shape
    if n_rows < 2 or not 1 <= n_groups <= MOST_LINES:
        raise ConfigError(
            f"losses have {n_rows} rows and {n_groups} columns: two rows or more, and one to "
            f"{MOST_LINES} groups, can be drawn"
        )
    lacking = [] if oracle is None else [n for n in losses.columns if n not in oracle.columns]
    if oracle is not None and (lacking or not len(oracle)):
        raise ConfigError(
            f"oracle has no loss of {', '.join(map(str, lacking)) or 'any stage'}: give the losses "
            "of a training of the same stages"
        )
    colors = style.get_theme(theme)
    if ax is None:
        ax = style.new_axes(3.4, 2.3, colors, left=0.6, bottom=0.75, right=0.15, top=0.35)
    values, at = losses.to_numpy(np.float64)[1:], np.arange(n_rows - 1)
    for g, name in enumerate(losses.columns):
        color = colors.palette[g]
        ax.plot(at, values[:, g], "o-", color=color, markersize=4, linewidth=1.6, label=str(name))
        if g < len(at):
            ax.plot(
                at[g], values[g, g], "o", markersize=9, markerfacecolor="none",
                markeredgecolor=color,
            )  # fmt: skip
        if oracle is not None:
            ax.axhline(
                float(oracle[name].iloc[-1]), color=color, linestyle=":", linewidth=1.0, zorder=1
            )
    style.dress(ax, colors, grid="y", x="after stage", y="squared error", title=title)
    ax.set_xticks(at, [str(name) for name in losses.index[1:]])
    ax.set_xlim(-0.3, n_rows - 2 + 0.3)
    ax.set_ylim(bottom=0)
    ax.legend(
        frameon=False, fontsize=style.SMALL, labelcolor=colors.ink, loc="upper left",
        bbox_to_anchor=(-0.02, -0.22), ncols=3, borderpad=0, columnspacing=1.2,
    )  # fmt: skip
    return ax


@checked
def forgetting_by_memory(
    deltas: Mapping[int, Sequence[float]],
    *,
    naive: Sequence[float] = (),
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw what is forgotten against how many cells of each stage are kept.

    Parameters
    ----------
    deltas
        Per size of the memory, Δ of one seed or several.
    naive
        Δ without a memory, a dotted line at its mean.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    whole = all(isinstance(size, int | np.integer) and size >= 1 for size in deltas)
    values = {size: numbers_of(f"deltas[{size}]", found).ravel() for size, found in deltas.items()}
    if not deltas or not whole or not all(map(len, values.values())):
        raise ConfigError("deltas must hold, per size of the memory from 1 on, one value or more")
    colors = style.get_theme(theme)
    if ax is None:
        ax = style.new_axes(2.95, 2.1, colors, left=0.65, bottom=0.55, right=0.15, top=0.1)
    sizes = sorted(deltas)
    means = [float(np.mean(values[size])) for size in sizes]
    color = colors.palette[0]
    ax.plot(sizes, means, "-", color=color, linewidth=1.6, label="replay")
    for size in sizes:
        ax.plot([size] * len(values[size]), values[size], "o", color=color, markersize=3.5)
    if len(naive):
        ax.axhline(
            float(np.mean(naive)), color=colors.muted, linestyle=":", linewidth=1.2, label="naive"
        )
    ax.set_xscale("log")
    ax.xaxis.set_minor_locator(style.matplotlib_module("ticker").NullLocator())
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    style.dress(ax, colors, grid="y", x="cells kept of each stage", y="Δ, loss forgotten")
    ax.legend(frameon=False, fontsize=style.SMALL, labelcolor=colors.ink, loc="best")
    return ax


@checked
def losses_and_classes(
    methods: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    y: str = "accuracy",
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw how well methods predict genes against how well classes are told from their features.

    Parameters
    ----------
    methods
        Per method its losses and its scores of classes, each of one seed or several: a point at
        their means, with their standard errors as bars; at most seven methods.
    y
        What the scores are.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    if not 1 <= len(methods) <= MOST_LINES:
        raise ConfigError(f"{len(methods)} methods are given: one to {MOST_LINES} can be drawn")
    points = {}
    for name, pair in methods.items():
        if np.iterable(pair) and not isinstance(pair, str) and len(pair) == 2:
            points[name] = [numbers_of(f"methods[{name!r}]", found).ravel() for found in pair]
        if name not in points or not all(len(found) for found in points[name]):
            raise ConfigError(f"methods[{name!r}] must hold losses and scores, one or more of each")
    colors = style.get_theme(theme)
    if ax is None:
        ax = style.new_axes(2.95, 2.3, colors, left=0.65, bottom=0.95, right=0.15, top=0.1)
    for color, (name, both) in zip(colors.palette, points.items(), strict=False):
        middle = [float(np.mean(found)) for found in both]
        error = [
            float(np.std(found, ddof=1)) / np.sqrt(len(found)) if len(found) > 1 else 0.0
            for found in both
        ]
        ax.errorbar(
            middle[0], middle[1], xerr=error[0], yerr=error[1], fmt="o", color=color,
            markersize=5, elinewidth=1.0, label=str(name),
        )  # fmt: skip
    style.dress(ax, colors, grid="y", x="squared error, all genes", y=y)
    ax.legend(
        frameon=False, fontsize=style.SMALL, labelcolor=colors.ink, loc="upper left",
        bbox_to_anchor=(-0.02, -0.24), ncols=2, borderpad=0, columnspacing=1.2,
    )  # fmt: skip
    return ax
