"""Maps of the same cells by all genes and by the panel's alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kernomics._arguments import checked
from kernomics.pl import style
from kernomics.pl.cell_map import SIDE, draw_classes, largest_classes, map_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kernomics.evaluation.panels import PanelEmbedding


@checked
def shown_classes(embedding: PanelEmbedding) -> list[int]:
    """Return the codes of the classes that have a colour, in order: the 18 with most cells."""
    return largest_classes(embedding.codes, len(embedding.classes))


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
        What `kernomics.evaluation.panels.panel_embedding` returns.
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
    noun = "gene" if n_genes == 1 else "genes"
    title = f"All {n_genes:,} {noun}" if genes == "all" else f"The panel's {n_genes:,} {noun}"
    ax = map_axes(title, ax, colors)
    draw_classes(ax, points, embedding.codes, embedding.classes, colors)
    return ax


@checked
def embedding(embedding: PanelEmbedding, *, theme: style.ThemeName = "light") -> Figure:
    """Draw both maps of the same cells side by side.

    Parameters
    ----------
    embedding
        What `kernomics.evaluation.panels.panel_embedding` returns.
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
