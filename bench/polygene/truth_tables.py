"""The tables of docs/attribution.md on what is found of a known truth; see `table`."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean
from typing import Any

Line = dict[str, Any]
Spread = Callable[..., str]
KINDS = ("additive", "confounded", "interaction", "decoys")
SCORES = {
    "absolute": "absolute",
    "effect": "effect",
    "|effect|": "abs(effect)",
    "signed_by_change": "absolute × sign of change",
    "forward": "forward",
    "importance": "importance",
    "lowered": "absolute, lowered genes first",
    "effect of the lowered": "effect, lowered genes first",
    "t": "effect / its standard deviation",
    "|t|": "abs(effect / its standard deviation)",
}
PLAIN = {
    "|DE|": "DE (Wilcoxon), either way",
    "DE": "DE (Wilcoxon), raised",
    "DE, lowered": "DE (Wilcoxon), lowered",
    "|DE within strata|": "DE within each cell type, either way",
    "HVG": "HVG",
    "random": "random",
}


def shown(ranking: str) -> str:
    """Name a ranking, of an engine or not."""
    if ": " not in ranking:
        return PLAIN[ranking]
    engine, score = ranking.split(": ")
    engine, *how = engine.split(", ")
    return ", ".join([f"`{engine}`", *how, SCORES[score]])


def newest(lines: list[Line], *keys: str) -> list[Line]:
    """Return the last line of each combination of keys."""
    return list({tuple(line[key] for key in keys): line for line in lines}.values())


def rule(n: int) -> str:
    """Return the line below the head of a table with n columns of figures."""
    return f"| {' | '.join(['---'] * (n + 1))} |"


def ordered(names: list[str]) -> list[str]:
    """Return rankings engine by engine, the plain ones last."""
    unique = list(dict.fromkeys(names))
    return [n for n in unique if ": " in n] + [n for n in PLAIN if n in unique]


Columns = dict[str, list[dict[str, Any]]]
"""Per column of a table, what each seed found."""


def planted_table(lines: list[Line], spread: Spread) -> str:
    """Write how early the planted genes come, what else does, and how stable that is."""
    runs = newest([x for x in lines if x["bench"] == "attribution-planted"], "kind", "seed")
    columns: Columns = {}
    for kind in KINDS:
        own = [line for line in runs if line["kind"] == kind]
        if own:
            columns[kind] = [line["found"] for line in own]
        used = [line["found_of_used"] for line in own if "found_of_used" in line]
        if used:
            columns[f"{kind}, pairs in use"] = used
    names = ordered([name for found in columns.values() for one in found for name in one])
    wrong: Columns = {kind: columns[kind] for kind in ("confounded", "decoys") if kind in columns}
    parts = [
        _scores("average precision", columns, names, "average_precision", spread),
        _scores("of the best n, true", columns, names, "recall", spread),
        _scores("of the best n, markers or decoys", wrong, names, "wrong", spread),
        *_stability(lines, names),
        "Means over seeds and their standard deviations. " + " ".join(_setting(runs, spread)),
    ]
    return "\n\n".join(parts)


def _scores(title: str, columns: Columns, names: list[str], key: str, spread: Spread) -> str:
    rows = [
        f"| {title} | {' | '.join(columns)} |",
        f"| {' | '.join(['---'] * (len(columns) + 1))} |",
    ]
    for name in names:
        cells = []
        for found in columns.values():
            scores = [one[name] for one in found if name in one]
            values = [x["markers"] + x["decoys"] if key == "wrong" else x[key] for x in scores]
            cells.append(spread(values, 2) if values else "—")
        rows.append(f"| {shown(name)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _setting(runs: list[Line], spread: Spread) -> list[str]:
    told = []
    for kind in KINDS:
        found = [line for line in runs if line["kind"] == kind]
        if not found:
            continue
        accuracy, linear = (
            spread([line[key] for line in found], 2)
            for key in ("balanced_accuracy", "logistic_regression")
        )
        first = found[0]
        told.append(
            f"{kind.capitalize()}: {len(found)} seeds, {first['settings']['n_cells']:,} cells, "
            f"n = {first['settings']['n_true']} of {first['settings']['n_genes']} genes, balanced "
            f"accuracy {accuracy} (logistic regression {linear})."
        )
    return told


def _stability(lines: list[Line], names: list[str]) -> list[str]:
    found = newest([x for x in lines if x["bench"] == "attribution-planted-stability"], "kind")
    known = {line["kind"]: line["stability"] for line in found}
    of_kind = {kind: known[kind] for kind in KINDS if kind in known}
    if not of_kind:
        return []
    rows = [
        f"| seeds alike: Spearman's ρ, shared of the best n | {' | '.join(of_kind)} |",
        rule(len(of_kind)),
    ]
    for name in names:
        cells = [
            f"{x[name]['spearman']:.2f}, {x[name]['shared']:.2f}" if name in x else "—"
            for x in of_kind.values()
        ]
        rows.append(f"| {shown(name)} | {' | '.join(cells)} |")
    return ["\n".join(rows)]


def papalexi_table(lines: list[Line], spread: Spread) -> str:
    """Write how early interferon-γ genes come for each knock-out, with its target and without."""
    runs = newest(lines, "models", "seed")
    parts = []
    # The mean of several models is one line, and a table of its own.
    groups = [(x["models"], x["seed"] if isinstance(x["seed"], str) else None) for x in runs]
    for models, of in dict.fromkeys(groups):
        own = [x for x, group in zip(runs, groups, strict=True) if group == (models, of)]
        cases = list(own[0]["cases"])
        rows = [
            f"| average precision, of the best 10 | {' | '.join(cases)} |"
            f" {' | '.join(f'{case}, its own gene left out' for case in cases)} |",
            rule(2 * len(cases)),
        ]
        truths = [line["cases"][case]["truth"] for line in own for case in cases]
        for name in ordered([n for t in truths for n in t["with target"]["average_precision"]]):
            cells = []
            for target in ("with target", "without target"):
                for case in cases:
                    found = [line["cases"][case]["truth"][target] for line in own]
                    precision = spread([x["average_precision"][name] for x in found], 2)
                    hits = mean(x["in_top_10"][name] for x in found)
                    cells.append(f"{precision}, {hits:.1f}")
            rows.append(f"| {shown(name)} | {' | '.join(cells)} |")
        values = {k: [line["balanced_accuracy"][k] for line in own]
                  for k in own[0]["balanced_accuracy"]}  # fmt: skip
        told = ", ".join(f"{spread(x, 2)} ({k})" for k, x in values.items())
        seeds = f"{len(own)} seeds" if of is None else f"seeds {of}"
        rows.append(
            f"\nPolyGene, {models}, {seeds}; balanced accuracy on held-out cells {told}. "
            "Beside the average precision the mean number among the best ten."
        )
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def engines_table(lines: list[Line], spread: Spread, truth: str) -> str:
    """Write truth and pruning of several engines on one model of Kang's cells."""
    runs = newest(lines, "seed")
    rows = [
        "| score | interferon-α: average precision | of the best 30 | "
        "share of the balanced accuracy kept by the best 5 % |",
        "| --- | --- | --- | --- |",
    ]
    for name in ordered(list(runs[0]["pruning"])):
        if name == "deeplift: importance":  # 0 but for rounding
            continue
        found = [row for line in runs for row in line["truth"]
                 if row["ranking"] == name and row["set"] == truth]  # fmt: skip
        kept = [line["pruning"][name] / line["pruning_whole"] for line in runs]
        rows.append(
            f"| {shown(name)} | {spread([x['average_precision'] for x in found])} | "
            f"{spread([float(x['in_top_30']) for x in found], 1)} | {spread(kept)} |"
        )
    accuracy = spread([line["balanced_accuracy"] for line in runs])
    errors = max(line["engines"]["deeplift"]["completeness"]["max"] for line in runs)
    rows.append(
        f"\nSeeds: {len(runs)}; both engines on the same model; balanced accuracy {accuracy}. The "
        f"scores of `deeplift` miss the difference by {errors:.0e} of it at most."
    )
    return "\n".join(rows)
