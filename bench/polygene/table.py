"""Write the tables of docs/attribution.md from the committed results.

``python -m bench.polygene.table``
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.polygene.truth_tables import engines_table, papalexi_table, planted_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "systems"
PAGE = ROOT / "docs" / "attribution.md"
ALPHA, TNF = "HALLMARK_INTERFERON_ALPHA_RESPONSE", "HALLMARK_TNFA_SIGNALING_VIA_NFKB"
NAMES = {
    "signed_by_change": "absolute × sign of change",
    "absolute": "absolute",
    "effect": "signed (effect)",
    "forward": "signed (forward)",
    "importance": "importance (the paper's)",
    "DE": "DE (Wilcoxon)",
    "HVG": "HVG",
    "random": "random",
}


def lines_of(name: str) -> list[dict[str, Any]]:
    """Read a results file."""
    text = (RESULTS / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def spread(values: list[float], digits: int = 3) -> str:
    """Write a mean with its standard deviation over seeds."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def truth_table(lines: list[dict[str, Any]]) -> str:
    """Write how early the genes of known sets come."""
    rows = [
        "| score | interferon-α: average precision | of the best 30 | TNF-α: average precision |",
        "| --- | --- | --- | --- |",
    ]
    for name, shown in NAMES.items():
        found = {
            key: [row for line in lines for row in line["truth"]
                  if row["ranking"] == name and row["set"] == key]
            for key in (ALPHA, TNF)
        }  # fmt: skip
        rows.append(
            f"| {shown} | {spread([r['average_precision'] for r in found[ALPHA]])} | "
            f"{spread([float(r['in_top_30']) for r in found[ALPHA]], 1)} | "
            f"{spread([r['average_precision'] for r in found[TNF]])} |"
        )
    chance = [row["by_chance"] for line in lines for row in line["truth"] if row["set"] == TNF]
    rows.append(
        f"\nMeans over {len(lines)} seeds and their standard deviations. By chance the TNF-α set "
        f"has {mean(chance):.3f}."
    )
    return "\n".join(rows)


def pruning_table(lines: list[dict[str, Any]]) -> str:
    """Write what the best twentieth of the genes keeps, and what retraining on it gives."""
    rows = ["| genes kept by | share of the balanced accuracy kept | retrained on these genes |",
            "| --- | --- | --- |"]  # fmt: skip
    for name, shown in NAMES.items():
        kept = [line["pruning"][name] / line["pruning_whole"] for line in lines]
        again = [row["balanced_accuracy"] for line in lines for row in line.get("retrained", ())
                 if row["ranking"] == name]  # fmt: skip
        rows.append(f"| {shown} | {spread(kept)} | {spread(again) if again else '—'} |")
    whole = [line["balanced_accuracy"] for line in lines]
    logistic = [line["logistic_regression"] for line in lines]
    called = sorted({line["empty_cell"][0] for line in lines})
    rows.append(
        f"\nOn all held-out cells the whole model has {spread(whole)}, logistic regression on the "
        f"same cells {spread(logistic)}. A cell without genes is called {' or '.join(called)}."
    )
    return "\n".join(rows)


def speed_table() -> str:
    """Write the newest rates of training and of attribution."""
    rows = ["| what | ours | peer | ratio |", "| --- | --- | --- | --- |"]
    newest = {line["n_tokens"]: line for line in lines_of("polygene-training.jsonl")}
    for n_tokens, line in sorted(newest.items()):
        rates = line["cells_per_second"]
        rows.append(
            f"| training, up to {n_tokens:,} genes a cell, cells/s | {rates['kernomics']:.0f} | "
            f"{rates['torch, padded']:.0f} (torch, padded) | {line['ratio']:.1f} |"
        )
    line = lines_of("attribution-engines.jsonl")[-1]
    ours = line["pairs_per_second"]["grad_x_delta"]
    for name, ratio in line["ratios"].items():
        rate = line["pairs_per_second"][name]
        rows.append(f"| `grad_x_delta`, pairs/s | {ours:.1f} | {rate:.1f} ({name}) | {ratio:.1f} |")
    rates = line["pairs_per_second"]
    for name, rate in ((n, rates[n]) for n in ("deeplift", "integrated_gradients") if n in rates):
        rows.append(
            f"| `{name}`, pairs/s | {rate:.1f} | {ours:.1f} (`grad_x_delta`) | {rate / ours:.2f} |"
        )
    eight = line["pairs_per_second"]["grad_x_delta, 8 baselines a cell"]
    rows.append(
        f"\nWith eight baselines for each cell {eight:.0f} pairs/s, as a cell runs through the "
        f"model once. {line['device']}."
    )
    return "\n".join(rows)


