"""Write the benchmark tables of the docs from bench/results/*.jsonl.

docs/benchmarks.md has every case on every machine, the README one case of each op on the first.
The tables stand between two marker lines; nothing else is touched. With ``--print`` they go to the
screen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.harness import HERE, load_results, print_table

README = HERE.parent / "README.md"
ALL = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- benchmarks: begin (bench/table.py) -->", "<!-- benchmarks: end -->"

NOTHING = "No runs on record."
ISA = {"avx512": ", AVX-512", "avx2": ", AVX2", "portable": ", portable kernels", "cuda": ""}


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def put_between(text: str, begin: str, end: str, made: str, where: str) -> str:
    """Return a document with what stands between two marker lines replaced.

    Raises
    ------
    SystemExit
        When the document, called `where`, lacks them.
    """
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"{where} needs the lines\n{begin}\n{end}\nonce each, in that order")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{made}\n{end}{rest.split(end)[1]}"


def duration(seconds: float) -> str:
    """Write a time with a fitting unit and three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def size(count: int | None) -> str:
    """Write a number of bytes in MB."""
    return "" if count is None else f"{count / 1e6:,.0f} MB"


def case_rows(records: list[dict[str, Any]]) -> list[str]:
    """Return the table's lines for one case: ours, and each other provider with its ratio."""
    ours = next(r for r in records if r["provider"] == r["first_provider"])
    others = [
        f"{r['provider']} {duration(r['median_s'])} (**{r['times_first']:.3g} ×**)"
        for r in records
        if r is not ours
    ]
    cells = [
        f"`{ours['op']}`, {ours['case']}",
        duration(ours["median_s"]),
        f"{ours['share_of_floor']:.0%}",
        size(ours["peak_extra_bytes"]),
        "<br>".join(others),
    ]
    return ["| " + " | ".join(cells) + " |"]


def where(about: dict[str, Any]) -> str:
    """Say on what a line was recorded."""
    threads = f", {about['threads']} threads" if not about["versions"]["cuda"] else ""
    torch = about["versions"]["torch"]
    return f"{about['device']}{threads}{ISA[about['isa']]}, torch {torch}"


def by_isa(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Part a device's records by the instruction set, the best one first."""
    parts = [[r for r in records if r["isa"] == isa] for isa in ISA]
    return [part for part in parts if part]


def device_table(records: list[dict[str, Any]]) -> str:
    """Return one device's table, in the order in which the cases were recorded."""
    about = records[0]
    lines = [
        f"{where(about)} (copy {about['copy_gb_per_s']:,.0f} GB/s)",
        "",
        "| op and case | kernomics | of the floor | extra memory | others (times slower) |",
        "| --- | --- | --- | --- | --- |",
    ]
    cases = dict.fromkeys((r["op"], r["case"]) for r in records)
    for case in cases:
        lines += case_rows([r for r in records if (r["op"], r["case"]) == case])
    return "\n".join(lines)


def table(folder: Path) -> str:
    """Return the tables of all results files in a folder."""
    on_record = map(load_results, sorted(folder.glob("*.jsonl")))
    return "\n\n".join(device_table(part) for found in on_record for part in by_isa(found))


def summary(folder: Path) -> str:
    """Return the README's table: each op's first case on the first machine on record."""
    on_record = map(load_results, sorted(folder.glob("*.jsonl")))
    records = next((by_isa(found)[0] for found in on_record if found), None)
    if records is None:
        return NOTHING
    firsts: dict[str, str] = {}
    for record in records:
        firsts.setdefault(record["op"], record["case"])
    rows = []
    for op, case in firsts.items():
        of_case = [r for r in records if (r["op"], r["case"]) == (op, case)]
        ours = next(r for r in of_case if r["provider"] == r["first_provider"])
        best = min((r for r in of_case if r is not ours), key=lambda r: float(r["median_s"]))
        rows.append(
            [
                f"`{op}`, {case}",
                duration(ours["median_s"]),
                f"{best['provider']} {duration(best['median_s'])}",
                f"**{best['times_first']:.3g} ×**",
                f"{ours['share_of_floor']:.0%}",
            ]
        )
    head = ["op and case", "kernomics", "fastest other", "ratio", "of the floor"]
    return f"{where(records[0])}:\n\n{grid(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the benchmark tables of the docs.")
    parser.add_argument("--print", action="store_true", help="to the screen, not the documents")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--show", type=Path, help="print one results file as plain text")
    args = parser.parse_args()
    if args.show:
        print_table(load_results(args.show))
        return
    for path, made in ((README, summary(args.results)), (ALL, table(args.results))):
        if args.print:
            print(made)
        else:
            path.write_text(put_between(path.read_text(), BEGIN, END, made, path.name))


if __name__ == "__main__":
    main()
