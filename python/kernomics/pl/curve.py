"""The scores of panels of several sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernomics._arguments import checked
from kernomics.errors import ConfigError
from kernomics.pl import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kernomics.evaluation.panels import PanelCurve

PARTS = {"validation": "validation cells", "test": "held-out cells"}
LEAST_GAP = 0.3  # inches between the sizes named on the axis


@checked
def curve_parts(curve: PanelCurve, task: str, metric: str) -> list[str]:
    """Return the parts of the split that have values of a task's metric, validation first."""
    table = curve.table
    rows = table[(table["task"] == task) & (table["metric"] == metric) & table["value"].notna()]
    return [part for part in PARTS if (rows["part"] == part).any()]


@checked
def panel_curve(
    curve: PanelCurve,
    *,
    task: str,
    metric: str,
    part: str = "test",
    name: str | None = None,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw one metric of one task against the size of the panel.

    Each dot is one training, each line goes through the means over the seeds. The values of both
    parts share their limits, so that two plots can stand side by side.

    Parameters
    ----------
    curve
        What `kernomics.evaluation.panels.panel_curve` returns.
    task, metric
        Which rows of its table.
    part
        ``"validation"``, by which the size was chosen, or ``"test"``.
    name
        What to call the metric; itself by default.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ConfigError
        If the table holds no value of that task, metric and part.
    """
    colors = style.get_theme(theme)
    table = curve.table
    both = table[(table["task"] == task) & (table["metric"] == metric)].dropna(subset=["value"])
    rows = both[both["part"] == part]
    if rows.empty:
        raise ConfigError(
            f"the curve holds no {metric!r} of task {task!r} on {part!r} cells; it has tasks "
            f"{sorted(set(table['task']))}, metrics {sorted(set(table['metric']))} and parts "
            f"{sorted(set(table['part']))}"
        )
    if ax is None:
        ax = style.new_axes(2.95, 2.1, colors, left=0.6, bottom=0.75, right=0.15, top=0.35)
    looks = zip(colors.palette, ("-", "--"), ("o", "s"), strict=False)
    for (predictor, found), (color, line, marker) in zip(
        rows.groupby("predictor", sort=False), looks, strict=False
    ):
        means = found.groupby("n_genes")["value"].mean()
        ax.plot(
            means.index, means, line, color=color, linewidth=1.6, label=str(predictor), zorder=3
        )
        ax.plot(found["n_genes"], found["value"], marker, color=color, markersize=3.5, zorder=4)
    ax.set_xscale("log", base=2)
    sizes = np.unique(table["n_genes"])
    low, high = float(both["value"].min()), float(both["value"].max())
    margin = 0.08 * max(high - low, 0.02)
    ax.set_ylim(low - margin, high + margin)
    ax.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
    ax.axvline(curve.suggested, color=colors.muted, linewidth=1.0, linestyle=":", zorder=1)
    to_the_right = curve.suggested <= np.sqrt(float(sizes[0]) * float(sizes[-1]))
    ax.annotate(
        f"suggested: {curve.suggested}",
        (curve.suggested, 0.03),
        xycoords=ax.get_xaxis_transform(),
        xytext=(4 if to_the_right else -4, 0),
        textcoords="offset points",
        ha="left" if to_the_right else "right",
        fontsize=style.SMALL,
        color=colors.muted,
    )
    style.dress(
        ax, colors, grid="y", x="genes in the panel", y=name or metric, title=PARTS.get(part, part)
    )
    _name_sizes(ax, sizes.tolist(), curve.suggested)
    ax.legend(
        frameon=False,
        fontsize=style.SMALL,
        labelcolor=colors.ink,
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.5 / (ax.get_window_extent().height / ax.figure.dpi)),
        ncols=2,
        borderpad=0,
        columnspacing=1.2,
    )
    return ax


def _name_sizes(ax: Axes, sizes: list[int], suggested: int) -> None:
    """Name the sizes on the axis, the suggested one first, as far as there is room."""
    ticker = style.matplotlib_module("ticker")
    inches = ax.get_window_extent().width / ax.figure.dpi
    low, high = np.log2(ax.get_xlim())
    at = {size: float((np.log2(size) - low) / (high - low) * inches) for size in sizes}
    named: list[int] = []
    for size in sorted(sizes, key=lambda size: (size != suggested, size)):
        if all(abs(at[size] - at[other]) >= LEAST_GAP for other in named):
            named.append(size)
    ax.xaxis.set_major_locator(ticker.FixedLocator(sorted(named)))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda size, _: f"{size:.0f}"))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
