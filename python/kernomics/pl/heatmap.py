"""Pieces that the heat maps share: the mesh, a scale around zero, and the scale's legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernomics.pl import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Colormap

FINE_DPI = 200  # of what is stored as pixels inside an SVG
MOST_VECTOR_CELLS = 1_500  # more cells than that are stored as pixels


def diverging(theme: style.Theme) -> Colormap:
    """Return a scale from orange over nearly the background to blue; it is registered nowhere."""
    colors = style.matplotlib_module("colors")
    middle = np.mean([colors.to_rgb(theme.ground), colors.to_rgb(theme.grid)], axis=0)
    scale: Colormap = colors.LinearSegmentedColormap.from_list(
        "kernomics-diverging", [theme.palette[1], tuple(middle), theme.palette[0]]
    )
    return scale


def heat_map(
    ax: Axes,
    values: NDArray[np.floating[Any]],
    theme: style.Theme,
    *,
    scale: Colormap,
    low: float,
    high: float,
) -> QuadMesh:
    """Draw float [rows, columns] with the first row on top; NaN leaves the background."""
    n_rows, n_columns = values.shape
    many = values.size > MOST_VECTOR_CELLS
    if many:
        ax.figure.set_dpi(FINE_DPI)
    mesh = ax.pcolormesh(
        np.arange(n_columns + 1) - 0.5,
        np.arange(n_rows + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=scale,
        vmin=low,
        vmax=high,
        edgecolors=theme.ground,
        linewidth=0.4 if many else 0.8,
        rasterized=many,
    )
    ax.set_xlim(-0.5, n_columns - 0.5)
    ax.set_ylim(n_rows - 0.5, -0.5)
    style.dress(ax, theme)
    ax.spines[["left", "bottom"]].set_visible(False)
    return mesh


def scale_legend(
    ax: Axes, mesh: QuadMesh, title: str, theme: style.Theme, *, drop: float = 0.45
) -> None:
    """Explain the colours under the axes, flush left; ``drop`` is the distance in inches."""
    box = ax.get_window_extent()
    width, height = box.width / ax.figure.dpi, box.height / ax.figure.dpi
    place = ax.inset_axes((0.0, -drop / height, 1.5 / width, 0.09 / height))
    bar = ax.figure.colorbar(mesh, cax=place, orientation="horizontal")
    bar.outline.set_visible(False)
    # Two ends and the middle: more would run into each other.
    low, high = mesh.get_clim()
    ends = [f"{x:g}".replace("-", "−") for x in (low, (low + high) / 2, high)]
    values: NDArray[Any] = np.ma.asarray(mesh.get_array()).compressed()
    if (values < low).any() or (values > high).any():
        ends[0], ends[2] = f"≤ {ends[0]}", f"≥ {ends[2]}"
    bar.set_ticks([low, (low + high) / 2, high], labels=ends)
    place.tick_params(labelsize=style.SMALL, colors=theme.ink, length=0, pad=2)
    place.set_title(title, fontsize=style.SMALL, color=theme.muted, loc="left", pad=3)
