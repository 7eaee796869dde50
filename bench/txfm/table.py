"""Write the generated parts of docs/txfm*.md from bench/results/systems/txfm*.jsonl.

Each part stands between two marker lines; nothing else of the pages is touched. With
``--print`` they go to the screen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.machine import ROOT
from bench.records import paired, read_lines
from bench.sets import ALL_SETS
from bench.table import NOTHING, grid, put_between
from bench.txfm import ablation, curation
from bench.txfm.runs import RESULTS

DOCS = ROOT / "docs"
Lines = Sequence[Mapping[str, Any]]
MEASURES = {
    "kNN accuracy": "knn_accuracy",
    "linear accuracy": "linear_accuracy",
    "kNN macro-F1": "knn_macro_f1",
    "linear macro-F1": "linear_macro_f1",
}


def newest(lines: Lines) -> list[Mapping[str, Any]]:
    """Keep of each data set the runs with the settings of its last line."""
    last = {line["set"]: line["settings"] for line in lines}
    return [line for line in lines if line["settings"] == last[line["set"]]]


def seeds(runs: Sequence[Any]) -> str:
    """Write how many runs there are."""
    return f"{len(runs)} seed{'s' * (len(runs) > 1)}"


def representations_part(lines: Lines) -> str:
    """Return how well classes are read off each representation: mean, and TxFM's difference."""
    rows = []
    for name in dict.fromkeys(line["set"] for line in newest(lines)):
        runs = [line for line in newest(lines) if line["set"] == name]
        for label in runs[0]["scores"]:
            by = {
                other: {
                    x["seed"]: x["scores"][label][other]
                    for x in runs
                    if other in x["scores"][label]
                }
                for other in dict.fromkeys(name for x in runs for name in x["scores"][label])
            }
            distinct = {str(found): other for other, found in reversed(by.items())}
            for other in (other for other in by if other in distinct.values()):
                found = by[other]
                cells = [
                    f"{ALL_SETS[name].title} ({seeds(runs)})" if other == "TxFM" else "",
                    other if len(found) == len(runs) else f"{other} ({seeds(list(found))})",
                ]
                for key in MEASURES.values():
                    text = f"{mean(s[key] for s in found.values()):.3f}"
                    if other != "TxFM":
                        ours = {seed: s[key] for seed, s in by["TxFM"].items()}
                        gap = paired(ours, {seed: s[key] for seed, s in found.items()})
                        text += f" ({gap})"
                    cells.append(text)
                rows.append(cells)
    return grid(["cells", "representation", *MEASURES], rows) if rows else NOTHING


def summary_part(lines: Lines) -> str:
    """Return TxFM minus each other in the mean over the sets, and on how many it is behind.

    Behind is by more than the standard error over the seeds of a set.
    """
    gaps: dict[str, dict[str, list[list[float]]]] = {}  # by other and measure, of each set
    for name in dict.fromkeys(line["set"] for line in newest(lines)):
        found: dict[tuple[str, str], list[float]] = {}
        for x in (line for line in newest(lines) if line["set"] == name):
            by = next(iter(x["scores"].values()))
            for other in by:
                for key in MEASURES.values():
                    if other != "TxFM":
                        gap = by["TxFM"][key] - by[other][key]
                        found.setdefault((other, key), []).append(gap)
        for (other, key), values in found.items():
            gaps.setdefault(other, {}).setdefault(key, []).append(values)
    rows = []
    for other, measures in gaps.items():
        if other == "normalised counts, all genes":  # the same: the most variable of all
            continue
        texts = []
        for sets in measures.values():
            means = [mean(values) for values in sets]
            behind = sum(
                m < 0 and (len(v) < 2 or -m > stdev(v) / len(v) ** 0.5)
                for m, v in zip(means, sets, strict=True)
            )
            texts.append(f"{mean(means):+.3f} (behind on {behind})".replace("-", "−"))
        n = len(next(iter(measures.values())))
        rows.append([other, str(n), *texts])
    return grid(["TxFM minus", "sets", *MEASURES], rows) if rows else NOTHING


