"""The report is one complete, self-contained and well-formed file."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from kernomics.errors import ConfigError
from kernomics.report import MethodScore, TaskReport, render_report, sections, write_report

VOID = {"meta", "link", "img", "source", "br", "hr"}
SECTIONS = [
    "key-figures", "panel", "starts", "curve", "stability", "expression", "embedding",
    "contributions", "redundancy", "confusion", "training", "warnings", "reproducibility",
]  # fmt: skip
OPTIONAL = ["starts", "curve", "stability", "embedding", "contributions", "redundancy"]


class Page(HTMLParser):
    """What a page holds; fails on a tag that is closed wrongly or left open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"repeated attribute in <{tag}>"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def case(rendered: tuple[Any, str]) -> tuple[Any, str, Page]:
    data, text = rendered
    return data, text, Page(text)


def test_every_section_is_there_and_reached_from_the_navigation(case: Any) -> None:
    page = case[2]
    assert [section["id"] for section in page.all("section")] == SECTIONS
    targets = [link["href"] for link in page.all("a") if "href" in link]
    assert targets[: len(SECTIONS)] == [f"#{name}" for name in SECTIONS]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {target.removeprefix("#") for target in targets} <= ids
    labels = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert labels <= ids


def test_ids_are_unique(case: Any) -> None:
    ids = Counter(attributes["id"] for _, attributes in case[2].tags if "id" in attributes)
    assert [name for name, n in ids.items() if n > 1] == []


def test_headings_are_in_order(case: Any) -> None:
    levels = [int(tag[1]) for tag, _ in case[2].tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_images_are_inside_the_file_and_described(case: Any) -> None:
    images, sources = case[2].all("img"), case[2].all("source")
    assert len(images) == len(sources) > 0
    for image in images:
        assert len(image["alt"]) > 30
        assert int(image["width"]) > 0
        assert int(image["height"]) > 0
    for uri in [i["src"] for i in images] + [s["srcset"] for s in sources]:
        kind, _, content = uri.partition(";base64,")
        assert kind in ("data:image/svg+xml", "data:image/png")
        decoded = base64.b64decode(content, validate=True)
        assert decoded.startswith((b"<svg", b"\x89PNG"))


def test_nothing_is_asked_of_the_network_and_no_script_is_there(case: Any) -> None:
    _, text, page = case
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "form"} == set()
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "srcset", "href", "action", "poster"):
                assert value.startswith(("data:", "#")), (tag, name, value)
    css = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css
    assert not re.search(r"https?://", text)


def test_every_table_has_a_caption_and_a_container_that_scrolls(case: Any) -> None:
    tags = case[2].tags
    tables = [place for place, (tag, _) in enumerate(tags) if tag == "table"]
    assert len(tables) >= 3
    for place in tables:
        assert "scroll" in tags[place - 1][1]["class"].split()
        assert tags[place + 1][0] == "caption"


def test_every_gene_is_in_the_panel_table_and_in_the_list(case: Any) -> None:
    data, text, page = case
    panel = Page(text[text.index('<section id="panel"') : text.index('<section id="starts"')])
    assert [cell for cell in panel.cells if cell in set(data.genes)] == list(data.genes)
    assert "\n".join(data.genes) in "".join(page.text)


def test_names_are_shown_as_they_are_and_never_become_tags(example: Any) -> None:
    hostile = example.HOSTILE
    data = example.report_data(n_classes=2, n_genes=4)
    task = replace(
        data.tasks[0],
        name=hostile + "task",
        classes=[hostile + "class", "</style><script>alert(1)</script>"],
        scores=[
            MethodScore(method=hostile + "m", predictor=hostile + "p", metrics={"accuracy": 0.5}),
            MethodScore(method=hostile + "n", metrics={"accuracy": 0.5}),
        ],
    )
    table = replace(data.expression[0], task=task.name, classes=tuple(task.classes))
    fields = ("title", "dataset", "command", "created", "version")
    data = replace(
        data,
        **{name: hostile + name for name in fields},
        tasks=[task],
        expression=[table],
        config={hostile: hostile},
        versions={hostile + "package": hostile + "number"},
        history=[{"step": 1, f"loss_{hostile}": 1.0, "loss_b": 1.0, "loss": 2.0}],
        split=replace(data.split, by=hostile),
        warnings=[hostile + "warning"],
    )
    text = render_report(data)
    page = Page(text)
    assert page.all("b") == []
    assert page.all("script") == []
    shown = "".join(page.text)
    for name in (*fields, "task", "class", "m", "p", "n", "package", "number", "warning"):
        assert hostile + name in shown
    assert hostile in [cell.strip() for cell in page.cells]
    assert f"each {hostile} is in one part only" in shown
    assert json.dumps({hostile: hostile}, indent=2) in shown


def test_key_figures_hold_own_scores_beside_the_baselines(example: Any) -> None:
    page = Page(render_report(example.report_data(regression=True)))
    shown = " ".join(page.cells)
    for value in ("0.912", "0.874", "0.802", "0.301", "0.410", "−0.120"):
        assert value in shown
    text = "".join(page.text)
    assert "each donor is in one part only" in text
    assert "2,470 held out" in text
    assert "200 held-out cells" in text


def test_best_score_of_each_task_is_marked_also_where_lower_is_better(example: Any) -> None:
    text = render_report(example.report_data(regression=True))
    best = re.findall(r'class="number best">([^<]*)', text)
    assert best == ["0.912", "0.874", "0.410", "7.200"]


def test_reproduction_needs_only_the_report(example: Any) -> None:
    data = example.report_data()
    text = "".join(Page(render_report(data)).text)
    assert data.command in text
    assert f"Seed {data.seed}." in text
    assert json.dumps(dict(data.config), indent=2) in text
    for name, number in data.versions.items():
        assert name in text
        assert number in text


