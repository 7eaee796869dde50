"""Plots of what `kernomics.evaluation.panels` finds show its numbers, with every axis named."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from kernomics import pl
from kernomics.errors import ConfigError
from kernomics.evaluation.panels import (
    Contributions,
    PanelCurve,
    PanelEmbedding,
    Redundancy,
    Stability,
)
from kernomics.pl import style
from kernomics.pl.cell_map import class_colors

LIGHT = style.get_theme("light")


def png(artist: Any) -> bytes:
    figure = artist if isinstance(artist, Figure) else artist.figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def ticks(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def embedding(n_classes: int = 3, n: int = 200, **changes: Any) -> PanelEmbedding:
    random = np.random.default_rng(0)
    codes = np.arange(n) % (n_classes + 1) - 1
    points = 4 * np.stack([codes % 5, codes // 5], 1) + random.normal(size=(n, 2))
    fields = {
        "all_genes": points.astype(np.float32),
        "panel": (points * 2).astype(np.float32),
        "rows": np.arange(n),
        "codes": codes,
        "classes": tuple(f"class {c}" for c in range(n_classes)),
        "label": "type",
        "n_all": 2_000,
        "n_panel": 1,
        "part": "all",
        "n_from": n,
        "seed": 0,
        "neighbours_kept": 0.5,
        "same_class": (0.9, 0.8),
    }
    return PanelEmbedding(**(fields | changes))


def curve() -> PanelCurve:
    rows = [
        (size, seed, "t", predictor, "macro_f1", size / 100 + seed / 10, part)
        for size in (4, 8, 32)
        for seed in (0, 1)
        for predictor in ("its own network", "logistic regression")
        for part in ("validation", "test")
    ]
    columns = ["n_genes", "seed", "task", "predictor", "metric", "value", "part"]
    return PanelCurve(pd.DataFrame(rows, columns=columns), pd.DataFrame(), 8, {})


def stability() -> Stability:
    overlap = pd.DataFrame([[1.0, 0.25], [0.25, 1.0]], index=[0, 7], columns=[0, 7])
    frequency = pd.Series({"a": 1.0, "b": 0.5, "c": 0.5})
    return Stability({0: ["a", "b"], 7: ["a", "c"]}, pd.DataFrame(), pd.DataFrame(), overlap, 0.4,
                     frequency, ["a", "b"])  # fmt: skip


def redundancy(n: int = 4) -> Redundancy:
    names = [f"g{i}" for i in range(n)]
    r = np.eye(n)
    r[0, 2] = r[2, 0] = -0.9
    return Redundancy(
        groups=[["g0", "g2"]],
        correlation=pd.DataFrame(r, index=names, columns=names),
        substitutes=pd.DataFrame(columns=["gene", "substitute", "correlation"]),
    )


def contributions() -> Contributions:
    genes = ["a", "b"]
    return Contributions(
        loss_without=pd.DataFrame({"t": [0.3, 0.1], "age": [0.0, -0.2]}, index=genes),
        by_class={"t": pd.DataFrame({"x": [0.8, 0.0], "y": [-0.1, np.nan]}, index=genes)},
    )


def every_plot(theme: Any) -> list[Any]:
    return [
        pl.embedding_map(embedding(), "all", theme=theme),
        pl.embedding_map(embedding(), "panel", theme=theme),
        pl.panel_curve(curve(), task="t", metric="macro_f1", theme=theme),
        pl.gene_frequency(stability(), theme=theme),
        pl.panel_overlap(stability(), theme=theme),
        pl.panel_correlation(redundancy(), theme=theme),
        pl.contributions(contributions(), theme=theme),
        pl.contributions(contributions(), "t", theme=theme),
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plots_render_and_change_no_global_state(theme: str) -> None:
    before = dict(mpl.rcParams)
    for plot in [*every_plot(theme), pl.embedding(embedding(), theme=theme)]:  # type: ignore[arg-type]
        assert png(plot).startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before


def test_every_axis_has_a_label_or_names() -> None:
    for ax in every_plot("light"):
        png(ax)
        assert ax.get_xlabel() or any(ticks(ax.xaxis)), ax
        assert ax.get_ylabel() or any(ticks(ax.yaxis)), ax


def test_plots_draw_on_the_callers_axes() -> None:
    for draw in (
        lambda ax: pl.embedding_map(embedding(), "all", ax=ax),
        lambda ax: pl.panel_curve(curve(), task="t", metric="macro_f1", ax=ax),
        lambda ax: pl.gene_frequency(stability(), ax=ax),
        lambda ax: pl.panel_overlap(stability(), ax=ax),
        lambda ax: pl.panel_correlation(redundancy(), ax=ax),
        lambda ax: pl.contributions(contributions(), "t", ax=ax),
    ):
        ax = Figure(figsize=(5, 4)).add_subplot()
        assert draw(ax) is ax


# Maps -------------------------------------------------------------------------------------------


def test_maps_show_their_own_points_and_colour_the_same_class_alike() -> None:
    found = embedding()
    colours = []
    for genes, points in (("all", found.all_genes), ("panel", found.panel)):
        dots = pl.embedding_map(found, genes).collections[0]  # type: ignore[arg-type]
        # Unlabelled cells come first, so that they hide no other.
        order = np.argsort(found.codes >= 0, kind="stable")
        np.testing.assert_allclose(dots.get_offsets(), points[order])
        colours.append([to_hex(color) for color in dots.get_facecolors()])
    assert colours[0] == colours[1]
    assert len(set(colours[0])) == 4
    assert colours[0][0] == to_hex(LIGHT.quiet)


def test_maps_name_the_genes_behind_them() -> None:
    figure = pl.embedding(embedding())
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "All 2,000 genes",
        "The panel's 1 gene",
    ]
    assert [ax.get_xlabel() for ax in figure.axes] == ["UMAP 1"] * 2


@pytest.mark.parametrize(
    ("n_classes", "name"), [(1, "class {}"), (18, "class {}"), (18, "class {} of a long name")]
)
def test_names_on_a_map_lie_within_it_and_cover_no_other(n_classes: int, name: str) -> None:
    names = tuple(name.format(chr(65 + c)) for c in range(n_classes))
    found = embedding(n_classes, 20 * (n_classes + 1), classes=names)
    ax = pl.embedding_map(found, "all")
    png(ax)
    boxes = [text.get_window_extent() for text in ax.texts]
    shown = [text.get_text() for text in ax.texts]
    assert shown == style.shorten(names, 22)
    assert sum(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]) == 0
    frame = ax.get_window_extent()
    for box in boxes:
        assert frame.x0 - 4 <= box.x0 <= box.x1 <= frame.x1 + 4
        assert frame.y0 - 4 <= box.y0 <= box.y1 <= frame.y1 + 4


def test_smallest_of_many_classes_are_grey_and_unnamed() -> None:
    codes = np.repeat(np.arange(20), np.arange(3, 23))
    points = np.random.default_rng(0).normal(size=(codes.size, 2)).astype(np.float32)
    found = embedding(20, codes=codes, all_genes=points, panel=points, rows=np.arange(codes.size))
    assert pl.shown_classes(found) == list(range(2, 20))
    assert len(pl.embedding_map(found, "all").texts) == 18


def test_class_without_a_cell_shown_has_no_name() -> None:
    found = embedding(3, classes=("a", "b", "c", "absent"))
    assert pl.shown_classes(found) == [0, 1, 2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_of_classes_differ(theme: str) -> None:
    colours = np.array(class_colors(18, style.get_theme(theme)))
    distance = np.abs(colours[:, None] - colours[None]).sum(2) + 9 * np.eye(18)
    assert distance.min() > 0.1


def test_map_of_other_genes_is_refused() -> None:
    with pytest.raises(ConfigError, match="genes is 'some'; it must be one of all, panel"):
        pl.embedding_map(embedding(), "some")  # type: ignore[arg-type]


# Curve ------------------------------------------------------------------------------------------


def test_curve_has_a_dot_per_seed_lines_of_means_and_the_suggested_size() -> None:
    ax = pl.panel_curve(curve(), task="t", metric="macro_f1", name="Macro-F1")
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["its own network", "logistic regression"]
    for line in lines.values():
        assert line.get_xdata().tolist() == [4, 8, 32]
        np.testing.assert_allclose(line.get_ydata(), [0.09, 0.13, 0.37])
    dots = [line for line in ax.lines if line.get_linestyle() == "None"]
    np.testing.assert_allclose(dots[0].get_ydata(), [0.04, 0.14, 0.08, 0.18, 0.32, 0.42])
    assert [text.get_text() for text in ax.texts] == ["suggested: 8"]
    assert ax.get_ylabel() == "Macro-F1"
    assert ax.get_xlabel() == "genes in the panel"
    png(ax)
    assert ticks(ax.xaxis) == ["4", "8", "32"]


def test_parts_of_a_curve_share_their_limits() -> None:
    found = curve()
    found.table.loc[found.table["part"] == "test", "value"] += 0.3
    limits = {
        pl.panel_curve(found, task="t", metric="macro_f1", part=part).get_ylim()
        for part in ("validation", "test")
    }
    assert len(limits) == 1


def test_sizes_without_room_are_not_named_but_the_suggested_one_is() -> None:
    found = curve()
    table = pd.concat([found.table.assign(n_genes=size) for size in (4, 5, 6, 7, 8, 9, 64)])
    ax = pl.panel_curve(PanelCurve(table, pd.DataFrame(), 7, {}), task="t", metric="macro_f1")
    png(ax)
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert sum(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]) == 0
    assert "7" in ticks(ax.xaxis)


def test_curve_of_one_size_can_be_drawn() -> None:
    found = curve()
    one = PanelCurve(found.table[found.table["n_genes"] == 8], pd.DataFrame(), 8, {})
    ax = pl.panel_curve(one, task="t", metric="macro_f1")
    png(ax)
    assert "8" in ticks(ax.xaxis)


def test_curve_without_the_values_asked_for_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no 'r2' of task 't' on 'test' cells; it has tasks"):
        pl.panel_curve(curve(), task="t", metric="r2")
    assert pl.curve_parts(curve(), "t", "r2") == []
    assert pl.curve_parts(curve(), "t", "macro_f1") == ["validation", "test"]


# Seeds ------------------------------------------------------------------------------------------


def test_frequency_bars_have_the_shares_and_mark_the_consensus() -> None:
    ax = pl.gene_frequency(stability())
    assert [bar.get_width() for bar in ax.patches] == [1.0, 0.5, 0.5]
    colours = [to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert colours == [LIGHT.palette[0].lower()] * 2 + [LIGHT.quiet]
    assert ticks(ax.yaxis) == ["a", "b", "c"]
    assert ticks(pl.gene_frequency(stability(), ["c"]).yaxis) == ["c"]


def test_gene_that_no_seed_chose_is_named() -> None:
    with pytest.raises(ConfigError, match="1 of 2 genes were not selected by any seed, first 'z'"):
        pl.gene_frequency(stability(), ["a", "z"])
    with pytest.raises(ConfigError, match="name at least one"):
        pl.gene_frequency(stability(), [])


def test_overlap_states_each_pair() -> None:
    ax = pl.panel_overlap(stability())
    assert [text.get_text() for text in ax.texts] == ["1.00", "0.25", "0.25", "1.00"]
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == ["0", "7"]


# Correlation ------------------------------------------------------------------------------------


def test_like_genes_stand_side_by_side_within_a_frame() -> None:
    found = redundancy()
    order = pl.correlation_order(found)
    assert abs(order.index("g0") - order.index("g2")) == 1
    ax = pl.panel_correlation(found)
    assert ticks(ax.yaxis) == order
    values = np.asarray(ax.collections[0].get_array()).reshape(4, 4)
    np.testing.assert_allclose(values, found.correlation.loc[order, order])
    (frame,) = ax.patches
    start = min(order.index("g0"), order.index("g2")) - 0.5
    assert (frame.get_x(), frame.get_y(), frame.get_width()) == (start, start, 2)


@pytest.mark.parametrize("n", [1, 2])
def test_correlation_of_one_or_two_genes_can_be_drawn(n: int) -> None:
    names = [f"g{i}" for i in range(n)]
    found = Redundancy(
        groups=[], correlation=pd.DataFrame(np.eye(n), names, names), substitutes=pd.DataFrame()
    )
    assert ticks(pl.panel_correlation(found).yaxis) == names


def test_names_of_a_large_panel_are_left_out_and_those_of_64_genes_do_not_overlap() -> None:
    ax = pl.panel_correlation(redundancy(65))
    assert ticks(ax.yaxis) == []
    assert "65 genes" in ax.get_ylabel()
    ax = pl.panel_correlation(redundancy(64))
    png(ax)
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert sum(a.overlaps(b) for a, b in pairwise(boxes)) == 0


# Contributions ----------------------------------------------------------------------------------


def test_contributions_show_tasks_or_all_cells_and_classes() -> None:
    ax = pl.contributions(contributions())
    assert ticks(ax.xaxis) == ["t", "age"]
    ax = pl.contributions(contributions(), "t")
    assert ticks(ax.xaxis) == ["all cells", "x", "y"]
    values = ax.collections[0].get_array()
    np.testing.assert_allclose(values.filled(9), [[0.3, 0.8, -0.1], [0.1, 0.0, 9.0]])
    assert ax.collections[0].get_clim() == (-1.0, 1.0)
    assert ticks(pl.contributions(contributions(), "age", ["b"]).xaxis) == ["all cells"]


def test_scale_says_when_larger_values_have_the_colour_of_its_end() -> None:
    ax = pl.contributions(contributions(), "t", largest=0.5)
    assert ticks(ax.child_axes[0].xaxis) == ["≤ −0.5", "0", "≥ 0.5"]
    ax = pl.contributions(contributions(), "t")
    assert ticks(ax.child_axes[0].xaxis) == ["−1", "0", "1"]


def test_unknown_task_and_gene_are_named() -> None:
    with pytest.raises(ConfigError, match="no contributions to 'agee'; closest: 'age'"):
        pl.contributions(contributions(), "agee")
    with pytest.raises(ConfigError, match="1 of 1 genes are not in the panel, first 'z'"):
        pl.contributions(contributions(), "t", ["z"])