def recall_part(lines: Lines) -> str:
    """Return how many known relationships the gene parameters recall, mean over databases."""
    rows = []
    for name in dict.fromkeys(line["set"] for line in newest(lines)):
        runs = [line for line in newest(lines) if line["set"] == name]
        common = set.intersection(*(set(x["recall"]) for x in runs))  # none of a mouse's genes
        for of in (key for key in runs[0]["recall"] if key in common):
            found = mean(x["recall"][of] for x in runs)
            rows.append([ALL_SETS[name].title, f"{of} components", f"{found:.3f}"])
    return grid(["cells", "vectors of genes", "recall"], rows) if rows else NOTHING


def transfer_part(lines: Lines, target: str = "pbmc3k") -> str:
    """Return what fine-tuning is worth by number of cells: the others, and it minus each."""
    of_target = [line for line in newest(lines) if line["set"] == target]
    rows = []
    for n in sorted({x["n_train"] for x in of_target}):
        runs = {x["seed"]: x for x in of_target if x["n_train"] == n}
        (label,) = {label for x in runs.values() for label in x["scores"]}
        by = {seed: x["scores"][label] for seed, x in runs.items()}
        for i, other in enumerate(next(iter(by.values()))):
            cells = [f"{n:,} ({seeds(list(by))})" if i == 0 else "", other]
            for key in MEASURES.values():
                text = f"{mean(found[other][key] for found in by.values()):.3f}"
                if other != "fine-tuned":
                    ours = {seed: found["fine-tuned"][key] for seed, found in by.items()}
                    theirs = {seed: found[other][key] for seed, found in by.items()}
                    text += f" ({paired(ours, theirs)})"
                cells.append(text)
            rows.append(cells)
    return grid(["cells", "representation", *MEASURES], rows) if rows else NOTHING


def new_genes_part(lines: Lines) -> str:
    """Return what fine-tuning is worth where the data have many times the model's genes."""
    return transfer_part(lines, "marrow")


def memory_part(lines: Lines) -> str:
    """Return memory and time of a training step, as shares of the same blocks in plain torch."""
    rows = [
        [
            f"{x['case']}, {x['precision']}",
            x["way"],
            f"{x['peak_bytes'] / 1e6:,.0f} MB",
            *(f"{x[share]:.2f}" for share in ("peak_share", "saved_share", "time_share")),
        ]
        for x in lines
    ]
    head = ["case", "way", "peak", "of eager's peak", "of what it saves", "of its time"]
    return grid(head, rows) if rows else NOTHING


PARTS: dict[str, tuple[str, Callable[[Lines], str]]] = {
    "representations": ("txfm", representations_part),
    "summary": ("txfm", summary_part),
    "recall": ("txfm", recall_part),
    "transfer": ("txfm_transfer", transfer_part),
    "new genes": ("txfm_transfer", new_genes_part),
    "memory": ("txfm_step", memory_part),
    "ablation": ("txfm_ablation", ablation.table),
    "curation": ("txfm_curation", curation.table),
}


PAGES = {
    DOCS / "txfm.md": ("summary", "representations", "curation", "transfer"),
    DOCS / "txfm-benchmarks.md": ("recall", "ablation", "new genes", "memory"),
}
"""Which parts each page shows."""


def markers(part: str) -> tuple[str, str]:
    """Return the lines that a part stands between."""
    return f"<!-- {part}: begin (bench/txfm/table.py) -->", f"<!-- {part}: end -->"


def render(text: str, records: Mapping[str, Lines], parts: Iterable[str] = tuple(PARTS)) -> str:
    """Return a document with its generated parts made anew.

    Raises
    ------
    SystemExit
        When the document lacks a part's marker lines.
    """
    for part in parts:
        file, make = PARTS[part]
        text = put_between(text, *markers(part), make(records.get(file, [])), "the document")
    return text


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true", help="to the screen, no files")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    files = {file for file, _ in PARTS.values()}
    records = {file: read_lines(args.results / f"{file}.jsonl") for file in files}
    if args.print:
        for part, (file, make) in PARTS.items():
            print(f"\n== {part}\n{make(records[file])}")
        return
    for page, parts in PAGES.items():
        page.write_text(render(page.read_text(), records, parts))


if __name__ == "__main__":
    main()
