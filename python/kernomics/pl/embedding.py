"""Maps of the same cells by all genes and by the panel's alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kernomics._arguments import checked
from kernomics.pl import style
from kernomics.pl.heatmap import FINE_DPI

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kernomics.panels import PanelEmbedding

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


@checked
def shown_classes(embedding: PanelEmbedding) -> list[int]:
    """Return the codes of the classes that have a colour, in order: the 18 with most cells."""
    cells = np.bincount(embedding.codes[embedding.codes >= 0], minlength=len(embedding.classes))
    largest = np.argsort(-cells, kind="stable")[:MOST_COLORS]
    return sorted(int(code) for code in largest if cells[code])


@checked
def embedding_map(
    embedding: PanelEmbedding,
    genes: Literal["all", "panel"],
    *,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw one of the two maps, coloured by class, with the classes' names on it.

    Parameters
    ----------
    embedding
        What `kernomics.panels.panel_embedding` returns.
    genes
        Which map.
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
        If there is no such map.
    """
    colors = style.get_theme(theme)
    points = embedding.all_genes if genes == "all" else embedding.panel
    n_genes = embedding.n_all if genes == "all" else embedding.n_panel
    if ax is None:
        ax = style.new_axes(SIDE, SIDE, colors, left=0.3, bottom=0.3, right=0.05, top=0.3)
    ax.figure.set_dpi(FINE_DPI)
    classes = shown_classes(embedding)
    palette = class_colors(len(classes), colors)
    rgb = np.tile(style.matplotlib_module("colors").to_rgb(colors.quiet), (len(points), 1))
    for code, color in zip(classes, palette, strict=True):
        rgb[embedding.codes == code] = color
    # Grey cells first, so that they hide no class.
    order = np.argsort(np.isin(embedding.codes, classes), kind="stable")
    size = float(np.clip(5_000 / len(points), 2.0, 9.0))
    x, y = points[order].T
    ax.scatter(x, y, s=size, c=rgb[order], linewidths=0, rasterized=True)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.04 * np.maximum(high - low, 1e-6)
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
    ax.set_ylim(low[1] - margin[1], high[1] + margin[1])
    style.dress(ax, colors)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("UMAP 1", loc="left", fontsize=style.SMALL, color=colors.muted)
    ax.set_ylabel("UMAP 2", loc="bottom", fontsize=style.SMALL, color=colors.muted)
    noun = "gene" if n_genes == 1 else "genes"
    ax.set_title(
        f"All {n_genes:,} {noun}" if genes == "all" else f"The panel's {n_genes:,} {noun}",
        loc="left",
        fontsize=style.TEXT,
        color=colors.ink,
    )
    _name_classes(ax, embedding, points, classes, palette, colors)
    return ax


@checked
def embedding(embedding: PanelEmbedding, *, theme: style.ThemeName = "light") -> Figure:
    """Draw both maps of the same cells side by side.

    Parameters
    ----------
    embedding
        What `kernomics.panels.panel_embedding` returns.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.figure.Figure
        A figure with two axes.
    """
    width, height = 2 * (SIDE + 0.4), SIDE + 0.6
    figure = style.new_figure(width, height, style.get_theme(theme))
    both: tuple[Literal["all", "panel"], ...] = ("all", "panel")
    for place, genes in enumerate(both):
        left = 0.3 + place * (SIDE + 0.4)
        ax = figure.add_axes((left / width, 0.3 / height, SIDE / width, SIDE / height))
        embedding_map(embedding, genes, ax=ax, theme=theme)
    return figure


def _name_classes(
    ax: Axes,
    embedding: PanelEmbedding,
    points: NDArray[np.floating[Any]],
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
    names = style.shorten([embedding.classes[code] for code in classes], 22)
    middles = []
    for code in classes:
        own = inches[embedding.codes == code]
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
        covered = (np.abs(points[None] - centres[:, None]) < half).all(axis=2).mean(axis=1)
        cost = distance + INCHES_PER_SHARE * covered
        for other, other_half in taken:
            meets = (np.abs(centres - other) < half + other_half).all(axis=1)
            cost = np.where(meets, cost + 100.0, cost)
        found[which] = centres[cost.argmin()]
        taken.append((found[which], half))
    return found
