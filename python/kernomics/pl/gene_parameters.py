"""What a model's gene parameters know of the genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernomics._arguments import checked
from kernomics.errors import ConfigError, closest
from kernomics.metrics.relationships import OWN_SCALE
from kernomics.pl import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CHANCE = 0.1
"""Recall of vectors that say nothing: one in ten lies outside the 5th and 95th percentiles."""

AXES = {"n_components": "principal components", "epoch": "epoch"}


@checked
def recall_curve(
    table: pd.DataFrame,
    *,
    database: str | None = None,
    by: str = "n_components",
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw the recall of known relationships by number of components, or by epoch.

    Parameters
    ----------
    table
        Rows with ``representation``, ``database``, ``recall`` and what `by` names, such as the
        table of `kernomics.evaluation.relationships.compare_relationships`. Tables of several
        epochs are joined after a column ``epoch`` was added to each.
    database
        Which database; the mean over all by default.
    by
        ``"n_components"``, on a logarithmic axis, or ``"epoch"``.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes. A representation with one value is a horizontal line; one on its own scale has the
        colour of the standardised one and hollow markers; chance is dotted.

    Raises
    ------
    ConfigError
        If the table has no such column or database.
    """
    colors = style.get_theme(theme)
    if by not in AXES or by not in table:
        raise ConfigError(f"by is {by!r}; {closest(by, [name for name in AXES if name in table])}")
    if database is not None:
        if database not in set(table["database"]):
            raise ConfigError(
                f"the table has no database {database!r}; "
                f"{closest(database, table['database'].unique())}"
            )
        table = table[table["database"] == database]
    values = table.groupby(["representation", by], sort=False)["recall"].mean()
    if ax is None:
        ax = style.new_axes(2.85, 2.1, colors, left=0.6, bottom=1.15, right=0.15, top=0.35)
    names = [str(name) for name in values.index.unique(0)]
    kinds = dict.fromkeys(name.removesuffix(OWN_SCALE) for name in names)
    looks = dict(zip(kinds, zip(colors.palette, "os^DvPX", strict=True), strict=False))
    for name in names:
        color, marker = looks[name.removesuffix(OWN_SCALE)]
        own = name.endswith(OWN_SCALE)
        curve = values.loc[name].sort_index()
        if len(curve) == 1:
            ax.axhline(curve.iloc[0], color=color, linewidth=1.6, linestyle="--", label=name)
        else:
            ax.plot(
                curve.index,
                curve.to_numpy(),
                color=color,
                linewidth=1.0 if own else 1.6,
                marker=marker,
                markersize=3.5,
                markerfacecolor=colors.ground if own else color,
                label="_" if own else name,
            )
    if any(name.endswith(OWN_SCALE) for name in names):
        ax.plot([], [], color=colors.muted, linewidth=1.0, marker="o", markersize=3.5,
                markerfacecolor=colors.ground, label="on its own scale")  # fmt: skip
    ax.axhline(CHANCE, color=colors.muted, linewidth=1.0, linestyle=":", label="chance", zorder=1)
    if values.groupby(level=0).size().max() == 1:
        ax.set_xticks([])  # level lines alone
    elif by == "n_components":
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(
            style.matplotlib_module("ticker").FuncFormatter(lambda size, _: f"{size:g}")
        )
    ax.set_ylim(0, 1.1 * max(CHANCE, float(values.max())))
    style.dress(
        ax,
        colors,
        grid="y",
        x=AXES[by],
        y="known pairs recalled",
        title="mean over databases" if database is None else database,
    )
    style.legend_below(ax, colors)
    return ax


@checked
def component_moments(
    moments: pd.DataFrame,
    representation: str,
    *,
    n_components: int = 20,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw how much of each component of the genes their mean and variance explain.

    Parameters
    ----------
    moments
        Rows with ``representation``, ``component``, ``share``, ``mean``, ``variance`` and ``both``,
        as `kernomics.evaluation.relationships.RelationshipScores.moments`.
    representation
        Which of them.
    n_components
        How many components to draw, from the first.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes: R² by component, of the mean, of the variance and of both; grey bars are the
        component's share of all variance.

    Raises
    ------
    ConfigError
        If the table has no such representation.
    """
    colors = style.get_theme(theme)
    if representation not in set(moments["representation"]):
        raise ConfigError(
            f"the table has no representation {representation!r}; "
            f"{closest(representation, moments['representation'].unique())}"
        )
    rows = moments[moments["representation"] == representation]
    rows = rows.sort_values("component").head(n_components)
    if ax is None:
        ax = style.new_axes(3.15, 2.1, colors, left=0.6, bottom=1.0, right=0.15, top=0.35)
    at = rows["component"].to_numpy()
    ax.bar(at, rows["share"], color=colors.quiet, width=0.7, label="share of all variance")
    looks = zip(("mean", "variance", "both"), colors.palette, ("o", "s", "^"), strict=False)
    for name, color, marker in looks:
        ax.plot(
            at,
            rows[name],
            color=color,
            linewidth=1.2,
            marker=marker,
            markersize=3.5,
            label={"both": "R² of both"}.get(name, f"R² of the log {name}"),
        )
    ax.set_ylim(0, 1)
    ax.set_xlim(0.4, max(float(np.max(at)), 2) + 0.6)
    style.dress(ax, colors, grid="y", x="component", y="share explained", title=representation)
    ax.xaxis.set_major_locator(style.matplotlib_module("ticker").MaxNLocator(6, integer=True))
    style.legend_below(ax, colors)
    return ax
