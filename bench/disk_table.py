"""Write the generated parts of docs/sampling.md and docs/scale.md: `python -m bench.disk_table`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.harness import HERE
from bench.records import read_lines
from bench.table import grid, put_between

DOCS = HERE.parent / "docs"
RESULTS = HERE / "results"


def reading(lines: list[dict[str, Any]]) -> str:
    """Return the cells that each provider reads, the newest line of each case."""
    newest = {(line["case"], line["provider"]): line for line in lines}
    by_case: dict[str, dict[str, dict[str, Any]]] = {}
    for (case, provider), line in newest.items():
        by_case.setdefault(case, {})[provider] = line
    rows = []
    for case, found in by_case.items():
        cells, state = case.split(", ")[1], case.split(", ")[-1]
        own = found["kernomics"]["cells_per_s"]
        for provider, line in found.items():
            share, memory = line["share_of_disk"], line["peak_extra_bytes"]
            rows.append(
                [
                    cells.removesuffix(" cells"), state, provider,
                    f"{line['cells_per_s']:,}",
                    f"{line['tokens_per_s'] / 1e6:,.0f}",
                    "" if share is None else f"{share:.0%}",
                    "" if provider == "kernomics" else f"{own / line['cells_per_s']:.1f} ×",
                    "" if memory is None else f"{memory / 1e6:,.0f} MB",
                ]
            )  # fmt: skip
    head = [
        "cells in the file", "", "reader", "cells/s", "million counts/s", "of the disk's rate",
        "kernomics is faster", "memory",
    ]  # fmt: skip
    return grid(head, rows)


def ranks(lines: list[dict[str, Any]]) -> str:
    """Return one rank beside two, the newest line of each case."""
    newest = {line["case"]: line for line in lines}
    rows = [
        [
            case,
            f"{line['cells_per_second']['1']:,.0f}",
            f"{line['cells_per_second']['2']:,.0f}",
            f"{line['ratio']:.2f} ×",
            f"{line['network_bytes'] / 1e6:.2f} MB",
        ]
        for case, line in newest.items()
    ]
    head = ["case", "cells/s, one rank", "two ranks", "faster", "sent by each rank in a step"]
    return grid(head, rows)


def pages() -> dict[Path, str]:
    """Return both documents with their parts made anew."""
    found = {}
    for page, name, made in (
        ("sampling.md", "reading", reading(read_lines(RESULTS / "systems" / "data.jsonl"))),
        ("scale.md", "ranks", ranks(read_lines(RESULTS / "systems" / "ranks.jsonl"))),
    ):
        path = DOCS / page
        begin, end = f"<!-- {name}: begin (bench/disk_table.py) -->", f"<!-- {name}: end -->"
        found[path] = put_between(path.read_text(), begin, end, made, f"docs/{page}")
    return found


def main() -> None:
    """Write both documents."""
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
