"""Plots of a panel: where its genes are expressed, how they score, and how it compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from kernomics._arguments import checked
from kernomics.errors import ConfigError
from kernomics.metrics import ClassExpression
from kernomics.pl import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL_WIDTH, CELL_HEIGHT = 0.27, 0.21  # inches per class and per gene
LARGEST_DOT = 0.82  # diameter at a detection rate of 100%, in cells
DOT_STEPS = (0.25, 0.5, 1.0)


def _inches(ax: Axes) -> tuple[float, float]:
    box = ax.get_window_extent()
    dpi = ax.figure.dpi
    return box.width / dpi, box.height / dpi


def _dot_legend(ax: Axes, dot_area: float, dots: Any, theme: style.Theme) -> None:
    """Draw the size steps and the colour scale under the axes, flush with their left labels."""
    width, height = _inches(ax)
    lines = style.matplotlib_module("lines")
    handles = [
        lines.Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            markersize=float(np.sqrt(dot_area * step)),
            color=theme.muted,
            markeredgewidth=0,
        )
        for step in DOT_STEPS
    ]
    ax.legend(
        handles,
        [f"{step * 100:.0f}%" for step in DOT_STEPS],
        title="cells with the gene",
        loc="upper left",
        bbox_to_anchor=(0.0, -0.06 / height),
        ncols=len(DOT_STEPS),
        frameon=False,
        fontsize=style.SMALL,
        title_fontsize=style.SMALL,
        labelcolor=theme.ink,
        handletextpad=0.1,
        columnspacing=0.7,
        borderpad=0,
        alignment="left",
    ).get_title().set_color(theme.muted)
    scale = ax.inset_axes((0.0, -0.86 / height, 1.5 / width, 0.09 / height))
    bar = ax.figure.colorbar(dots, cax=scale, orientation="horizontal")
    bar.outline.set_visible(False)
    scale.tick_params(labelsize=style.SMALL, colors=theme.ink, length=0, pad=2)
    scale.set_title(
        "mean log(1 + count)", fontsize=style.SMALL, color=theme.muted, loc="left", pad=3
    )


@checked
def dot_plot(
    expression: ClassExpression,
    genes: Sequence[str],
    *,
    ax: Axes | None = None,
    largest_mean: float | None = None,
    legend: bool = True,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw genes × classes: the dot's area is the detection rate, its colour the mean.

    Parameters
    ----------
    expression
        Detection rates and means by class.
    genes
        Names of the genes, in the order of the rows of ``expression``.
    ax
        Axes to draw on; by default a new figure large enough for the labels.
    largest_mean
        Mean of log(1 + count) at the end of the colour scale; by default the largest shown. Set it
        when several plots share one scale.
    legend
        Whether to explain sizes and colours under the plot.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; ``.figure`` is the figure.
    """
    colors = style.get_theme(theme)
    n_genes, n_classes = expression.detection.shape
    if len(genes) != n_genes:
        raise ConfigError(f"{len(genes)} gene names were given for {n_genes} genes")
    rows, columns = style.shorten(genes, 18), style.shorten(expression.classes)
    if ax is None:
        ax = style.new_axes(
            n_classes * CELL_WIDTH,
            n_genes * CELL_HEIGHT,
            colors,
            left=style.label_width(rows),
            right=max(0.1, 1.7 - n_classes * CELL_WIDTH),
            top=style.label_width(columns),
            bottom=1.15 if legend else 0.05,
        )
    width, height = _inches(ax)
    dot_area = (LARGEST_DOT * 72 * min(width / n_classes, height / n_genes)) ** 2
    if largest_mean is None:
        largest_mean = float(np.nanmax(expression.mean_log1p, initial=0.0))
    detection = np.nan_to_num(expression.detection)
    gene_at, class_at = np.nonzero(detection)
    dots = ax.scatter(
        class_at,
        gene_at,
        s=detection[gene_at, class_at] * dot_area,
        c=expression.mean_log1p[gene_at, class_at],
        cmap=style.sequential(colors),
        vmin=0.0,
        vmax=style.nice_ceiling(largest_mean),
        linewidths=0,
    )
    ax.set_xlim(-0.5, n_classes - 0.5)
    ax.set_ylim(n_genes - 0.5, -0.5)
    style.dress(ax, colors, grid="y")
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.xaxis.tick_top()
    ax.tick_params(axis="x", length=0, colors=colors.ink)
    style.name_ticks(ax.xaxis, columns, rotation=90)
    style.name_ticks(ax.yaxis, rows)
    if legend:
        _dot_legend(ax, dot_area, dots, colors)
    return ax


