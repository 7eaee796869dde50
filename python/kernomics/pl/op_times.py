"""How many times the time of our ops torch takes on a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kernomics.pl import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = "kernomics"


def op_times(
    records: Sequence[Mapping[str, Any]],
    *,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw how many times our time the other ways take, a bar each; the line at 1 is ours.

    Parameters
    ----------
    records
        As `kernomics.benchmark.measure_ops` returns.
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
    ops = list(dict.fromkeys(r["op"] for r in records))
    timed = [r["way"] for r in records if r["times_kernomics"] is not None]
    ways = [way for way in dict.fromkeys(timed) if way != OURS]
    shares = {r["op"]: r["share_of_floor"] for r in records if r["way"] == OURS}
    times = {(r["op"], r["way"]): r["times_kernomics"] for r in records}
    labels = [op if shares[op] is None else f"{op}, {shares[op]:.0%} of the floor" for op in ops]
    if ax is None:
        ax = style.new_axes(
            3.4, 0.5 * len(ops), colors, left=style.label_width(labels), bottom=0.95, right=0.4
        )
    height = 0.7 / max(1, len(ways))
    for i, way in enumerate(ways):
        shown = [(y, times[op, way]) for y, op in enumerate(ops) if times[op, way] is not None]
        at = [y + (i - (len(ways) - 1) / 2) * height for y, _ in shown]
        lengths = [value for _, value in shown]
        ax.barh(at, lengths, 0.9 * height, color=colors.palette[i], label=way)
        for y, value in zip(at, lengths, strict=True):
            ax.text(
                value, y, f" {value:.3g}", va="center", fontsize=style.SMALL, color=colors.muted
            )
    ax.axvline(1.0, color=colors.ink, linewidth=1)
    ax.set_ylim(len(ops) - 0.5, -0.5)
    style.dress(ax, colors, grid="x", x="times the time of kernomics")
    style.name_ticks(ax.yaxis, labels)
    if ways:
        style.legend_below(ax, colors)
    return ax
