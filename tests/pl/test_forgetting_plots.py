"""Plots of losses by stage and of memories."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

from kernomics import pl
from kernomics.errors import ConfigError, DataError


def losses(n=3):
    names = [f"s{i}" for i in range(n)]
    table = np.arange((n + 1) * n, dtype=float).reshape(n + 1, n)
    return pd.DataFrame(table, ["start", *names], names)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_group_s_losses_are_drawn_and_its_own_stage_is_ringed(theme):
    table = losses()
    ax = pl.stage_losses(table, oracle=table.iloc[[0, -1]], theme=theme)
    drawn = {line.get_label(): line for line in ax.get_lines()}
    for g, name in enumerate(table.columns):
        assert drawn[name].get_ydata().tolist() == table[name].tolist()[1:]
        ring = [
            line for line in ax.get_lines()
            if line.get_markersize() == 9 and line.get_markeredgecolor() == drawn[name].get_color()
        ]  # fmt: skip
        assert ring[0].get_xdata().tolist() == [g]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["s0", "s1", "s2"]


def test_too_many_groups_are_refused():
    with pytest.raises(ConfigError, match="losses have 9 rows and 8 columns"):
        pl.stage_losses(losses(8))


def test_forgetting_is_drawn_against_the_memory():
    ax = pl.forgetting_by_memory({100: [0.1, 0.2], 1000: [0.05]}, naive=[0.3, 0.5])
    line = next(line for line in ax.get_lines() if line.get_label() == "replay")
    assert line.get_xdata().tolist() == [100, 1000]
    assert line.get_ydata().tolist() == pytest.approx([0.15, 0.05])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["100", "1,000"]
    flat = next(line for line in ax.get_lines() if line.get_label() == "naive")
    assert flat.get_ydata()[0] == pytest.approx(0.4)
    with pytest.raises(ConfigError, match="deltas must hold"):
        pl.forgetting_by_memory({})


def test_methods_are_drawn_by_their_losses_and_classes():
    ax = pl.losses_and_classes({"naive": ([0.4, 0.6], [0.7, 0.9]), "replay": ([0.3], [0.8])})
    handles, labels = ax.get_legend_handles_labels()
    assert labels == ["naive", "replay"]
    points = [handle.lines[0].get_xydata()[0].tolist() for handle in handles]
    assert points == [pytest.approx([0.5, 0.8]), pytest.approx([0.3, 0.8])]
    across, up = (bar.get_segments()[0] for bar in handles[0].lines[2])
    assert across[:, 0].tolist() == pytest.approx([0.4, 0.6])  # ± sd/√2 = 0.1
    assert up[:, 1].tolist() == pytest.approx([0.7, 0.9])
    with pytest.raises(ConfigError, match="0 methods are given: one to 7"):
        pl.losses_and_classes({})
    with pytest.raises(ConfigError, match=r"methods\['a'\] must hold losses and scores"):
        pl.losses_and_classes({"a": ([0.1], [])})


def test_one_seed_may_be_a_number():
    ax = pl.forgetting_by_memory({10: 0.1, 100: np.float64(0.2)})
    line = next(line for line in ax.get_lines() if line.get_label() == "replay")
    assert line.get_ydata().tolist() == pytest.approx([0.1, 0.2])
    with pytest.raises(DataError, match=r"deltas\[10\] is 'much', which does not contain numbers"):
        pl.forgetting_by_memory({10: "much"})