@checked
def panel_scores(
    genes: Sequence[str],
    scores: ArrayLike,
    detection_rate: ArrayLike,
    *,
    theme: style.ThemeName = "light",
) -> Figure:
    """Draw each gene's score as a bar and, beside it, the share of cells that express it.

    Parameters
    ----------
    genes
        Names, ranked, k of them.
    scores
        Float [k]; a forced gene's score of +inf is drawn as a full-length pale bar.
    detection_rate
        Float [k], shares between 0 and 1.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.figure.Figure
        A figure with two axes.
    """
    colors = style.get_theme(theme)
    values = np.asarray(scores, dtype=np.float64)
    rates = np.asarray(detection_rate, dtype=np.float64)
    k = len(genes)
    if values.shape != (k,) or rates.shape != (k,):
        raise ConfigError(
            f"{k} genes, scores of shape {values.shape} and detection rates of shape "
            f"{rates.shape} were given; all must have one entry per gene"
        )
    rows = style.shorten(genes, 18)
    left, gap, margin = style.label_width(rows), 0.15, 0.25
    width = max(3.0, 2 * style.PHONE - left) / 3
    total = left + 2 * width + gap + margin
    height = max(k, 2) * CELL_HEIGHT
    figure = style.new_figure(total, height + 0.6, colors)
    base, share = 0.5 / (height + 0.6), height / (height + 0.6)
    score_ax = figure.add_axes((left / total, base, width / total, share))
    rate_ax = figure.add_axes(((left + width + gap) / total, base, width / total, share))

    finite = np.isfinite(values)
    lowest = min(0.0, float(values[finite].min(initial=0.0)))
    highest = float(values[finite].max(initial=0.0))
    end = highest if highest > lowest else lowest + 1.0
    at = np.arange(k)
    score_ax.barh(at[finite], values[finite], color=colors.palette[0], height=0.7)
    score_ax.barh(at[~finite], end, color=colors.grid, height=0.7)
    score_ax.set_xlabel("score")
    rate_ax.hlines(at, 0, rates, color=colors.grid, linewidth=1.2)
    rate_ax.plot(rates, at, "o", color=colors.palette[1], markersize=5)
    rate_ax.set_xlim(0, 1.03)
    rate_ax.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
    rate_ax.set_xlabel("cells with the gene")
    for ax in (score_ax, rate_ax):
        style.dress(ax, colors, grid="x")
        ax.set_ylim(k - 0.4, -0.6)
        ax.spines["bottom"].set_visible(False)
    style.name_ticks(score_ax.yaxis, rows)
    rate_ax.set_yticks([])
    return figure


@checked
def method_comparison(
    values: Mapping[str, float],
    *,
    metric: str,
    spread: Mapping[str, float] | None = None,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw one bar per method, the first one (ours) in colour and the others grey.

    Parameters
    ----------
    values
        A metric by method, in the order to draw; a line break in a name starts a second line. NaN
        leaves the bar out and says "not computed".
    metric
        Name of the metric, for the axis.
    spread
        Standard deviations by method, drawn as thin lines around the end of the bar.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    colors = style.get_theme(theme)
    if not values:
        raise ConfigError("there is no method to compare")
    names = ["\n".join(style.shorten(name.splitlines(), 26)) for name in values]
    lines = max(name.count("\n") for name in names) + 1
    heights = np.array([float(value) for value in values.values()])
    errors = np.array([float((spread or {}).get(name, np.nan)) for name in values])
    if ax is None:
        left = style.label_width([line for name in names for line in name.splitlines()])
        ax = style.new_axes(
            max(1.6, style.PHONE - left - 0.5),
            (0.14 + 0.15 * lines) * len(names),
            colors,
            left=left,
            right=0.5,
            bottom=0.45,
            top=0.05,
        )
    at = np.arange(len(names))
    fills = [colors.palette[0]] + [colors.quiet] * (len(names) - 1)
    shown = np.nan_to_num(heights)
    ax.barh(at, shown, color=fills, height=0.62)
    with_spread = np.isfinite(errors)
    ax.errorbar(
        shown[with_spread],
        at[with_spread],
        xerr=errors[with_spread],
        fmt="none",
        ecolor=colors.ink,
        elinewidth=1.2,
        capsize=2,
    )
    for place, (value, error) in enumerate(zip(heights, np.nan_to_num(errors), strict=True)):
        known = bool(np.isfinite(value))
        ax.annotate(
            f"{value:.3f}".replace("-", "−") if known else "not computed",
            (max(0.0, value + error) if known else 0.0, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=style.TEXT,
            color=colors.ink,
        )
    lowest = min(0.0, float(shown.min()))
    ax.set_xlim(lowest, max(1.0, float(shown.max())))
    ax.set_ylim(len(names) - 0.5, -0.5)
    style.dress(ax, colors, grid="x", x=metric)
    ax.spines["bottom"].set_visible(False)
    style.name_ticks(ax.yaxis, names)
    return ax
