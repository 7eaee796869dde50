"""The report of a TxFM says what was found, with errors, and is one file."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from kernomics.report import render_representation_report, write_representation_report
from kernomics.report import representation_sections as sections


def text_of(fragment: str) -> str:
    shown = re.sub(r"<style>.*?</style>|<[^>]*>", " ", fragment, flags=re.DOTALL)
    return " ".join(html.unescape(shown).split())


def section_ids(text: str) -> list[str]:
    return re.findall(r'<section id="([^"]*)"', text)


@pytest.fixture(scope="module")
def full(representation_example: Any) -> Any:
    return representation_example.representation_report()


@pytest.fixture(scope="module")
def page(full: Any) -> str:
    return render_representation_report(full)


def test_every_section_is_there_and_reached_from_the_navigation(page: str) -> None:
    expected = [
        "key-figures", "maps", "perturbations", "relationships", "training", "warnings",
        "reproducibility",
    ]  # fmt: skip
    assert section_ids(page) == expected
    assert re.findall(r'<li><a href="#([^"]*)"', page) == expected


def test_a_training_without_labels_says_what_is_missing(representation_example: Any) -> None:
    bare = representation_example.representation_report(bare=True)
    text = render_representation_report(bare)
    assert section_ids(text) == ["key-figures", "maps", "training", "warnings", "reproducibility"]
    assert text.count("No labels &lt;here&gt;.") == 1
    assert "library size" in sections.maps(bare)
    none = replace(bare, maps=None, history=None)
    left = ["key-figures", "warnings", "reproducibility"]
    assert section_ids(render_representation_report(none)) == left


def test_scores_stand_with_their_errors_and_differences(full: Any) -> None:
    said = text_of(sections.key_figures(full))
    assert "cell_type 0.800 ± 0.020 Linear accuracy of TxFM on 140 held-out cells" in said
    assert "PCA 0.700 ± 0.020" in said
    assert "TxFM 0.800 ± 0.020 0.800 ± 0.020 0.800 ± 0.020 0.800 ± 0.020 0.800 PCA" in said
    assert "minus PCA +0.100 ± 0.010" in said
    assert "No error is given for NMI." in said
    assert "on another donor the scores may vary" in said
    best = re.findall(r'class="number best">([^<]*)', sections.key_figures(full))
    # Per label five best scores, and eight differences above twice their errors.
    assert (
        best == (["0.800"] * 10 + ["+0.100"] * 4 + ["+0.200"] * 4) + ["+0.100"] * 4 + ["+0.200"] * 4
    )


def test_maps_are_of_the_same_cells_coloured_by_each_label_and_batch(full: Any) -> None:
    found = sections.maps(full)
    assert re.findall("<h3>([^<]*)</h3>", found) == [
        "cell_type", "&lt;b&gt;x&amp;&quot;", "age", "donor (batch)",
    ]  # fmt: skip
    assert found.count("<figure") == 8
    said = text_of(found)
    assert "On average 31% of a cell's 15 nearest neighbours in PCA" in said
    assert "12.6% by chance" in said
    assert "the cell's cell_type: 81% in TxFM, 79% in PCA." in said
    assert "120 of 2,470 held-out cells, drawn at random (seed 0), the same in all maps" in said
    assert "Grey: unlabelled cells" in said
    assert "used in training" not in said
    every = replace(full, maps=replace(full.maps, part="all"))
    assert "Some of these cells were used in training." in text_of(sections.maps(every))


def test_shares_of_perturbations_and_pairs_have_errors_where_there_is_one(full: Any) -> None:
    said = text_of(sections.perturbations(full))
    assert "TxFM tvn 0.500 ± 0.112 0.500 0.700" in said  # √(0.25/20)
    assert "PCA centre 0.000 0.300 0.500" in said
    said = text_of(sections.relationships(full))
    assert "TxFM encoder tokens 32 0.300 ± 0.023 0.300 ± 0.023 0.300" in said  # √(0.21/400)
    assert "pairs share genes, so it is too small" in said


def test_names_are_escaped_and_nothing_is_asked_of_the_network(page: str) -> None:
    assert "<b>" not in page
    assert "<script" not in page
    assert not re.search(r"https?://", page)
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert all(source.startswith(("data:", "#")) for source in sources)


def test_it_says_how_to_make_it_again(full: Any, page: str, tmp_path: Any) -> None:
    said = text_of(page[page.index('<section id="reproducibility"') :])
    for words in (full.provenance.command, "Seed 0. Cells were split by donor.", "2.13.0"):
        assert words in said
    assert '"d_model": 64' in said
    written = write_representation_report(tmp_path / "report.html", full)
    assert written.read_text(encoding="utf-8") == page
