"""Tables of docs/yoto*.md on what a selection costs: against PERSIST-style, and with many cells."""

from __future__ import annotations

from statistics import mean
from typing import Any

from bench.sets import SETS
from bench.table import NOTHING, duration, grid
from bench.yoto.results import Results

Lines = list[dict[str, Any]]


def time_part(lines: Lines) -> str:
    """Return the processor time of YOTO beside PERSIST-style selection with its classifier."""
    results = Results.of(lines, "main")
    rows = []
    for line in {(x["set"], x["k"]): x for x in results.where(method="persist")}.values():
        case = {"set": line["set"], "k": line["k"]}
        times = [
            {x["seed"]: x["seconds"] for x in results.where(method=method, **case)}
            for method in ("yoto", "persist")
        ]
        seeds = sorted(times[0].keys() & times[1].keys())
        if seeds:
            ours, theirs = (mean(found[seed] for seed in seeds) for found in times)
            n_trainings = mean(x["n_trainings"] for x in results.where(method="persist", **case))
            rows.append(
                [
                    SETS[line["set"]].title, str(line["k"]), duration(ours), duration(theirs),
                    f"{n_trainings:g}", f"{theirs / ours:.1f} ×", str(len(seeds)),
                ]
            )  # fmt: skip
    head = ["data set", "k", "YOTO", "PERSIST-style", "its trainings", "ratio", "seeds"]
    return grid(head, rows) if rows else NOTHING


def newest(lines: Lines) -> Lines:
    """Keep the last line of each simulated case."""
    return list({line["case"]: line for line in lines}.values())


def scale_part(lines: Lines) -> str:
    """Return simulated cells of rising number, and steps of the other systems on the most."""
    rows, beside = [], []
    for line in sorted(newest(lines), key=lambda line: (line["n_cells"], line["nonzeros"])):
        found = line["recovered"]
        rows.append(
            [
                f"{line['n_cells']:,}",
                f"{line['nonzeros'] / line['n_cells']:,.0f}",
                str(line["epochs"]),
                f"{found['yoto']} of {line['n_markers']}",
                str(found["de"]),
                duration(line["seconds"]),
                f"{line['cells_per_second']:,.0f}",
                duration(line["one_epoch"]["seconds"]),
                f"{line['peak_bytes'] / 1e9:.2f} GB",
                f"{line['start_bytes'] / 1e9:.2f} GB",
                f"{line['dense_bytes'] / 1e9:,.1f} GB",
            ]
        )
        for name, other in line.get("others", {}).items():
            beside.append(
                [
                    {"txfm": "TxFM", "polygene": "PolyGene"}[name],
                    f"{line['n_cells']:,}",
                    f"{other['steps']} of {other['batch_size']} cells",
                    duration(other["opening_seconds"]),
                    f"{other['milliseconds_a_step']:,.0f} ms",
                    f"{other['peak_bytes'] / 1e9:.2f} GB",
                ]
            )
    if not rows:
        return NOTHING
    head = [
        "cells", "non-zeros a cell", "epochs", "markers found", "by DE on 5,000 cells or fewer",
        "training", "cells/s", "one epoch alone", "peak memory", "of it before reading",
        "a dense matrix",
    ]  # fmt: skip
    found_markers = grid(head, rows)
    if not beside:
        return found_markers
    others = grid(["system", "cells", "steps", "opening", "a step", "peak memory"], beside)
    return f"{found_markers}\n\nThe other systems on the same file:\n\n{others}"


def persist_part(lines: Lines) -> str:
    """Return what PERSIST-style selection did and reached, run by run."""
    rows = []
    stages = ("gates", "mask", "classifier", "classifier/held_out")
    for line in Results.of(lines, "main").where(method="persist"):
        for panel in line["panels"]:
            info, (task,) = panel.get("info", {}), panel["tasks"]
            if "losses" not in info:
                continue
            own = line["scores"][task]["own"]
            last = {name: values[-1] for name, values in info["losses"].items()}
            last["gates"] = last[f"gates/{len(info['genes_left'])}"]
            rows.append(
                [
                    SETS[line["set"]].title, str(line["seed"]),
                    ", ".join(f"{n:,}" for n in info["genes_left"]),
                    *[f"{last[stage]:.3f}" for stage in stages],
                    f"{own['accuracy']:.3f}", f"{own['macro_f1']:.3f}",
                ]
            )  # fmt: skip
    head = [
        "data set", "seed", "genes left by each training of gates", "loss: last gates", "mask",
        "classifier", "classifier, held-out training cells", "accuracy", "macro-F1",
    ]  # fmt: skip
    return grid(head, rows) if rows else NOTHING
