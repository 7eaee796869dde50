"""The reports of a PolyGene, an attribution and a pruning say what was found, in one file."""

from __future__ import annotations

import dataclasses
import html
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from attribution_example import attribution, pruning

pytest.importorskip("matplotlib")

from kernomics.attribution import overlap, top_genes
from kernomics.report import (
    AttributionReport,
    PhenotypeReport,
    PhenotypeScores,
    Provenance,
    PruningReport,
)
from kernomics.report.attribution_report import render_attribution_report
from kernomics.report.phenotype_report import render_phenotype_report
from kernomics.report.pruning_report import render_pruning_report

PROVENANCE = Provenance.of_this_process({"seed": 3}, 3)


def text_of(page: str) -> str:
    shown = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(shown).split())


def section_ids(page: str) -> list[str]:
    return re.findall(r'<section id="([^"]*)"', page)


def attributed(n_groups: int = 2, **more: Any) -> AttributionReport:
    found = attribution(n_groups)
    tops = top_genes({"absolute": found.table["absolute"], "<HVG>": -found.table["absolute"]}, 5)
    return AttributionReport(
        title="A <title>",
        head=[("Model", "<model>")],
        which="the run's 4 training cells",
        attribution=found,
        tops=tops,
        overlap=overlap(tops),
        provenance=PROVENANCE,
        **more,
    )


def test_an_attribution_is_told_with_its_pairs_genes_truth_and_groups() -> None:
    recall = pd.DataFrame(
        [
            {"set": "<IFN>", "ranking": name, "genes": 7, "average_precision": value,
             "by_chance": 0.35, "in_top_30": 6}
            for name, value in (("absolute", 0.625), ("DE", 0.5))
        ]
    )  # fmt: skip
    page = render_attribution_report(attributed(recall=recall, truth="sets.gmt", warnings=["<w>"]))
    assert section_ids(page) == [
        "key-figures", "genes", "truth", "beside", "distributions", "groups", "warnings",
        "reproducibility",
    ]  # fmt: skip
    text = text_of(page)
    for said in (
        "Attributed on the run's 4 training cells.", "Cells left out: 3 (type is missing).",
        "median over the pairs; at most 0.75", "up $1$, down<b>, flat",
        "<IFN>: 7 genes of the set are scored; average precision by chance 0.350",
        "absolute 0.625 6 0.200", "1 up $1$ 0.75 0.75", "T/NK 1", "1 warning to read",
        "Seed 3.",
    ):  # fmt: skip
        assert said in text, said
    assert "<b>" not in page.replace("&lt;b&gt;", "")


def test_presence_is_told_where_an_engine_tells_it_and_little_is_not_called_nothing() -> None:
    data = attributed()
    table = data.attribution.table.assign(presence=0.0625)
    found = dataclasses.replace(data.attribution, table=table, completeness=np.full(4, 4.2e-7))
    text = text_of(render_attribution_report(dataclasses.replace(data, attribution=found)))
    assert "Presence Forward" in text
    assert "0.0625" in text
    assert "Presence is the part of forward" in text
    assert "Not explained 4.2e−07" in text
    assert "Presence" not in text_of(render_attribution_report(data))


def test_without_truth_or_groups_their_sections_are_left_out() -> None:
    ids = section_ids(render_attribution_report(attributed(1)))
    assert "truth" not in ids
    assert "groups" not in ids


def test_a_pruning_is_told_with_its_table_curves_and_what_an_empty_cell_is_called() -> None:
    retrained = pd.DataFrame(
        [{"ranking": "DE", "n_genes": 20, "balanced_accuracy": 0.875, "macro_f1": 0.75}]
    )
    data = PruningReport(
        title="t", head=[], which="9 test cells", pruning=pruning(), retrained=retrained,
        provenance=PROVENANCE,
    )  # fmt: skip
    page = render_pruning_report(data)
    text = text_of(page)
    for said in (
        "Pruned on 9 test cells; cells: ill 4, well 5.",
        "A cell without any gene is called <well> (probability 0.62)",
        "−50% (50)", "absolute 1.000 0.875 0.812 0.750", "<random> 0.875 0.625 0.500 0.750",
        "DE 0.875 0.750",
    ):  # fmt: skip
        assert said in text, said
    assert page.count("<figure") == 2
    assert "retraining" in section_ids(page)


def test_phenotypes_are_told_with_the_majority_share_and_what_is_taken_for_what() -> None:
    score = PhenotypeScores(
        name="<state>",
        classes=["ill", "well"],
        metrics={
            "n_cells": 8, "balanced_accuracy": 0.75, "accuracy": 0.875, "macro_f1": 0.5,
            "auprc": 0.625,
        },
        majority="well",
        majority_share=0.8125,
        confusion=np.array([[3, 1], [0, 4]]),
    )  # fmt: skip
    history = [{"step": s, "split": "train", "loss": 1.0 / s} for s in (1, 2)]
    data = PhenotypeReport(
        title="t", head=[("Cells", "9")], sentence="Divided so.", scores=[score], history=history,
        warnings=["careful"], provenance=PROVENANCE,
    )  # fmt: skip
    page = render_phenotype_report(data)
    text = text_of(page)
    assert "<state> 8 0.750 0.875 0.500 0.625 0.812 well" in text
    assert "<state> 0.750 Balanced accuracy on 8 held-out cells by chance 0.500" in text
    assert "careful" in text
    assert "7 of 8 cells are called correctly" in html.unescape(page)
    assert score.to_dict()["confusion"] == [[3, 1], [0, 4]]
