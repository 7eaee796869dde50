"""What the report says of sizes, seeds, the map, contributions and redundancy is what was found."""

from __future__ import annotations

import html
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

from kernomics.report import panel_extras as panel_sections
from kernomics.report import render_report, repeat_sections

OPTIONAL = {
    "starts": repeat_sections.starts,
    "curve": repeat_sections.curve,
    "stability": repeat_sections.stability,
    "embedding": panel_sections.embedding,
    "contributions": panel_sections.contributions,
    "redundancy": panel_sections.redundancy,
}


def text_of(fragment: str) -> str:
    """Return what a reader sees, with single spaces."""
    shown = re.sub(r"<[^>]*>", " ", fragment)
    return " ".join(html.unescape(shown).split())


def rows_of(fragment: str) -> list[list[str]]:
    """Return the cells of the body rows of all tables."""
    found = []
    for row in re.findall(r"<tr>(.*?)</tr>", fragment):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        if "<td" in row:
            found.append([text_of(cell) for cell in cells])
    return found


@pytest.fixture(scope="module")
def small(example: Any) -> Any:
    return example.report_data(n_genes=4, n_classes=3, further=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONAL)
def test_section_is_absent_without_its_data(small: Any, name: str) -> None:
    data = replace(small, **{name: None})
    assert OPTIONAL[name](data) == ""
    text = render_report(data)
    assert f'id="{name}"' not in text
    assert f'href="#{name}"' not in text
    assert all(f'id="{other}"' in text for other in OPTIONAL if other != name)


def test_why_a_section_is_missing_is_said_once_and_escaped(small: Any) -> None:
    text = render_report(replace(small, embedding=None, omitted=["No map <here>."]))
    assert text.count("No map &lt;here&gt;.") == 1


def test_names_in_every_section_are_escaped(example: Any) -> None:
    data = example.report_data(n_genes=4, n_classes=3, further=True)
    hostile = example.HOSTILE
    names = [f"{hostile}{c}" for c in range(3)]
    task = replace(data.tasks[0], name=hostile, classes=names)
    found = replace(data.embedding, classes=tuple(names), label=hostile)
    by_class = data.contributions.by_class["cell_type"].set_axis(names, axis=1)
    whole = data.contributions.loss_without.set_axis([hostile], axis=1)
    text = render_report(
        replace(
            data,
            tasks=[task],
            expression=[],
            embedding=found,
            curve=example.curve([task]),
            stability=example.stability(list(data.genes), [task]),
            contributions=replace(
                data.contributions, loss_without=whole, by_class={hostile: by_class}
            ),
        )
    )
    assert "<b>" not in text
    assert text.count("&lt;b&gt;x") > 10


# How many genes ---------------------------------------------------------------------------------


def test_curve_tells_the_mean_over_seeds_of_each_part_and_predictor(small: Any) -> None:
    section = repeat_sections.curve(small)
    assert "Panels of 4, 8, 16 genes were selected with 2 seeds each." in text_of(section)
    assert "Suggested: 8 genes" in text_of(section)
    # 0.5 + size / 100 + mean seed / 50, + 0.04 for the second predictor, + 0.005 held out.
    assert rows_of(section) == [
        ["4", "0.550", "0.555", "0.590", "0.595"],
        ["8 suggested", "0.590", "0.595", "0.630", "0.635"],
        ["16", "0.670", "0.675", "0.710", "0.715"],
    ]
    assert section.count("<figure") == 2


def test_task_without_a_value_is_left_out_of_the_curve(example: Any) -> None:
    data = example.report_data(n_genes=2, n_classes=2, regression=True, further=True)
    known = data.curve.table
    table = known.assign(value=known["value"].where(known["task"] != "age"))
    section = repeat_sections.curve(replace(data, curve=replace(data.curve, table=table)))
    assert "cell_type" in section
    assert "age" not in text_of(section)


# Other seeds ------------------------------------------------------------------------------------


def test_stability_tells_the_agreement_and_every_seeds_score(small: Any) -> None:
    section = repeat_sections.stability(small)
    text = text_of(section)
    assert "3 seeds selected 6 different genes, 2 of them in every seed." in text
    assert "two panels have a Jaccard index of 0.56" in text  # (1 + 1/3 + 1/3) / 3
    assert "chance, is 0.62 " in text
    assert "80%" not in text
    assert rows_of(section) == [
        ["seed 0", "0.500"],
        ["seed 1", "0.600"],
        ["seed 2", "0.700"],
        ["mean ± standard deviation", "0.600 ± 0.100"],
    ]


