"""How well predictions hold up as genes are removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kernomics._arguments import checked
from kernomics.errors import ConfigError, closest
from kernomics.pl import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kernomics.attribution import Pruning

SHOWN = ("absolute", "signed_by_change", "effect", "importance", "|DE|", "HVG", "random")
"""The rankings drawn by default, as far as the pruning has them."""
NAMES = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}


@checked
def pruning_curves(
    pruning: Pruning,
    rankings: Sequence[str] | None = None,
    *,
    metric: str = "balanced_accuracy",
    order: str = "lowest first",
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw a metric against the share of genes kept, one line per ranking.

    Parameters
    ----------
    pruning
        What `kernomics.attribution.prune` returns.
    rankings
        Which rankings, at most seven; by default the main ones.
    metric
        A column of its table.
    order
        ``"lowest first"``, or ``"highest first"``: which genes are removed first.
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
    table = pruning.table
    there = list(dict.fromkeys(table["ranking"]))
    if metric not in table.columns:
        raise ConfigError(f"the pruning has no {metric!r}; {closest(metric, table.columns)}")
    orders = list(dict.fromkeys(table["order"]))
    if order not in orders:
        raise ConfigError(f"the pruning has no order {order!r}; {closest(order, orders)}")
    names = [name for name in SHOWN if name in there] or there[: len(colors.palette)]
    if rankings is not None:
        names = list(rankings)
    for name in names:
        if name not in there:
            raise ConfigError(f"the pruning has no ranking {name!r}; {closest(name, there)}")
    if not 0 < len(names) <= len(colors.palette):
        raise ConfigError(
            f"rankings has {len(names)} names: 1 to {len(colors.palette)} lines can be told apart"
        )
    if ax is None:
        ax = style.new_axes(2.85, 2.1, colors, left=0.6, bottom=1.25, right=0.15, top=0.35)
    ticker = style.matplotlib_module("ticker")
    kept = np.empty(0)
    for name, color, marker in zip(names, colors.palette, "os^vDPX", strict=False):
        rows = table[(table["ranking"] == name) & (table["order"] == order)]
        kept = 100 * (1 - rows["removed"].to_numpy())
        ax.plot(
            kept, rows[metric], color=color, linewidth=1.4, marker=marker, markersize=3.5,
            label=name, linestyle="--" if name == "random" else "-",
        )  # fmt: skip
    if metric == "balanced_accuracy":
        ax.axhline(0.5, color=colors.muted, linewidth=0.8, linestyle=":", zorder=1)
    ax.set_xscale("log")
    ax.set_xlim(kept.max() * 1.15, kept.min() / 1.15)  # what is left shrinks to the right
    ax.xaxis.set_major_locator(ticker.FixedLocator(_apart(kept)))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:.3g}"))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    first = order.removesuffix(" first")
    ax.set_title(f"{first} scores removed first", loc="left", fontsize=style.TEXT, color=colors.ink)
    ax.set_xlabel("genes kept, %")
    ax.set_ylabel(NAMES.get(metric, metric.replace("_", " ")))
    style.dress(ax, colors, grid="y")
    style.legend_below(ax, colors)
    return ax


def _apart(kept: np.ndarray) -> list[float]:
    """Leave out shares whose labels would overlap on a log axis."""
    found: list[float] = []
    for x in sorted(kept.tolist(), reverse=True):
        if not found or found[-1] / x > 1.7:
            found.append(x)
    return found
