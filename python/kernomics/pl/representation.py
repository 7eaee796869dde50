"""Maps of the same cells by a TxFM's representation and by PCA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernomics.errors import ConfigError, closest
from kernomics.pl import style
from kernomics.pl.cell_map import SIDE, draw_cells, draw_classes, map_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kernomics.evaluation.representation_maps import RepresentationMaps

LIBRARY_SIZE = "library size"
LEGEND_LINE = 0.16  # inches


def representation_map(
    maps: RepresentationMaps,
    representation: str,
    color: str = LIBRARY_SIZE,
    *,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw one map, coloured by a label, by the batch or by library size.

    Parameters
    ----------
    maps
        What `kernomics.evaluation.representation_maps.representation_maps` returns.
    representation
        Which map, ``"TxFM"`` or ``"PCA"``.
    color
        A label of `maps`, or ``"library size"``. The names of classes stand on the map; batches,
        which should mix, are named below it.
    ax
        Axes to draw on; by default a new square figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes. Classes beyond the 18 largest and unlabelled cells are grey.

    Raises
    ------
    ConfigError
        If there is no such map or label.
    """
    colors = style.get_theme(theme)
    if representation not in maps.points:
        raise ConfigError(
            f"there is no map of {representation!r}; {closest(representation, maps.points)}"
        )
    if color not in (LIBRARY_SIZE, *maps.labels):
        known = [LIBRARY_SIZE, *maps.labels]
        raise ConfigError(f"the cells have no {color!r} to colour by; {closest(color, known)}")
    points = maps.points[representation]
    title = f"{representation}, {maps.n_dimensions[representation]:,} dimensions"
    if representation == "PCA":
        title = f"PCA, {maps.n_dimensions[representation]:,} components"
    if color in maps.labels and maps.labels[color].kind == "categorical":
        label = maps.labels[color]
        below = color == maps.batch
        lines = -(-min(len(label.categories), 18) // 3) if below else 0
        ax = map_axes(title, ax, colors, bottom=0.3 + LEGEND_LINE * lines)
        draw_classes(
            ax, points, label.values, label.categories, colors,
            names="below" if below else "on the map",
        )  # fmt: skip
        return ax
    if color in maps.labels:
        values, name = np.asarray(maps.labels[color].values, dtype=np.float64), color
    else:
        values, name = np.log10(np.maximum(maps.library_size, 1.0)), "log10 library size"
    ax = map_axes(title, ax, colors, bottom=0.75)
    x, y = points[np.isnan(values)].T
    ax.scatter(x, y, s=2, color=colors.quiet, linewidths=0, rasterized=True)
    order = np.flatnonzero(~np.isnan(values))
    dots = draw_cells(ax, points, order, c=values[order], cmap=style.sequential(colors))
    scale = ax.inset_axes((0.0, -0.13, 0.45, 0.03))
    bar = ax.figure.colorbar(dots, cax=scale, orientation="horizontal")
    bar.outline.set_visible(False)
    scale.tick_params(labelsize=style.SMALL, colors=colors.ink, length=0, pad=2)
    scale.text(
        1.05, 0.5, style.shorten([name], 24)[0], transform=scale.transAxes, va="center",
        fontsize=style.SMALL, color=colors.muted, parse_math=False,
    )  # fmt: skip
    return ax


def representation_maps(
    maps: RepresentationMaps, color: str = LIBRARY_SIZE, *, theme: style.ThemeName = "light"
) -> Figure:
    """Draw the maps of all representations side by side, coloured alike.

    Parameters
    ----------
    maps, color, theme
        As in `representation_map`.

    Returns
    -------
    matplotlib.figure.Figure
        A figure with an axes per representation.
    """
    n = len(maps.points)
    width, height = n * (SIDE + 0.4), SIDE + 1.6
    figure = style.new_figure(width, height, style.get_theme(theme))
    for place, name in enumerate(maps.points):
        left = 0.3 + place * (SIDE + 0.4)
        ax = figure.add_axes((left / width, 1.3 / height, SIDE / width, SIDE / height))
        representation_map(maps, name, color, ax=ax, theme=theme)
    return figure
