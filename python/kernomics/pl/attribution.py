"""Attributions: how they are distributed, which genes stand out, and in which groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics._arguments import checked
from kernomics.errors import ConfigError, closest
from kernomics.pl import style
from kernomics.pl.heatmap import diverging, heat_map, scale_legend

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kernomics.attribution import Attribution

DIRECTIONS = ("forward", "backward", "importance")
UNSIGNED = ("absolute",)
N_BINS = 60
MOST_POINTS = 3_000  # more points than that are stored as pixels


@checked
def attribution_distributions(
    attribution: Attribution | AnnData,
    *,
    scores: Sequence[str] = DIRECTIONS,
    key: str = "attribution",
    theme: style.ThemeName = "light",
) -> Figure:
    """Draw histograms of the genes' scores, one below the other, on one scale.

    Parameters
    ----------
    attribution
        What `kernomics.attribution.attribute` returns, or an AnnData to which
        `kernomics.tl.attribute` added it.
    scores
        Columns of its table.
    key
        What `kernomics.tl.attribute` was told to add, where an AnnData is given.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. Counts are on a log scale, as most genes score close to 0; each title gives the
        mean share of a pair's genes that score exactly 0.
    """
    colors = style.get_theme(theme)
    attribution = _attribution(attribution, key)
    if not len(scores):
        raise ConfigError("scores names no column of the attribution: there is nothing to draw")
    values = {name: _scores(attribution, name) for name in scores}
    ends = [float(np.abs(found).max()) for found in values.values()]
    end = max(ends) or 1.0
    low = -end if any((found < 0).any() for found in values.values()) else 0.0
    edges = np.linspace(low, end, N_BINS + 1)
    ticker = style.matplotlib_module("ticker")
    n = len(values)
    height = 0.45 + n * 1.45
    figure = style.new_figure(style.PHONE, height, colors)
    for place, (name, found) in enumerate(values.items()):
        bottom = 0.45 + (n - 1 - place) * 1.45
        ax = figure.add_axes((0.16, bottom / height, 0.8, 1.1 / height))
        ax.hist(found, bins=edges.tolist(), color=colors.palette[0], log=True)
        ax.axvline(0, color=colors.muted, linewidth=0.8, zorder=3)
        zeros = attribution.zeros.get(name)
        said = "" if zeros is None else f", zero for {zeros:.0%} of a pair's genes"
        ax.set_title(
            f"{name}{said}", loc="left", fontsize=style.TEXT, color=colors.ink, parse_math=False
        )
        ax.set_xlim(low, end)
        ax.set_ylim(bottom=0.7)
        ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda n, _: f"{n:,.0f}"))
        ax.yaxis.set_minor_locator(ticker.NullLocator())
        ax.set_ylabel("genes")
        style.dress(ax, colors, grid="y")
        if place < n - 1:
            ax.set_xticklabels([])
        else:
            ax.set_xlabel("mean score of a gene")
    return figure


@checked
def attribution_by_gene(
    attribution: Attribution | AnnData,
    score: str = "absolute",
    *,
    n_named: int = 8,
    percentiles: Sequence[float] = (95.0, 99.0),
    ax: Axes | None = None,
    key: str = "attribution",
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw the sorted scores of the genes, with percentiles marked and the outliers named.

    Parameters
    ----------
    attribution
        What `kernomics.attribution.attribute` returns, or an AnnData to which
        `kernomics.tl.attribute` added it.
    score
        A column of its table.
    n_named
        How many genes to name at most, at each end of a signed score. Only genes beyond the
        outermost percentile are named.
    percentiles
        Percentiles to mark, from 0 to 100; for a signed score their opposites are marked too.
    ax
        Axes to draw on; by default a new figure.
    key
        What `kernomics.tl.attribute` was told to add, where an AnnData is given.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    colors = style.get_theme(theme)
    attribution = _attribution(attribution, key)
    if n_named < 0:
        raise ConfigError(f"n_named is {n_named}: it must be 0 or more")
    if not all(0 <= p <= 100 for p in percentiles):
        raise ConfigError(f"percentiles is {tuple(percentiles)}: each must be from 0 to 100")
    values = _scores(attribution, score)
    signed = bool((values < 0).any())
    names = attribution.table.index.astype(str).to_numpy()
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    if ax is None:
        ax = style.new_axes(2.8, 2.4, colors, left=0.65, bottom=0.5, right=0.25, top=0.35)
    ax.plot(
        np.arange(1, len(ordered) + 1), ordered, ".", color=colors.palette[0], markersize=3,
        zorder=3, rasterized=len(ordered) > MOST_POINTS,
    )  # fmt: skip
    marks = sorted({*percentiles, *((100 - p for p in percentiles) if signed else ())})
    at = np.percentile(values, marks) if marks else np.empty(0)
    for mark, height in zip(marks, at, strict=True):
        ax.axhline(height, color=colors.muted, linewidth=0.8, linestyle=":", zorder=1)
        ax.annotate(
            f"{mark:g}%", (1.0, height), xycoords=("axes fraction", "data"), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=6.5, color=colors.muted,
        )  # fmt: skip
    ax.set_xlabel("gene, by score")
    ax.set_ylabel(f"{score} score")
    style.dress(ax, colors)
    top = at.max() if len(at) else -np.inf
    _name(ax, [i for i in range(min(n_named, len(order))) if ordered[i] > top], names[order],
          ordered, colors, right=True)  # fmt: skip
    if signed:
        bottom = at.min() if len(at) else np.inf
        last = range(len(order) - 1, max(-1, len(order) - 1 - n_named), -1)
        low = [i for i in last if ordered[i] < min(bottom, 0)]
        _name(ax, low, names[order], ordered, colors, right=False)
    return ax


@checked
def attribution_heatmap(
    attribution: Attribution | AnnData,
    score: str = "absolute",
    *,
    n_genes: int = 30,
    ax: Axes | None = None,
    key: str = "attribution",
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw the scores of the top genes in each combination of the controlled phenotypes.

    Parameters
    ----------
    attribution
        What `kernomics.attribution.attribute` returns, or an AnnData to which
        `kernomics.tl.attribute` added it.
    score
        Which of its tables by group; an AnnData holds ``"absolute"``.
    n_genes
        How many genes: those whose score over all pairs is largest in absolute value.
    ax
        Axes to draw on; by default a new figure.
    key
        What `kernomics.tl.attribute` was told to add, where an AnnData is given.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    colors = style.get_theme(theme)
    attribution = _attribution(attribution, key)
    if score not in attribution.by_group:
        raise ConfigError(
            f"the attribution has no {score!r} scores by group; "
            f"{closest(score, attribution.by_group)}"
        )
    if n_genes < 1:
        raise ConfigError(f"n_genes is {n_genes}: at least 1 is needed")
    table = attribution.by_group[score]
    size = attribution.table[score].abs()
    best = size.sort_values(ascending=False, kind="stable").index[:n_genes]
    shown = table.loc[best]
    genes = style.shorten([str(gene) for gene in best])
    groups = style.shorten([str(group) or "all pairs" for group in shown.columns])
    if ax is None:
        ax = style.new_axes(
            max(1.5, 0.24 * len(groups)), 0.17 * len(genes), colors,
            left=style.label_width(genes), bottom=style.label_width(groups) + 0.5,
            right=0.15, top=0.1,
        )  # fmt: skip
    signed = score not in UNSIGNED
    end = style.nice_ceiling(float(np.abs(shown.to_numpy()).max()))
    mesh = heat_map(
        ax,
        shown.to_numpy(),
        colors,
        scale=diverging(colors) if signed else style.sequential(colors),
        low=-end if signed else 0.0,
        high=end,
    )
    style.name_ticks(ax.yaxis, genes, size=style.SMALL)
    style.name_ticks(ax.xaxis, groups, rotation=90, size=style.SMALL)
    scale_legend(ax, mesh, f"{score} score", colors, drop=style.label_width(groups) + 0.25)
    return ax


def _attribution(given: Attribution | AnnData, key: str) -> Attribution:
    from kernomics.attribution.kept import attribution_of

    return attribution_of(given, key)


def _scores(attribution: Attribution, name: str) -> NDArray[np.float64]:
    table: pd.DataFrame = attribution.table
    if name not in table.columns:
        raise ConfigError(f"the attribution has no score {name!r}; {closest(name, table.columns)}")
    return table[name].to_numpy(dtype=float)


def _name(
    ax: Axes,
    places: Sequence[int],
    names: NDArray[np.object_],
    values: NDArray[np.float64],
    theme: style.Theme,
    *,
    right: bool,
) -> None:
    """Write names beside points, each far enough below (or above) the one before to be read."""
    inches = ax.get_window_extent().height / ax.figure.dpi
    low, high = ax.get_ylim()
    step = 0.125 / inches * (high - low)
    before = np.inf if right else -np.inf
    shift = 0.06 * len(values)
    for i in places:
        height = min(float(values[i]), before - step) if right else max(
            float(values[i]), before + step
        )  # fmt: skip
        before = height
        ax.annotate(
            style.shorten([str(names[i])])[0],
            (i + 1, values[i]),
            xytext=(i + 1 + shift if right else i + 1 - shift, height),
            textcoords="data",
            ha="left" if right else "right",
            va="center",
            fontsize=style.SMALL,
            color=theme.ink,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": theme.muted, "linewidth": 0.5},
        )