def memory_table() -> str:
    """Write the newest peak of each engine after more and more pairs."""
    lines = {line["engine"]: line for line in lines_of("attribution-memory.jsonl")}
    marks = list(dict.fromkeys(n for line in lines.values() for n in line["peak_after"]))
    rows = [
        f"| peak memory, MiB | before | {' | '.join(f'{int(n):,} pairs' for n in marks)} | all |",
        f"| {' | '.join(['---'] * (len(marks) + 3))} |",
    ]
    for engine, line in lines.items():
        after = [line["peak_after"].get(n) for n in marks]
        sizes = [line["peak_before"], *after, line["peak"]]
        shown = " | ".join("—" if size is None else f"{size / 2**20:,.0f}" for size in sizes)
        cut = f", cells cut to {line['n_tokens']} genes" if line["n_tokens"] else ""
        rows.append(f"| `{engine}`{cut}, {line['pairs']:,} pairs | {shown} |")
    return "\n".join(rows)


SHOWN = 10
"""Top genes named."""
TISSUES = {
    "polygene-oligodendrocytes": "oligodendrocytes: acute stress or not",
    "polygene-lymphoma": "skin: lymphoma or healthy",
}
KINDS = {"M": "males", "F": "females"}


def tissues_table() -> str:
    """Write what is called right of cells and donors held out, and which genes come first."""
    newest = {line["bench"]: line for line in lines_of("polygene-tissues.jsonl")}
    rows = [
        "| held-out cells | cells | PolyGene | logistic regression | pairs |",
        "| --- | --- | --- | --- | --- |",
    ]
    genes = []
    for key, name in TISSUES.items():
        line = newest[key]
        ours, logistic, found = (
            line[part] for part in ("held_out", "logistic_regression", "attribution")
        )
        n_groups = len(found["pairs_per_group"])
        pairs = f"{found['n_pairs']:,} in {n_groups} group{'s' * (n_groups > 1)}"
        scores = [f"{part['balanced_accuracy']:.3f}" for part in (ours, logistic)]
        rows.append(f"| {name} | {line['cells']['test']:,} | {scores[0]} | {scores[1]} | {pairs} |")
        column = next(part for part in ours if part.startswith("by_"))
        for value, part in ours[column].items():
            metric = "balanced_accuracy" if "balanced_accuracy" in part else "accuracy"
            said = "" if metric == "balanced_accuracy" else ", accuracy"
            scores = [f"{scored[column][value][metric]:.3f}" for scored in (ours, logistic)]
            rows.append(
                f"| … {KINDS.get(value, value)}{said} | {part['n_cells']:,} | {scores[0]} | "
                f"{scores[1]} | |"
            )
        tops = "; ".join(
            f"by `{by}` {', '.join(best[:SHOWN])}" for by, best in found["top"].items()
        )
        genes.append(f"Top genes, {name}: {tops}.")
    places = newest["polygene-oligodendrocytes"]["ranks_of_sex_genes"]
    ranks = ", ".join(
        f"{gene} {places['uncontrolled'][gene]:,} → {place:,}"
        for gene, place in places["controlled"].items()
    )
    genes.append(
        f"Ranks of genes of the sex chromosomes by `absolute`, from pairs of any cells → pairs of "
        f"one cell type and sex: {ranks}."
    )
    return "\n".join(rows) + "\n\n" + "\n\n".join(genes)


def main() -> None:
    """Fill the page."""
    lines = list({line["seed"]: line for line in lines_of("polygene.jsonl")}.values())
    text = PAGE.read_text(encoding="utf-8")
    tables = {
        "truth": truth_table(lines),
        "pruning": pruning_table(lines),
        "speed": speed_table(),
        "memory": memory_table(),
        "tissues": tissues_table(),
        "planted": planted_table(lines_of("attribution-planted.jsonl"), spread),
        "papalexi": papalexi_table(lines_of("attribution-papalexi.jsonl"), spread),
        "kang-engines": engines_table(lines_of("attribution-kang-deeplift.jsonl"), spread, ALPHA),
    }
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        filled = rf"\g<1>{table.replace(chr(92), chr(92) * 2)}\n\g<2>"
        text, n = re.subn(pattern, filled, text, flags=re.DOTALL)
        if n != 1:
            raise SystemExit(f"{PAGE.name} has {n} places for the table {name!r}")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
