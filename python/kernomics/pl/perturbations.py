"""Consistency of perturbations: by layer, and against its null."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernomics._arguments import checked
from kernomics.errors import ConfigError
from kernomics.pl import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kernomics.evaluation.perturbations import PerturbationScores
    from kernomics.metrics import PerturbationConsistency


@checked
def consistency_by_block(
    scores: PerturbationScores, *, ax: Axes | None = None, theme: style.ThemeName = "light"
) -> Axes:
    """Draw the share of consistent perturbations after each block of a TxFM.

    Parameters
    ----------
    scores
        What `kernomics.evaluation.perturbations.evaluate_perturbations` returns.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes. Representations without blocks, such as PCA, are level lines across.

    Raises
    ------
    ConfigError
        If no TxFM was scored.
    """
    colors = style.get_theme(theme)
    of_blocks = scores.table[scores.table["block"].notna()].sort_values("block")
    others = scores.table[scores.table["block"].isna()]
    if of_blocks.empty:
        raise ConfigError("no TxFM was scored, so there are no blocks to draw; evaluate a model")
    if ax is None:
        ax = style.new_axes(2.95, 2.1, colors, left=0.7, bottom=0.55, right=0.15, top=0.35)
    at = of_blocks["block"].to_numpy(dtype=np.int64)
    ax.plot(
        at, of_blocks["consistency"], "-o", color=colors.palette[0], linewidth=1.6, markersize=3.5,
        label="TxFM", zorder=3,
    )  # fmt: skip
    for i, (name, share) in enumerate(others["consistency"].items()):
        color = colors.palette[1 + i % (len(colors.palette) - 1)]
        line = ax.axhline(share, color=color, linewidth=1.2, linestyle="--", zorder=2)
        line.set_label(style.shorten([str(name)])[0])
    top = style.nice_ceiling(float(scores.table["consistency"].max()))
    ax.set_ylim(0, min(top, 1.0) * 1.04)
    ax.set_xlim(at[0] - 0.3, at[-1] + 0.3)
    step = -(-len(at) // 12)
    ax.set_xticks(at[:: int(step)])
    style.dress(ax, colors, grid="y", x="after block", y="consistent perturbations")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    legend = ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=style.SMALL,
        labelcolor=colors.ink, ncols=3, borderpad=0, handlelength=1.4, columnspacing=1,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return ax


@checked
def consistency_null(
    consistency: PerturbationConsistency,
    *,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw the null's cosines as a histogram, and each perturbation's statistic below it.

    Parameters
    ----------
    consistency
        What `kernomics.metrics.perturbation_consistency` returns.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; consistent perturbations are coloured, the others grey.
    """
    colors = style.get_theme(theme)
    table = consistency.table.dropna(subset=["statistic"])
    counts = consistency.null_histogram
    edges = np.linspace(-1, 1, len(counts) + 1)
    if ax is None:
        ax = style.new_axes(2.95, 2.1, colors, left=0.7, bottom=0.55, right=0.15, top=0.35)
    density = counts / counts.max()
    ax.stairs(density, edges, fill=True, color=colors.quiet, label=f"null of {consistency.null}")
    for consistent, color, label in (
        (False, colors.muted, f"p ≥ {consistency.threshold:g}"),
        (True, colors.palette[0], f"p < {consistency.threshold:g}"),
    ):
        found = table.loc[table["consistent"] == consistent, "statistic"].to_numpy()
        ax.vlines(found, -0.16, -0.04, color=color, linewidth=1.1, label=label)
    full = np.flatnonzero(counts)
    low = min(edges[full[0]], table["statistic"].min())
    high = max(edges[full[-1] + 1], table["statistic"].max())
    margin = 0.03 * (high - low)
    ax.set_xlim(low - margin, high + margin)
    ax.set_ylim(-0.2, 1.05)
    ax.set_yticks([])
    ax.set_xlabel("cosine with the others' mean")
    ax.set_ylabel("frequency")
    style.dress(ax, colors)
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=style.SMALL,
        labelcolor=colors.ink, ncols=3, borderpad=0, handlelength=1.2, columnspacing=0.9,
    )  # fmt: skip
    return ax
