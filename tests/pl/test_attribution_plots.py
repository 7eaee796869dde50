"""Plots of attributions and prunings show their numbers, with every axis named."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from attribution_example import GENES, attribution, pruning

pytest.importorskip("matplotlib")

from kernomics import pl
from kernomics.errors import ConfigError


def drawn(figure: Any) -> int:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return len(buffer.getvalue())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_distributions_count_all_genes_and_name_the_share_of_zeros(theme: Any) -> None:
    figure = pl.attribution_distributions(attribution(), theme=theme)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0] == "forward, zero for 50% of a pair's genes"
    assert titles[2] == "importance, zero for 12% of a pair's genes"
    for ax in figure.axes:
        assert sum(bar.get_height() for bar in ax.patches) == len(GENES)
        assert ax.get_ylabel() == "genes"
    assert figure.axes[-1].get_xlabel() == "mean score of a gene"
    assert drawn(figure) > 1000


def test_a_distribution_of_a_score_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no score 'absolut'"):
        pl.attribution_distributions(attribution(), scores=["absolut"])
    with pytest.raises(ConfigError, match="names no column"):
        pl.attribution_distributions(attribution(), scores=[])


def test_genes_are_sorted_with_percentiles_and_outliers_of_both_ends_named() -> None:
    found = attribution()
    ax = pl.attribution_by_gene(found, "effect", percentiles=(90.0,), n_named=3)
    points, *lines = ax.lines
    values = np.sort(found.table["effect"].to_numpy())
    np.testing.assert_array_equal(points.get_ydata(), values[::-1])
    heights = sorted(line.get_ydata()[0] for line in lines)
    np.testing.assert_allclose(heights, np.percentile(values, [10, 90]))
    named = {text.get_text() for text in ax.texts} - {"10%", "90%"}
    assert named == {"up $1$", "flat", "down<b>", "g0"}  # two beyond each end
    assert ax.get_ylabel() == "effect score"
    assert drawn(ax.figure) > 1000


def test_an_unsigned_score_has_outliers_at_its_upper_end_alone() -> None:
    ax = pl.attribution_by_gene(attribution(), percentiles=(90.0,))
    assert {text.get_text() for text in ax.texts} == {"90%", "up $1$", "down<b>"}
    with pytest.raises(ConfigError, match="from 0 to 100"):
        pl.attribution_by_gene(attribution(), percentiles=(101.0,))


@pytest.mark.parametrize("score", ["absolute", "effect"])
def test_the_heat_map_has_the_best_genes_in_order_and_a_column_per_group(score: str) -> None:
    found = attribution()
    ax = pl.attribution_heatmap(found, score, n_genes=4)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == GENES[:4]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["T/NK", "<B>"]
    values = np.asarray(ax.collections[0].get_array()).reshape(4, 2)
    np.testing.assert_array_equal(values, found.by_group[score].iloc[:4])
    low, high = ax.collections[0].get_clim()
    assert low == (0 if score == "absolute" else -high)
    assert drawn(ax.figure) > 1000


def test_the_heat_map_of_one_group_is_of_all_pairs() -> None:
    ax = pl.attribution_heatmap(attribution(1))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["all pairs"]
    with pytest.raises(ConfigError, match="no 'forward' scores by group"):
        pl.attribution_heatmap(attribution(1), "forward")


@pytest.mark.parametrize("order", ["lowest first", "highest first"])
def test_pruning_curves_go_from_all_genes_to_few(order: str) -> None:
    ax = pl.pruning_curves(pruning(), ["absolute", "<random>"], order=order)
    first, second, chance = ax.lines
    np.testing.assert_array_equal(first.get_xdata(), [100, 50, 25])
    np.testing.assert_array_equal(first.get_ydata(), [1.0, 0.875, 0.8125])
    np.testing.assert_array_equal(second.get_ydata(), [0.875, 0.625, 0.5])
    assert chance.get_ydata()[0] == 0.5
    left, right = ax.get_xlim()
    assert left > 100
    assert right < 25
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["absolute", "<random>"]
    assert ax.get_title(loc="left").startswith(order.split(maxsplit=1)[0])
    assert ax.get_xlabel() == "genes kept, %"
    assert drawn(ax.figure) > 1000


def test_chief_rankings_are_drawn_unless_others_are_named() -> None:
    ax = pl.pruning_curves(pruning())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["absolute"]
    for call, said in (
        ({"rankings": ["DE"]}, "no ranking 'DE'"),
        ({"rankings": []}, "rankings has 0 names"),
        ({"order": "first"}, "no order 'first'"),
        ({"metric": "accuracy"}, "no 'accuracy'"),
    ):
        with pytest.raises(ConfigError, match=said):
            pl.pruning_curves(pruning(), **call)
