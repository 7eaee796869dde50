"""Plots show the numbers they are given and leave matplotlib as they found it."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib as mpl
from matplotlib.figure import Figure

from kernomics import pl
from kernomics.errors import ConfigError
from kernomics.metrics import ClassExpression, class_expression
from kernomics.pl import style

NAMES = ['<b>x&"', "a $b$ c_{d}", "plain", "x" * 60]


def expression(n_genes: int, n_classes: int) -> ClassExpression:
    rng = np.random.default_rng(0)
    codes = np.arange(40 * n_classes) % n_classes
    counts = rng.poisson(1.0, (codes.size, n_genes))
    return class_expression(counts, codes, [f"class {c}" for c in range(n_classes)], task="t")


def png(artist: Any) -> bytes:
    """Render with Agg and return the file."""
    figure = artist if isinstance(artist, Figure) else artist.figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def text_boxes(ax: Any, labels: list[Any]) -> list[Any]:
    renderer = (
        ax.figure.canvas.get_renderer() if hasattr(ax.figure.canvas, "get_renderer") else None
    )
    return [label.get_window_extent(renderer) for label in labels if label.get_text()]


def overlapping(boxes: list[Any]) -> int:
    return sum(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def every_plot(theme: Any) -> list[Any]:
    history = [
        {"step": s, "split": split, "loss": 1 / s, "temperature": 1.0}
        for s in range(1, 5)
        for split in ("train", "validation")
    ]
    return [
        pl.dot_plot(expression(4, 3), NAMES, theme=theme),
        pl.panel_scores(NAMES, [3.0, 2.0, 1.0, -1.0], [0.1, 0.5, 0.9, 0.0], theme=theme),
        pl.confusion(np.eye(4, dtype=int), NAMES, theme=theme),
        pl.training_curves(history, theme=theme),
        pl.method_comparison({"ours": 0.9, "theirs": 0.8}, metric="F1", theme=theme),
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plots_render_and_change_no_global_state(theme: str) -> None:
    before = dict(mpl.rcParams)
    for plot in every_plot(theme):
        assert png(plot).startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_unknown_theme_is_named() -> None:
    with pytest.raises(
        ConfigError, match="theme is 'drak'; closest: 'dark'; it must be one of light, dark"
    ):
        pl.confusion([[1]], ["a"], theme="drak")  # type: ignore[arg-type]


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"plotting needs the package 'matplotlib'.*\[report\]"):
        pl.confusion([[1]], ["a"])


def test_plots_draw_on_the_callers_axes() -> None:
    for draw in (
        lambda ax: pl.dot_plot(expression(3, 2), ["a", "b", "c"], ax=ax),
        lambda ax: pl.confusion([[1, 0], [1, 1]], ["a", "b"], ax=ax),
        lambda ax: pl.method_comparison({"a": 0.5}, metric="F1", ax=ax),
        lambda ax: pl.training_panel(pl.training_panels([{"step": 1, "loss": 1.0}])[0], ax=ax),
    ):
        ax = Figure(figsize=(5, 4)).add_subplot()
        assert draw(ax) is ax
        png(ax)


# Dot plot ---------------------------------------------------------------------------------------


def test_dot_areas_are_detection_rates_and_colours_are_means() -> None:
    table = expression(5, 3)
    dots = pl.dot_plot(table, list("abcde")).collections[0]
    areas, at = dots.get_sizes(), np.asarray(dots.get_offsets()).astype(int)
    detection, means = table.detection[at[:, 1], at[:, 0]], table.mean_log1p[at[:, 1], at[:, 0]]
    np.testing.assert_allclose(areas / areas.max(), detection / detection.max())
    np.testing.assert_allclose(dots.get_array(), means)


def test_gene_that_no_cell_has_gets_no_dot() -> None:
    table = class_expression([[0, 3], [0, 1]], [0, 1], ["a", "b"], task="t")
    at = np.asarray(pl.dot_plot(table, ["none", "both"]).collections[0].get_offsets())
    assert set(at[:, 1]) == {1}


def test_shared_colour_scale_is_kept() -> None:
    first = pl.dot_plot(expression(3, 2), list("abc"), largest_mean=4.2).collections[0]
    assert first.get_clim() == (0.0, 5.0)


def test_gene_names_must_fit_the_table() -> None:
    with pytest.raises(ConfigError, match="2 gene names were given for 3 genes"):
        pl.dot_plot(expression(3, 2), ["a", "b"])


@pytest.mark.parametrize(("n_genes", "n_classes"), [(1, 1), (16, 2), (32, 30)])
def test_dot_plot_labels_do_not_overlap(n_genes: int, n_classes: int) -> None:
    ax = pl.dot_plot(expression(n_genes, n_classes), [f"GENE{g}" for g in range(n_genes)])
    png(ax)
    assert overlapping(text_boxes(ax, ax.get_yticklabels())) == 0
    assert overlapping(text_boxes(ax, ax.get_xticklabels())) == 0


# Names ------------------------------------------------------------------------------------------


def test_names_are_written_as_they_are() -> None:
    ax = pl.confusion(np.eye(4, dtype=int), NAMES)
    png(ax)
    shown = [label.get_text() for label in ax.get_xticklabels()]
    assert shown[:3] == NAMES[:3]
    assert not any(label.get_parse_math() for label in ax.get_xticklabels())


def test_long_names_are_cut_in_the_middle_and_stay_different() -> None:
    names = [f"{'same beginning ' * 3}{tail} {'same end ' * 3}" for tail in "abc"]
    short = style.shorten(names, 24)
    assert len(set(short)) == 3
    assert all(len(name) <= 28 for name in short)
    assert style.shorten(["CD4 T cell"]) == ["CD4 T cell"]


# Confusion --------------------------------------------------------------------------------------


def test_confusion_colour_is_the_share_of_the_row_and_text_has_the_counts() -> None:
    ax = pl.confusion([[8, 2], [0, 5]], ["a", "b"])
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()).ravel(), [0.8, 0.2, 0, 1])
    assert sorted(text.get_text() for text in ax.texts) == ["100%\n5", "20%\n2", "80%\n8"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a (10)", "b (5)"]


def test_class_absent_from_the_truth_has_an_empty_row() -> None:
    ax = pl.confusion([[3, 1], [0, 0]], ["a", "b"])
    assert len(ax.texts) == 2
    assert ax.get_yticklabels()[1].get_text() == "b (0)"


@pytest.mark.parametrize("n_classes", [1, 2, 12, 13, 30, 41])
def test_confusion_text_fits_its_cell_and_labels_do_not_overlap(n_classes: int) -> None:
    counts = np.full((n_classes, n_classes), 888)
    ax = pl.confusion(counts, [f"cell type number {c}" for c in range(n_classes)])
    png(ax)
    assert len(ax.texts) == (0 if n_classes > 40 else n_classes**2)
    cell = ax.get_window_extent().width / n_classes
    for box in text_boxes(ax, list(ax.texts)[:40]):
        assert box.width <= cell
        assert box.height <= cell
    assert overlapping(text_boxes(ax, ax.get_yticklabels())) == 0
    assert overlapping(text_boxes(ax, ax.get_xticklabels())) == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_confusion_text_has_contrast_on_every_shade(theme: str) -> None:
    from matplotlib.colors import to_rgb

    def luminance(color: Any) -> float:
        c = np.array(to_rgb(color))
        linear = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    scale = style.sequential(style.get_theme(theme))
    for share in np.linspace(0, 1, 21):
        light, dark = sorted((luminance(scale(share)), luminance(style.readable_on(scale(share)))))
        assert (dark + 0.05) / (light + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("n_classes", "words"),
    [(12, "percentage: share of the row; whole numbers"), (40, "numbers: cells"), (41, "Colour")],
)
def test_key_explains_what_a_matrix_of_that_size_shows(n_classes: int, words: str) -> None:
    assert words in pl.confusion_key(n_classes)
    texts = pl.confusion(np.eye(n_classes, dtype=int), ["c"] * n_classes).texts
    assert bool(texts) == ("numbers" in pl.confusion_key(n_classes))
    assert any("%" in text.get_text() for text in texts) == (
        "percentage" in pl.confusion_key(n_classes)
    )


def test_confusion_must_be_square() -> None:
    with pytest.raises(ConfigError, match=r"shape \(1, 2\) was given for 2 classes"):
        pl.confusion([[1, 2]], ["a", "b"])


# Scores and comparison --------------------------------------------------------------------------


def test_forced_gene_has_no_score_bar_in_colour() -> None:
    figure = pl.panel_scores(["a", "b"], [np.inf, 2.0], [0.5, 0.2])
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    colours = {bar.get_facecolor() for bar in figure.axes[0].patches}
    assert widths == [2.0, 2.0]
    assert len(colours) == 2


def test_panel_of_forced_genes_alone_can_be_drawn() -> None:
    figure = pl.panel_scores(["a"], [np.inf], [0.5])
    png(figure)
    assert any("a" in label.get_text() for ax in figure.axes for label in ax.get_yticklabels())


def test_scores_must_fit_the_genes() -> None:
    with pytest.raises(ConfigError, match="1 genes, scores of shape"):
        pl.panel_scores(["a"], [1.0, 2.0], [0.5])


def test_comparison_bars_have_the_values_and_say_what_is_missing() -> None:
    values = {"ours": 0.875, "theirs": -0.25, "other": float("nan")}
    ax = pl.method_comparison(values, metric="R²", spread={"theirs": 0.1})
    png(ax)
    assert [bar.get_width() for bar in ax.patches] == [0.875, -0.25, 0.0]
    assert [text.get_text() for text in ax.texts] == ["0.875", "−0.250", "not computed"]


def test_comparison_needs_a_method() -> None:
    with pytest.raises(ConfigError, match="no method"):
        pl.method_comparison({}, metric="F1")


# Training ---------------------------------------------------------------------------------------


def test_history_becomes_loss_tasks_and_monitors_in_that_order() -> None:
    record = {"step": 1, "epoch": 0, "split": "train", "loss": 3.0, "cells_per_second": 9.0}
    record |= {"subset_size": 64, "loss_b": 1.0, "loss_a": 2.0, "temperature": 0.5}
    validation = {"step": 1, "split": "validation", "validation_loss": 4.0, "loss_a": 2.5}
    panels = pl.training_panels([record, validation])
    assert [panel.key for panel in panels] == [
        "loss", "loss_b", "loss_a", "temperature", "subset_size",
    ]  # fmt: skip
    assert {curve.split: curve.values.tolist() for curve in panels[0].curves} == {
        "train": [3.0],
        "validation": [4.0],
    }
    assert panels[2].title == "loss of a"


def test_a_single_task_has_no_curve_beside_the_total() -> None:
    panels = pl.training_panels([{"step": 1, "split": "train", "loss": 3.0, "loss_a": 3.0}])
    assert [panel.key for panel in panels] == ["loss"]


def test_step_records_are_drawn_only_without_epoch_records() -> None:
    steps = [{"step": s, "split": "step", "loss": 1.0, "temperature": 0.1} for s in (1, 2)]
    epochs = [{"step": 2, "split": "train", "loss": 1.0}]
    loss, temperature = pl.training_panels(steps + epochs)
    assert [curve.split for curve in loss.curves] == ["train"]
    assert [curve.split for curve in temperature.curves] == ["step"]


def test_values_that_are_not_finite_or_not_numbers_are_left_out() -> None:
    history = [{"step": s, "loss": value} for s, value in enumerate([1.0, np.nan, None, 2.0])]
    curve = pl.training_panels(history)[0].curves[0]
    assert curve.steps.tolist() == [0.0, 3.0]
    assert curve.values.tolist() == [1.0, 2.0]


def test_long_history_is_averaged_in_blocks() -> None:
    history = [{"step": s, "loss": float(s)} for s in range(100_001)]
    curve = pl.training_panels(history)[0].curves[0]
    assert curve.steps.size <= 400
    np.testing.assert_allclose(curve.values, curve.steps)


def test_empty_history_has_no_panels_and_no_figure() -> None:
    assert pl.training_panels([]) == []
    with pytest.raises(ConfigError, match="none of the 1 history records"):
        pl.training_curves([{"step": 1, "accuracy": 0.5}])
