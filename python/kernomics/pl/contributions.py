"""What each gene of a panel is there for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kernomics._arguments import checked
from kernomics.errors import ConfigError, closest
from kernomics.pl import style
from kernomics.pl.heatmap import diverging, heat_map, scale_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kernomics.evaluation.panels import Contributions

CELL_WIDTH, CELL_HEIGHT = 0.27, 0.21  # inches per class and per gene, as in the dot plot
ALL_CELLS = "all cells"


@checked
def contribution_table(contributions: Contributions, task: str | None = None) -> pd.DataFrame:
    """Return what is drawn: genes × tasks or, for a task, genes × all cells and each class.

    Parameters
    ----------
    contributions
        What `kernomics.evaluation.panels.contributions` returns.
    task
        A task; all of them by default, without their classes.

    Raises
    ------
    ConfigError
        If there is no such task.
    """
    if task is None:
        return contributions.loss_without
    if task not in contributions.loss_without:
        raise ConfigError(
            f"there are no contributions to {task!r}; "
            f"{closest(task, contributions.loss_without.columns)}"
        )
    whole = contributions.loss_without[[task]].set_axis([ALL_CELLS], axis=1)
    return pd.concat([whole, contributions.by_class.get(task, whole.iloc[:, :0])], axis=1)


@checked
def contributions(
    contributions: Contributions,
    task: str | None = None,
    genes: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    largest: float | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw how much the loss rises without each gene, genes × classes or genes × tasks.

    Parameters
    ----------
    contributions
        What `kernomics.evaluation.panels.contributions` returns.
    task
        Whose classes to draw, beside the mean over all its cells; by default all tasks, without
        classes.
    genes
        Which genes, in the order to draw; all by default.
    ax
        Axes to draw on; by default a new figure.
    largest
        Rise at the end of the colour scale, and fall at the other; by default the largest drawn.
        Set it when several plots share one scale. Larger values have the colour of the end.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes. A class without cells is left blank.

    Raises
    ------
    ConfigError
        If there is no such task or gene.
    """
    colors = style.get_theme(theme)
    table = contribution_table(contributions, task)
    if genes is not None:
        unknown = [gene for gene in genes if gene not in table.index]
        if unknown:
            raise ConfigError(
                f"{len(unknown)} of {len(genes)} genes are not in the panel, first {unknown[0]!r}"
            )
        table = table.loc[list(genes)]
    if not len(table):
        raise ConfigError("genes is an empty list: name at least one")
    values = table.to_numpy(dtype=np.float64)
    if largest is None:
        largest = float(np.nanmax(np.abs(values), initial=0.0))
    end = style.nice_ceiling(largest)
    rows = style.shorten([str(gene) for gene in table.index], 18)
    columns = style.shorten([str(name) for name in table.columns])
    if ax is None:
        width = len(columns) * CELL_WIDTH
        ax = style.new_axes(
            width,
            len(rows) * CELL_HEIGHT,
            colors,
            left=style.label_width(rows),
            right=max(0.1, 1.7 - width),
            top=style.label_width(columns),
            bottom=0.7,
        )
    mesh = heat_map(ax, values, colors, scale=diverging(colors), low=-end, high=end)
    if task is not None and len(columns) > 1:  # sets the mean apart from the classes
        ax.axvline(0.5, color=colors.ink, linewidth=1.0)
    ax.xaxis.tick_top()
    ax.tick_params(axis="x", length=0, colors=colors.ink)
    style.name_ticks(ax.xaxis, columns, rotation=90)
    style.name_ticks(ax.yaxis, rows)
    scale_legend(ax, mesh, "increase in the loss without the gene", colors)
    return ax
