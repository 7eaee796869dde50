"""The tables of the README and the docs are those of the committed results."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_documents_show_the_committed_results() -> None:
    from bench import table

    for path, made in (
        (table.README, table.summary(ROOT / "bench" / "results")),
        (table.ALL, table.table(ROOT / "bench" / "results")),
    ):
        text = path.read_text()
        written = table.put_between(text, table.BEGIN, table.END, made, path.name)
        assert text == written, "run python -m bench.table"


def test_without_runs_on_record_the_summary_says_so(tmp_path: Path) -> None:
    from bench import table

    (tmp_path / "a.jsonl").write_text("")
    assert table.summary(tmp_path) == table.NOTHING


def test_the_summary_has_a_row_for_each_op_with_its_fastest_rival() -> None:
    from bench import table

    text = table.summary(ROOT / "bench" / "results")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    ops = [line.split("`")[1] for line in rows]
    assert sorted(ops) == sorted(p.stem for p in (ROOT / "bench" / "ops").glob("*.py"))
