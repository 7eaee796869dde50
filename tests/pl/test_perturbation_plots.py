"""Plots of perturbation consistency show its numbers, with every axis named."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

from kernomics import pl
from kernomics.errors import ConfigError
from kernomics.evaluation.perturbations import PerturbationScores
from kernomics.metrics import perturbation_consistency


def scores(blocks: int = 3) -> PerturbationScores:
    names = [f"TxFM, block {i}" for i in range(1, blocks)] + ["TxFM"] * (blocks > 0)
    table = pd.DataFrame(
        {
            "block": pd.array([*range(1, blocks + 1), None, None], dtype="Int64"),
            "consistency": np.linspace(0.1, 0.4, blocks + 2),
        },
        index=[*names, "PCA", "cost $x$"],
    )
    return PerturbationScores(table, pd.DataFrame(), {}, 1, 1, 1, 1, 1)


def drawn(ax: Any) -> int:
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, format="png", bbox_inches="tight")
    return len(buffer.getvalue())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_consistency_by_layer_has_a_point_for_each_block(theme: Any) -> None:
    found = scores(4)
    ax = pl.consistency_by_block(found, theme=theme)
    line, *across = ax.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(line.get_ydata(), found.table["consistency"][:4])
    assert [other.get_ydata()[0] for other in across] == found.table["consistency"][4:].tolist()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["TxFM", "PCA", "cost $x$"]
    assert ax.get_xlabel() == "after block"
    assert ax.get_ylabel() == "consistent perturbations"
    assert drawn(ax) > 1000


def test_many_blocks_name_some_only() -> None:
    ax = pl.consistency_by_block(scores(24))
    assert len(ax.get_xticks()) == 12


def test_without_a_model_there_are_no_blocks() -> None:
    with pytest.raises(ConfigError, match="no TxFM was scored"):
        pl.consistency_by_block(scores(0))


@pytest.mark.parametrize("null", ["cells", "groups"])
def test_the_null_is_drawn_with_each_statistic(null: Any) -> None:
    random = np.random.default_rng(0)
    names = np.repeat(["ctrl", "a", "b", "c"], [300, 40, 40, 40])
    x = random.normal(size=(420, 3))
    x[names == "a", 0] += 20
    found = perturbation_consistency(x, names, control="ctrl", null=null)
    ax = pl.consistency_null(found)
    marks = {part.get_label(): part for part in ax.collections}
    at = {
        label: [path.vertices[0, 0] for path in part.get_paths()] for label, part in marks.items()
    }
    assert at["p < 0.01"] == [found.table.loc["a", "statistic"]]
    assert at["p ≥ 0.01"] == found.table.loc[["b", "c"], "statistic"].tolist()
    (null_drawn,) = ax.patches
    values = null_drawn.get_data().values
    np.testing.assert_allclose(values * found.null_histogram.max(), found.null_histogram)
    low, high = ax.get_xlim()
    assert low < found.table["statistic"].min()
    assert high > found.table["statistic"].max()
    assert null_drawn.get_label() == f"null of {null}"
    assert ax.get_xlabel() == "cosine with the others' mean"
    assert drawn(ax) > 1000