def test_stability_tells_the_consensus_and_the_resampling_where_there_is_one(small: Any) -> None:
    scores = pd.DataFrame({"cell_type/macro_f1": [0.777]}, index=["its own network"])
    found = replace(small.stability, consensus_scores=scores, resampled=True)
    section = repeat_sections.stability(replace(small, stability=found))
    assert rows_of(section)[-1] == ["the consensus its own network", "0.777"]
    assert "Each additional seed used 80% of the training cells." in text_of(section)


def test_only_the_most_frequent_of_many_genes_are_drawn(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeat_sections, "MOST_BARS", 5)
    assert "the 5 most frequent of 6" in text_of(repeat_sections.stability(small))


# All genes and the panel ------------------------------------------------------------------------


def test_embedding_tells_cells_neighbours_and_classes(small: Any) -> None:
    text = text_of(panel_sections.embedding(small))
    assert "15 nearest neighbours by all genes (12.6% by chance)" in text  # 15 / 119
    assert "81% share the cell's cell_type by all genes and 79% by the panel" in text
    assert "120 of 2,470 held-out cells, drawn at random (seed 0)" in text
    assert "Grey: unlabelled" in text


def test_embedding_of_all_cells_without_classes_says_so(small: Any) -> None:
    found = replace(
        small.embedding, part="all", n_from=120, classes=(), label="",
        codes=np.full(120, -1), same_class=(np.nan, np.nan),
    )  # fmt: skip
    text = text_of(panel_sections.embedding(replace(small, embedding=found)))
    assert "all 120 cells" in text
    assert "nan" not in text
    assert "Grey" not in text


# What each gene is for --------------------------------------------------------------------------


def test_panel_table_tells_where_each_gene_matters_most(small: Any) -> None:
    reasons = panel_sections.reasons(small)
    assert list(reasons) == list(small.genes)
    assert reasons[small.genes[0]] == "cell_type: class 2, +0.42"
    by_class = small.contributions.by_class["cell_type"]
    for gene in small.genes[1:]:
        best = by_class.loc[gene]
        assert reasons[gene] == f"cell_type: {best.idxmax()}, +{best.max():.2f}"
    text = render_report(small)
    assert "Why it is included" in text
    assert "cell_type: class 2, +0.42" in text
    assert "Why it is included" not in render_report(replace(small, contributions=None))


def test_class_with_few_held_out_cells_is_no_reason_and_is_named(small: Any) -> None:
    confusion = np.diag([20, 20, 4])
    data = replace(small, tasks=[replace(small.tasks[0], confusion=confusion)])
    assert "class 2" not in " ".join(panel_sections.reasons(data).values())
    text = text_of(panel_sections.contributions(data))
    assert "Fewer than 10 held-out cells, so interpret with caution: class 2." in text


def test_task_at_chance_is_no_reason(example: Any) -> None:
    data = example.report_data(n_genes=2, n_classes=2, regression=True, further=True)
    guessed, known = np.array([[25, 25], [25, 25]]), np.array([[45, 5], [5, 45]])

    def tasks_of(confusion: Any, r2: float) -> list[str]:
        classes, number = data.tasks
        score = replace(number.scores[0], metrics={"r2": r2})
        tasks = [replace(classes, confusion=confusion), replace(number, scores=[score])]
        reasons = panel_sections.reasons(replace(data, tasks=tasks))
        return sorted({reason.partition(":")[0].partition(",")[0] for reason in reasons.values()})

    assert tasks_of(guessed, -0.1) == ["–"]
    assert "age" not in tasks_of(known, -0.1)
    assert "cell_type" in tasks_of(known, -0.1)
    assert set(tasks_of(guessed, 0.5)) <= {"age", "–"}


def test_reasons_hold_numbers_a_dash_for_none_and_skip_what_is_missing(example: Any) -> None:
    data = example.report_data(n_genes=2, n_classes=2, regression=True, further=True)
    first, second = data.genes
    whole = data.contributions.loss_without.copy()
    by_class = data.contributions.by_class["cell_type"].copy()
    by_class.loc[:, :] = -0.1
    by_class.iloc[:, 0] = np.nan
    whole["age"] = [0.3, 0.001]
    found = replace(data.contributions, loss_without=whole, by_class={"cell_type": by_class})
    reasons = panel_sections.reasons(replace(data, contributions=found))
    assert reasons == {first: "age, +0.30", second: "–"}


