"""The confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from kernomics._arguments import checked, numbers_of
from kernomics.errors import ConfigError
from kernomics.pl import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITH_SHARES = 12  # up to this many classes a cell has room for its share and its count
WITH_COUNTS = 40  # up to this many, for its count


def _cell_size(n_classes: int) -> float:
    """Return the side of a cell in inches."""
    if n_classes <= 6:
        return 0.6
    if n_classes <= WITH_SHARES:
        return 0.41
    return 0.27 if n_classes <= WITH_COUNTS else 0.19


@checked
def confusion_key(n_classes: int) -> str:
    """Return the sentence that explains a matrix of so many classes, for a caption."""
    if n_classes <= WITH_SHARES:
        key = "Colour and percentage: share of the row; whole numbers: cells."
    elif n_classes <= WITH_COUNTS:
        key = "Colour: share of the row; numbers: cells."
    else:
        key = "Colour: share of the row."
    return f"Rows are true classes with their number of cells, columns predicted classes. {key}"


@checked
def confusion(
    matrix: ArrayLike,
    classes: Sequence[str],
    *,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw a confusion matrix: colour is the share of the true class, text the number of cells.

    Up to 12 classes a cell states share and count, up to 40 its count alone; zeros stay blank, so
    errors stand out. A class without cells in the truth has an empty row.

    Parameters
    ----------
    matrix
        Counts, integers [C, C], row = truth, column = prediction.
    classes
        Class names, C.
    ax
        Axes to draw on; by default a new figure with square cells.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ConfigError
        If the matrix is not square with one row per class.
    """
    colors = style.get_theme(theme)
    counts = numbers_of("matrix", matrix)
    n = len(classes)
    if counts.shape != (n, n) or n == 0:
        raise ConfigError(
            f"a confusion matrix of shape {counts.shape} was given for {n} classes; "
            f"expected ({n}, {n}), at least (1, 1)"
        )
    totals = counts.sum(axis=1)
    shares = np.divide(counts, totals[:, None], out=np.zeros((n, n)), where=totals[:, None] > 0)
    columns = style.shorten(classes)
    rows = [f"{name} ({total:,.0f})" for name, total in zip(columns, totals.tolist(), strict=True)]
    if ax is None:
        side = n * _cell_size(n)
        ax = style.new_axes(
            side,
            side,
            colors,
            left=style.label_width(rows) + 0.25,
            bottom=style.label_width(columns) + 0.3,
            right=max(0.1, 1.0 - side),
            top=max(0.1, (0.9 - side) / 2),
        )
    scale = style.sequential(colors)
    edges = np.arange(n + 1) - 0.5
    ax.pcolormesh(
        edges, edges, shares, cmap=scale, vmin=0, vmax=1, edgecolors=colors.ground, linewidth=0.8
    )
    if n <= WITH_COUNTS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            share, count = shares[row, column], int(counts[row, column])
            text = f"{share:.0%}\n{count:,}" if n <= WITH_SHARES else f"{count}"
            ax.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=style.SMALL if n <= WITH_SHARES else 6.5,
                linespacing=1.25,
                color=style.readable_on(scale(share)),
            )
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_aspect("equal")
    style.dress(ax, colors)
    ax.spines[["left", "bottom"]].set_visible(False)
    style.name_ticks(ax.xaxis, columns, rotation=90)
    style.name_ticks(ax.yaxis, rows)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    return ax
