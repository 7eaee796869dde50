"""How much panels of several seeds agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kernomics._arguments import checked
from kernomics.errors import ConfigError
from kernomics.pl import style
from kernomics.pl.heatmap import heat_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kernomics.evaluation.panels import Stability

BAR_HEIGHT = 0.21  # inches per gene
CELL = 0.42  # inches per seed


@checked
def gene_frequency(
    stability: Stability,
    genes: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw how many seeds chose each gene; genes of the consensus are coloured, others grey.

    Parameters
    ----------
    stability
        What `kernomics.evaluation.panels.panel_stability` returns.
    genes
        Which genes, in the order to draw; by default the 32 most frequent.
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
        If a gene was chosen by no seed.
    """
    colors = style.get_theme(theme)
    shown = list(stability.frequency.index[:32]) if genes is None else list(genes)
    unknown = [gene for gene in shown if gene not in stability.frequency.index]
    if unknown or not shown:
        raise ConfigError(
            f"{len(unknown)} of {len(shown)} genes were not selected by any seed"
            + (f", first {unknown[0]!r}" if unknown else "; name at least one")
        )
    rows = style.shorten(shown, 18)
    if ax is None:
        ax = style.new_axes(
            1.45,
            max(len(rows), 2) * BAR_HEIGHT,
            colors,
            left=style.label_width(rows),
            right=0.2,
            bottom=0.45,
            top=0.05,
        )
    agreed = set(stability.consensus)
    at = np.arange(len(shown))
    ax.barh(
        at,
        stability.frequency.loc[shown].to_numpy(),
        color=[colors.palette[0] if gene in agreed else colors.quiet for gene in shown],
        height=0.7,
    )
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
    ax.set_ylim(max(len(shown), 2) - 0.4, -0.6)
    style.dress(ax, colors, grid="x", x="seeds that selected it")
    ax.spines["bottom"].set_visible(False)
    style.name_ticks(ax.yaxis, rows)
    return ax


@checked
def panel_overlap(
    stability: Stability, *, ax: Axes | None = None, theme: style.ThemeName = "light"
) -> Axes:
    """Draw the Jaccard index of each pair of seeds' panels, seeds × seeds.

    Parameters
    ----------
    stability
        What `kernomics.evaluation.panels.panel_stability` returns.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; each cell states its value.
    """
    colors = style.get_theme(theme)
    values = stability.overlap.to_numpy(dtype=np.float64)
    names = [str(seed) for seed in stability.overlap.index]
    n = len(names)
    if ax is None:
        ax = style.new_axes(
            n * CELL,
            n * CELL,
            colors,
            left=style.label_width(names) + 0.25,
            bottom=0.55,
            right=max(0.1, 1.6 - n * CELL),
        )
    scale = style.sequential(colors)
    heat_map(ax, values, colors, scale=scale, low=0.0, high=1.0)
    for row, column in np.ndindex(n, n):
        value = values[row, column]
        ax.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=style.SMALL,
            color=style.readable_on(scale(value)),
        )
    ax.set_aspect("equal")
    style.name_ticks(ax.xaxis, names)
    style.name_ticks(ax.yaxis, names)
    ax.set_xlabel("seed")
    ax.set_ylabel("seed")
    return ax
