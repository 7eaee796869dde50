"""The benchmarks' own rules: when a ratio has fallen, what a results file keeps, that all run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPS = sorted(path.stem for path in (ROOT / "bench" / "ops").glob("*.py"))


def records(
    ratio: float, spread: float = 0.0, case: str = "a case", isa: str = "avx2"
) -> list[dict[str, Any]]:
    common = {
        "op": "x", "case": case, "first_provider": "ours", "share_of_floor": 0.5,
        "device": "A chip", "isa": isa, "threads": 2, "versions": {"torch": "2", "cuda": None},
        "copy_gb_per_s": 30.0, "peak_extra_bytes": 10**6,
    }  # fmt: skip
    times = {"ours": 1e-3, "eager": ratio * 1e-3}
    return [
        common
        | {
            "provider": name,
            "median_s": seconds,
            "p20_s": seconds * (1 - spread),
            "p80_s": seconds * (1 + spread),
            "times_first": seconds / times["ours"],
        }
        for name, seconds in times.items()
    ]


@pytest.mark.parametrize(
    ("old", "new", "spread", "fell"),
    [
        (10.0, 9.1, 0.0, False),  # within 10 %
        (10.0, 8.9, 0.0, True),
        (10.0, 8.9, 0.04, False),  # 11 % lower, but twice the spread of both is 16 %
        (10.0, 8.0, 0.04, True),
        (10.0, 30.0, 0.0, False),
    ],
)
def test_a_ratio_has_fallen_beyond_a_tenth_and_twice_its_spread(
    old: float, new: float, spread: float, fell: bool
) -> None:
    from bench.check import fallen

    complaints = fallen(records(new, spread), records(old, spread))
    assert bool(complaints) is fell
    assert all("x | a case | avx2 | eager" in text for text in complaints)


def test_a_provider_that_is_no_longer_measured_is_named() -> None:
    from bench.check import fallen

    assert fallen(records(10.0)[:1], records(10.0)) == ["x | a case | avx2 | eager: not measured"]
    assert fallen(records(10.0, case="another"), records(10.0)) == []


def test_ratios_are_compared_within_an_instruction_set() -> None:
    from bench.check import fallen

    both = records(10.0) + records(40.0, isa="avx512")
    assert fallen(records(10.0), both) == []
    assert fallen(records(20.0, isa="avx512"), both) == [
        "x | a case | avx512 | eager: 40 -> 20, 50% lower"
    ]


def test_new_results_replace_those_of_the_same_case_only(tmp_path: Path) -> None:
    from bench.harness import load_results, write_results

    path = tmp_path / "results" / "chip.jsonl"
    write_results(path, records(10.0) + records(3.0, case="other"))
    write_results(path, records(12.0))
    write_results(path, records(40.0, isa="avx512"))
    kept = {(r["case"], r["isa"], r["provider"]): r["times_first"] for r in load_results(path)}
    assert kept == {
        ("a case", "avx2", "ours"): 1.0,
        ("a case", "avx2", "eager"): pytest.approx(12.0),
        ("other", "avx2", "ours"): 1.0,
        ("other", "avx2", "eager"): pytest.approx(3.0),
        ("a case", "avx512", "ours"): 1.0,
        ("a case", "avx512", "eager"): pytest.approx(40.0),
    }


def test_each_instruction_set_has_a_table(tmp_path: Path) -> None:
    from bench.harness import write_results
    from bench.table import summary, table

    write_results(tmp_path / "chip.jsonl", records(10.0) + records(40.0, isa="avx512"))
    fast, slow = table(tmp_path).split("\n\nA chip")
    assert [name in fast for name in ("AVX-512, torch", "**40 ×**", "**10 ×**")] == [1, 1, 0]
    assert [name in slow for name in ("AVX2, torch", "**40 ×**", "**10 ×**")] == [1, 0, 1]
    assert [name in summary(tmp_path) for name in ("AVX-512", "AVX2")] == [True, False]


def test_the_table_shows_every_case_with_its_ratios(tmp_path: Path) -> None:
    from bench.harness import write_results
    from bench.table import table

    write_results(tmp_path / "chip.jsonl", records(10.0) + records(3.0, case="other"))
    text = table(tmp_path)
    assert "A chip, 2 threads, AVX2, torch 2" in text
    assert "| `x`, a case | 1 ms | 50% | 1 MB | eager 10 ms (**10 ×**) |" in text
    assert "| `x`, other | 1 ms | 50% | 1 MB | eager 3 ms (**3 ×**) |" in text


def test_a_busy_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import harness

    monkeypatch.setattr(harness.machine, "load_average", lambda: 0.51)
    with pytest.raises(SystemExit, match=r"not recording: the load average is 0\.51"):
        harness.refuse_when_busy()
    monkeypatch.setattr(harness.machine, "load_average", lambda: 0.5)
    harness.refuse_when_busy()


def test_a_provider_that_computes_something_else_is_named() -> None:
    import torch

    from bench import harness

    def same(x: torch.Tensor) -> harness.Call:
        return lambda: x + 1

    def wrong(x: torch.Tensor) -> harness.Call:
        return lambda: x + 2

    def case(second: Any) -> harness.Case:
        providers = [harness.Provider("ours", same), harness.Provider("theirs", second)]
        return harness.Case("c", lambda device, generator: (torch.ones(3),), providers, 24)

    harness.assert_providers_agree(case(same), (torch.ones(3),))
    with pytest.raises(AssertionError, match="c, provider theirs"):
        harness.assert_providers_agree(case(wrong), (torch.ones(3),))


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_every_benchmark_runs_and_its_providers_agree(op: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"bench.ops.{op}", "--smoke"],
        capture_output=True, text=True, env=dict(os.environ), cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kernomics" in done.stdout


@pytest.mark.slow
def test_memory_of_a_txfm_step_is_counted_for_every_way() -> None:
    import torch

    from bench.txfm.step import Shape, measure

    shape = Shape("XS", 3, 64, 24, 200)
    eager, ours, fewer, again = measure(shape, True, torch.device("cpu"), 1e9, rounds=1)
    # 20 bytes a channel and token of a whole block where torch has 40; loss and weights beside.
    assert eager["saved_share"] == 1
    assert 0.5 < ours["saved_share"] < 0.65
    # 12 bytes when the feed-forward layers are made again, and of whole blocks the input alone.
    assert again["saved_bytes"] < fewer["saved_bytes"] < 0.75 * ours["saved_bytes"]
    tokens, width = 24 * 65, 64
    assert eager["saved_bytes"] > 2 * 40 * tokens * width
    assert eager["peak_bytes"] > eager["saved_bytes"]
    assert ours["peak_bytes"] < eager["peak_bytes"]


@pytest.mark.parametrize("room", [0, 1, 5, 32, 33, 100, 1000])
def test_the_largest_number_is_found_to_a_sixteenth(room: int) -> None:
    from bench.txfm.step import largest

    fitting, failing = largest(lambda n: n <= room, 32, 10**6, 60.0)
    assert failing is not None
    assert fitting <= room < failing
    assert failing - fitting <= max(1, fitting // 16)


def test_the_search_for_the_largest_number_ends_in_time_and_at_the_most() -> None:
    from bench.txfm.step import largest

    assert largest(lambda n: True, 4, 100, 60.0) == (64, None)
    assert largest(lambda n: n < 8, 4, 100, 0.0) == (4, None)
    assert largest(lambda n: False, 4, 100, 0.0) == (0, 4)


@pytest.mark.slow
def test_a_txfm_step_is_measured_in_every_way_but_compiled(tmp_path: Path) -> None:
    out = tmp_path / "made" / "step.jsonl"
    command = [sys.executable, "-m", "bench.txfm.step", "--smoke", "--threads", "1"]
    done = subprocess.run(
        [*command, "--precision", "bf16", "--rounds", "1", "--search-seconds", "900",
         "--out", str(out)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    ways = ["eager", "kernomics", "recompute_feed_forward", "recompute_blocks"]
    assert [record["way"] for record in found] == ways
    for record in found:
        assert record["peak_bytes"] > 0
        assert (record["largest_batch"], record["too_large_batch"]) == (16, None)
    assert len(done.stdout.splitlines()) == 4