def test_contributions_have_a_map_per_task_and_one_of_all_tasks(example: Any) -> None:
    one = panel_sections.contributions(example.report_data(n_genes=2, n_classes=2, further=True))
    assert re.findall("<h3>(.*?)</h3>", one) == ["cell_type"]
    both = panel_sections.contributions(
        example.report_data(n_genes=2, n_classes=2, regression=True, further=True)
    )
    assert re.findall("<h3>(.*?)</h3>", both) == ["All tasks", "cell_type"]


def test_contributions_of_a_number_alone_are_drawn(example: Any) -> None:
    data = example.report_data(n_genes=2, n_classes=2, regression=True, further=True)
    found = replace(
        data.contributions, loss_without=data.contributions.loss_without[["age"]], by_class={}
    )
    section = panel_sections.contributions(
        replace(data, tasks=data.tasks[1:], expression=[], contributions=found)
    )
    assert re.findall("<h3>(.*?)</h3>", section) == ["age"]
    assert section.count("<figure") == 1


def test_large_panels_show_the_best_genes_and_say_so(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_sections, "MOST_CELLS", 10)
    data = example.report_data(n_genes=40, n_classes=2, further=True)
    text = text_of(panel_sections.contributions(data))
    assert "Only the 32 top-ranked of 40 genes are shown" in text


# Redundancy and substitutes ---------------------------------------------------------------------


def test_redundancy_tells_groups_strongest_pair_and_substitutes(small: Any) -> None:
    section = panel_sections.redundancy(small)
    first, second, third, _ = small.genes
    text = text_of(section)
    assert f"1 group of redundant genes, with |r| ≥ 0.91: {first}" in (text)
    assert f"The most correlated are {first} and {second}, r = +0.91." in text
    rows = {row[0]: row[1:] for row in rows_of(section)}
    assert list(rows) == list(small.genes)
    assert rows[first] == [second, "OTHER0 −0.77"]
    assert rows[second] == [first, "–"]
    assert rows[third] == ["–", "–"]


def test_panel_of_one_gene_has_no_like_genes(example: Any) -> None:
    data = example.report_data(n_genes=1, n_classes=2, further=True)
    assert "No two genes of the panel are redundant." in text_of(panel_sections.redundancy(data))


# -- the starts ------------------------------------------------------------------------------------


def test_starts_show_their_scores_what_is_alike_and_how_sure_the_choice_is(small: Any) -> None:
    section = repeat_sections.starts(small)
    text = text_of(section)
    assert "made 3 selections and one predictor, on the panel of start 1" in text
    assert "a regression on the panel's counts, by cross-validation within the training" in text
    assert "hardly told them apart: start 1 is the best in 61% of their resamples" in text
    assert "(33% would be chance)" in text
    assert "6 different genes, 2 of them in every start" in text
    assert "Jaccard index of 0.56" in text  # (1/3 + 1 + 1/3) / 3
    rows = rows_of(section)
    assert rows[:3] == [
        ["1 chosen", "0.800", "0.600", "0.700", "1.00"],
        ["2", "0.700", "0.650", "0.675", "0.33"],
        ["3", "0.750", "0.550", "0.650", "1.00"],
    ]
    assert [row[1] for row in rows[3:]] == ["3 of 3 starts"] * 2 + ["2 of 3 starts"] * 2
    assert [row[0] for row in rows[3:]] == list(small.genes)


def test_starts_of_one_judge_show_its_scores_alone_and_genes_that_most_selected(small: Any) -> None:
    panels = [list(small.genes), ["A", "B", "C", "D"], ["A", "B", "E", "F"]]
    judged = {"own": [math.nan] * 3, "linear": [0.9, 0.8, 0.7], "scores": [0.9, 0.8, 0.7]}
    found = replace(
        small.starts, judge="linear", panels=panels, certainty=0.93, cross_validated=False, **judged
    )
    section = repeat_sections.starts(replace(small, starts=found))
    assert "by a regression on the panel's counts, on the validation cells." in text_of(section)
    assert "told them apart well" in text_of(section)
    assert "By its network" not in section
    rows = rows_of(section)
    assert rows[0] == ["1 chosen", "0.900", "1.00"]
    missed = [row for row in rows[3:] if "not in the panel" in row[0]]
    assert missed == [[f"{gene} not in the panel", "2 of 3 starts"] for gene in "AB"]