def test_config_of_numpy_and_path_values_is_written(example: Any) -> None:
    config = {"k": np.int64(64), "f": (0.7, 0.3), "out": Path("runs") / "a", "a": np.arange(2)}
    text = "".join(Page(render_report(replace(example.report_data(), config=config))).text)
    assert '"k": 64' in text
    assert '"out": "runs/a"' in text


def test_equal_data_give_equal_bytes(example: Any) -> None:
    assert render_report(example.report_data()) == render_report(example.report_data())


def test_callers_matplotlib_settings_have_no_say(example: Any) -> None:
    import matplotlib as mpl

    data = example.report_data(n_genes=3, n_classes=2)
    expected = render_report(data)
    with mpl.rc_context({"font.size": 40, "axes.grid": True, "svg.fonttype": "path"}):
        assert render_report(data) == expected
        assert mpl.rcParams["font.size"] == 40


def test_report_without_scores_history_warnings_or_classes_is_complete(example: Any) -> None:
    data = replace(
        example.report_data(n_genes=2),
        scores=None,
        history=[],
        warnings=[],
        expression=[],
        tasks=[example.regression_task("age")],
    )
    page = Page(render_report(data))
    found = [section["id"] for section in page.all("section")]
    assert found == [name for name in SECTIONS if name not in OPTIONAL]
    text = "".join(page.text)
    for words in ("no training history", "No task has a confusion matrix", "None."):
        assert words in text


def test_forced_genes_and_missing_values_are_words_not_numbers(example: Any) -> None:
    data = example.report_data(n_genes=3)
    data = replace(data, scores=np.array([np.inf, 1.0, -np.inf]))
    page = Page(render_report(data))
    assert "forced" in page.cells
    assert "nan" not in " ".join(page.cells).lower()


def test_names_in_any_script_are_drawn_without_a_warning(example: Any) -> None:
    data = example.report_data(n_genes=2, n_classes=2)
    task = replace(data.tasks[0], classes=["T細胞", "Б-клетка"])
    assert "T細胞" in render_report(replace(data, tasks=[task]))


def test_very_large_panels_show_the_best_genes_and_say_so(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kernomics.report import sections

    monkeypatch.setattr(sections, "MOST_DOTS", 200)
    text = "".join(Page(render_report(example.report_data(n_genes=64, n_classes=5))).text)
    assert "The 40 top-ranked of 64 genes are shown" in text


def test_file_is_written_whole_or_not_at_all(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.html"
    data = example.report_data(n_genes=2, n_classes=2)
    assert write_report(target, data) == target
    first = target.read_text(encoding="utf-8")
    assert first == render_report(data)

    def fail(path: Path, *_: Any, **__: Any) -> int:
        path.touch()
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(target, replace(data, title="another"))
    assert target.read_text(encoding="utf-8") == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genes": []}, "has no genes"),
        ({"detection_rate": np.ones(3)}, r"detection_rate has shape \(3,\), expected \(2,\)"),
        ({"scores": np.ones(1)}, "scores has shape"),
        ({"tasks": []}, "at least one task"),
        ({"genes": ["a", "b", "c"]}, "expected \\(3,\\)"),
        ({"genes": ["a", "b"]}, "contributions holds 2 genes, which are not the 2 of the panel"),
    ],
)
def test_data_that_do_not_fit_are_named(example: Any, change: dict[str, Any], message: str) -> None:
    data = example.report_data(n_genes=2, further=True)
    with pytest.raises(ConfigError, match=message):
        replace(data, **change)


def test_expression_table_must_hold_the_panel(example: Any) -> None:
    data = example.report_data(n_genes=2)
    other = example.report_data(n_genes=3)
    with pytest.raises(ConfigError, match="expression of task 'cell_type' holds 3 genes"):
        replace(data, expression=other.expression)


def test_tasks_of_one_name_are_refused(example: Any) -> None:
    data = example.report_data(n_genes=2)
    with pytest.raises(ConfigError, match="task names must differ"):
        replace(data, tasks=[*data.tasks, *data.tasks])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confusion": np.ones((2, 2), dtype=np.int64)}, r"shape \(2, 2\), expected \(3, 3\)"),
        ({"class_cells": np.ones(2, dtype=np.int64)}, "class_cells of task"),
        ({"classes": (), "confusion": None, "class_cells": None}, "has no classes"),
        ({"kind": "ordinal"}, "is of kind 'ordinal'"),
        ({"scores": []}, "has no scores"),
    ],
)
def test_tasks_that_do_not_fit_are_named(
    example: Any, change: dict[str, Any], message: str
) -> None:
    task: TaskReport = example.categorical_task("t", 3, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=message):
        replace(task, **change)


def test_table_of_genes_says_what_is_everywhere_and_whose_markers_were_kept(example: Any) -> None:
    data = example.report_data()
    k = len(data.genes)
    plain = sections.panel(data)
    assert "in nearly every cell" not in plain
    assert "Marker for" not in plain
    everywhere = np.arange(k) == 1
    marker_for = [example.HOSTILE if place == 0 else "" for place in range(k)]
    text = sections.panel(replace(data, everywhere=everywhere, marker_for=marker_for))
    assert text.count('<span class="small">in nearly every cell</span>') == 1
    assert "at least 95% of the cells of every class with at least 10" in text
    assert "Marker for" in text
    assert example.HOSTILE not in text
    assert "for: the classes it was included for as a marker" in text
    with pytest.raises(ConfigError, match=r"marker_for has shape \(1,\)"):
        replace(data, marker_for=["x"])
