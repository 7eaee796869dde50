"""How the genes of a panel correlate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster import hierarchy

from kernomics._arguments import checked
from kernomics.pl import style
from kernomics.pl.heatmap import diverging, heat_map, scale_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kernomics.evaluation.panels import Redundancy

CELL = 0.135  # inches per gene, room for its name in SMALL
SIDE_UNNAMED = 6.5  # inches of a map without names
MOST_NAMED = 64


@checked
def correlation_order(redundancy: Redundancy) -> list[str]:
    """Return the panel's genes with correlated ones side by side: complete linkage on 1 − |r|."""
    names = [str(gene) for gene in redundancy.correlation.index]
    if len(names) < 3:
        return names
    r = redundancy.correlation.to_numpy(dtype=np.float64)
    distance = 1.0 - np.abs(r + r.T)[np.triu_indices(len(names), 1)] / 2
    tree = hierarchy.linkage(distance, method="complete", optimal_ordering=True)
    return [names[place] for place in hierarchy.leaves_list(tree)]


@checked
def panel_correlation(
    redundancy: Redundancy, *, ax: Axes | None = None, theme: style.ThemeName = "light"
) -> Axes:
    """Draw the correlations within a panel, with a frame around each group of like genes.

    Parameters
    ----------
    redundancy
        What `kernomics.evaluation.panels.redundancy` returns.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes. Beyond 64 genes their names are left out.
    """
    colors = style.get_theme(theme)
    genes = correlation_order(redundancy)
    n = len(genes)
    values = redundancy.correlation.loc[genes, genes].to_numpy(dtype=np.float64)
    labels = style.shorten(genes, 18) if n <= MOST_NAMED else []
    if ax is None:
        side = n * CELL if labels else SIDE_UNNAMED
        ax = style.new_axes(
            side,
            side,
            colors,
            left=max(style.label_width(labels), 0.3),
            bottom=0.75,
            right=max(0.1, 1.8 - side),
            top=max(style.label_width(labels), 0.3),
        )
    mesh = heat_map(ax, values, colors, scale=diverging(colors), low=-1.0, high=1.0)
    place = {gene: i for i, gene in enumerate(genes)}
    rectangle = style.matplotlib_module("patches").Rectangle
    for group in redundancy.groups:
        at = sorted(place[gene] for gene in group)
        if at[-1] - at[0] == len(at) - 1:  # a tie in the tree could have parted it
            ax.add_patch(
                rectangle(
                    (at[0] - 0.5, at[0] - 0.5),
                    len(at),
                    len(at),
                    fill=False,
                    edgecolor=colors.ink,
                    linewidth=1.3,
                    clip_on=False,
                )
            )
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.tick_params(axis="x", length=0, colors=colors.ink)
    style.name_ticks(ax.xaxis, labels, rotation=90, size=style.SMALL)
    style.name_ticks(ax.yaxis, labels, size=style.SMALL)
    if not labels:
        ax.set_xlabel(f"the panel's {n:,} genes")
        ax.set_ylabel(f"the panel's {n:,} genes")
    scale_legend(ax, mesh, "Pearson's r of log(1 + count)", colors)
    return ax
