"""How maps of cells are drawn: dots, colours, and the names of classes where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from kernomics.pl import style
from kernomics.pl.heatmap import FINE_DPI

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

SIDE = 3.35  # inches
MOST_COLORS = 18  # six hues, each also darker and lighter; further classes are grey
LABEL_HEIGHT = 0.17  # inches
LABEL_STEP = 0.085  # inches between the places tried
INCHES_PER_SHARE = 30.0  # how far a label moves to cover 100 % fewer of the cells


def class_colors(n: int, theme: style.Theme) -> list[tuple[float, float, float]]:
    """Return up to 18 colours: the palette's hues, then darker, then lighter ones."""
    to_rgb = style.matplotlib_module("colors").to_rgb
    hues = np.array([to_rgb(color) for color in theme.palette[:-1]])
    every = np.vstack([hues, 0.55 * hues, 0.5 + 0.5 * hues])
    return [(red, green, blue) for red, green, blue in every[:n].tolist()]


def largest_classes(codes: NDArray[np.int64], n_classes: int) -> list[int]:
    """Return the codes of the 18 classes with most cells, in order; those have a colour."""
    cells = np.bincount(codes[codes >= 0], minlength=n_classes)
    largest = np.argsort(-cells, kind="stable")[:MOST_COLORS]
    return sorted(int(code) for code in largest if cells[code])


def map_axes(title: str, ax: Axes | None, theme: style.Theme, bottom: float = 0.3) -> Axes:
    """Return square axes for a map, dressed, with its title."""
    if ax is None:
        ax = style.new_axes(SIDE, SIDE, theme, left=0.3, bottom=bottom, right=0.05, top=0.3)
    ax.figure.set_dpi(FINE_DPI)
    style.dress(ax, theme)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("UMAP 1", loc="left", fontsize=style.SMALL, color=theme.muted)
    ax.set_ylabel("UMAP 2", loc="bottom", fontsize=style.SMALL, color=theme.muted)
    ax.set_title(title, loc="left", fontsize=style.TEXT, color=theme.ink, parse_math=False)
    return ax


def draw_cells(
    ax: Axes, points: NDArray[np.floating[Any]], order: NDArray[np.int64], **colors: Any
) -> PathCollection:
    """Draw cells as dots in an order, within limits that leave a margin."""
    size = float(np.clip(5_000 / len(points), 2.0, 9.0))
    x, y = points[order].T
    drawn = ax.scatter(x, y, s=size, linewidths=0, rasterized=True, **colors)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.04 * np.maximum(high - low, 1e-6)
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
    ax.set_ylim(low[1] - margin[1], high[1] + margin[1])
    return drawn


def draw_classes(
    ax: Axes,
    points: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    labels: Sequence[str],
    theme: style.Theme,
    *,
    names: Literal["on the map", "below"] = "on the map",
) -> None:
    """Draw cells coloured by class; classes beyond the 18 largest and unlabelled cells are grey."""
    classes = largest_classes(codes, len(labels))
    palette = class_colors(len(classes), theme)
    rgb = np.tile(style.matplotlib_module("colors").to_rgb(theme.quiet), (len(points), 1))
    for code, color in zip(classes, palette, strict=True):
        rgb[codes == code] = color
    # Grey cells first, so that they hide no class.
    order = np.argsort(np.isin(codes, classes), kind="stable")
    draw_cells(ax, points, order, c=rgb[order])
    if names == "on the map":
        _name_classes(ax, points, codes, labels, classes, palette, theme)
        return
    for code, color in zip(classes, palette, strict=True):
        ax.scatter([], [], color=[color], s=14, label=style.shorten([labels[code]], 22)[0])
    if classes:
        legend = ax.legend(
            frameon=False, fontsize=style.SMALL, labelcolor=theme.ink, loc="upper left",
            bbox_to_anchor=(-0.02, -0.06), ncols=3, borderpad=0, handletextpad=0.1,
            columnspacing=0.9,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)


def _name_classes(
    ax: Axes,
    points: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    labels: Sequence[str],
    classes: list[int],
    palette: list[tuple[float, float, float]],
    theme: style.Theme,
) -> None:
    """Put each class's name near its middle, where it covers no other name and few cells."""
    box = ax.get_window_extent()
    size = np.array([box.width, box.height]) / ax.figure.dpi
    low = np.array([ax.get_xlim()[0], ax.get_ylim()[0]])
    span = np.array([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())])
    inches = (points - low) / span * size
    names = style.shorten([labels[code] for code in classes], 22)
    middles = []
    for code in classes:
        own = inches[codes == code]
        middle = np.median(own, axis=0)
        middles.append(own[((own - middle) ** 2).sum(axis=1).argmin()])
    widths = [len(name) * style.CHARACTER * style.SMALL / style.TEXT + 0.08 for name in names]
    places = _label_places(np.array(middles).reshape(-1, 2), np.array(widths), inches, size)
    for name, color, middle, place in zip(names, palette, middles, places, strict=True):
        if np.hypot(*(place - middle)) > LABEL_HEIGHT:
            line = np.array([middle, place]) / size * span + low
            ax.plot(*line.T, color=theme.muted, linewidth=0.6, zorder=3)
        x, y = place / size * span + low
        ax.text(
            x,
            y,
            name,
            ha="center",
            va="center",
            fontsize=style.SMALL,
            color=theme.ink,
            parse_math=False,
            zorder=4,
            bbox={
                "facecolor": theme.ground,
                "alpha": 0.8,
                "edgecolor": color,
                "linewidth": 1.2,
                "boxstyle": "round,pad=0.15",
            },
        )


def _label_places(
    middles: NDArray[Any],
    widths: NDArray[Any],
    points: NDArray[Any],
    size: NDArray[Any],
) -> NDArray[Any]:
    """Return the centres of labels, float [c, 2], all in inches.

    Each label in turn, the widest first, takes the place on the map that is near its class and
    covers few cells, among those where it covers no label placed before, if there are such.
    """
    grid = np.meshgrid(*(np.arange(0.0, length, LABEL_STEP) for length in size))
    everywhere = np.stack(grid, axis=-1).reshape(-1, 2)
    taken: list[tuple[NDArray[Any], NDArray[Any]]] = []
    found = middles.copy()
    for which in np.argsort(-widths, kind="stable"):
        half = np.array([widths[which], LABEL_HEIGHT]) / 2
        centres = np.clip(
            np.vstack([middles[which], everywhere]), half, np.maximum(size - half, half)
        )
        distance = np.hypot(*(centres - middles[which]).T)
        inside = cKDTree(points / half).query_ball_point(
            centres / half, 1.0, p=np.inf, return_length=True
        )
        covered = inside / max(1, len(points))
        cost = distance + INCHES_PER_SHARE * covered
        for other, other_half in taken:
            meets = (np.abs(centres - other) < half + other_half).all(axis=1)
            cost = np.where(meets, cost + 100.0, cost)
        found[which] = centres[cost.argmin()]
        taken.append((found[which], half))
    return found
