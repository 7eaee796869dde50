"""`kernomics bench`: what it lists, writes and refuses; never how fast anything is."""

import json

import pytest
import torch

from kernomics import benchmark, ops
from kernomics.benchmark import bounds, problems, timing
from kernomics.cli import main
from kernomics.errors import ConfigError

OPS = [name for name in ops.__all__ if name in problems.PROBLEMS]
WAYS = ["kernomics", "eager", "torch.compile"]
QUICK = ["bench", "--quick", "--rounds", "1", "--threads", "1"]
TINY = {"quick": True, "rounds": 1, "budget": 0.0, "compiled": False}


def test_every_op_is_measured():
    apart = {"ObservedGenes", "build_info", "relaxed_mask"}  # no op, or a part of gumbel_topk
    assert set(problems.PROBLEMS) == set(ops.__all__) - apart
    assert set(problems.QUICK) == set(problems.FULL) == set(problems.PROBLEMS)


def test_each_op_is_listed_and_written_with_its_machine(tmp_path, capsys):
    out, plot = tmp_path / "times.jsonl", tmp_path / "times.png"
    threads = torch.get_num_threads()
    assert main([*QUICK, "--no-compile", "--out", str(out), "--plot", str(plot)]) == 0
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr()
    assert not printed.err
    lines = printed.out.splitlines()
    assert [line.split()[0] for line in lines if line and line[0] != " "] == [
        "machine", "measured", "op", *problems.PROBLEMS, "written", "drawn"
    ]  # fmt: skip
    records = [json.loads(line) for line in out.read_text().splitlines()]
    expected = [(op, way) for op in problems.PROBLEMS for way in WAYS]
    assert [(r["op"], r["way"]) for r in records] == expected
    for r in records:
        assert r["device"]
        assert r["isa"] == ops.build_info()["isa"]
        assert (r["threads"], r["wrong"]) == (1, False)
        assert {"kernomics", "torch", "python"} <= set(r["versions"])
        assert min(r["copy_gb_per_s"], r["matmul_tflop_per_s"], r["bytes"], r["floor_s"]) > 0
        if r["way"] == "torch.compile":
            assert (r["skipped"], r["median_s"], r["samples"]) == ("left out", None, 0)
        else:
            assert r["skipped"] is None
            assert r["p20_s"] <= r["median_s"] <= r["p80_s"]
            assert r["share_of_floor"] == pytest.approx(r["floor_s"] / r["median_s"])
    assert plot.read_bytes()[1:4] == b"PNG"


def test_ops_are_measured_in_the_set_s_order_once():
    records = benchmark.measure_ops(["poisson_nll", "masked_linear", "poisson_nll"], **TINY)
    assert [r["op"] for r in records] == ["masked_linear"] * 3 + ["poisson_nll"] * 3


def test_an_unknown_op_is_named_with_the_closest(capsys):
    assert main([*QUICK, "--op", "poison_nll"]) == 2
    told = capsys.readouterr().err
    assert "op 'poison_nll' is none of the 7 that are measured; closest: 'poisson_nll'" in told


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--threads", "0"], "threads is 0: at least 1 is needed"),
        (["--rounds", "0"], "rounds is 0: at least 1 is needed"),
        (["--device", "tpu"], "device 'tpu' does not exist; use 'cpu' or 'cuda'"),
        (["--out", "nowhere/x.jsonl"], "--out nowhere/x.jsonl lies in nowhere, which is missing"),
        (["--out", "."], "--out . is a directory: name a file"),
        (["--plot", "times.txt"], "--plot times.txt: no picture ends in '.txt'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_measuring(more, message, capsys, monkeypatch):
    monkeypatch.setattr(benchmark.run.machine, "measured_rates", lambda *_: pytest.fail("measured"))
    assert main([*QUICK, *more]) == 2
    assert message in capsys.readouterr().err


def test_a_wrong_result_is_told_and_not_timed(capsys, monkeypatch):
    right = ops.poisson_nll
    monkeypatch.setattr(ops, "poisson_nll", lambda z, x: right(z, x) * 1.001)
    timed = []
    in_turn = timing.in_turn
    monkeypatch.setattr(timing, "in_turn", lambda s, *a: timed.extend(s) or in_turn(s, *a))
    assert main([*QUICK, "--no-compile", "--op", "poisson_nll"]) == 2
    printed = capsys.readouterr()
    assert timed == ["eager"]
    assert (
        "1 of 3 results are wrong and were not timed, first poisson_nll, kernomics" in printed.err
    )
    assert "the loss differs from the reference at 1 of 1 numbers, first at []" in printed.out


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("part", [0, -1])
def test_results_that_are_a_little_off_are_found(op, part):
    generator = torch.Generator().manual_seed(0)
    problem = problems.PROBLEMS[op](torch.device("cpu"), generator, problems.QUICK[op])
    found = list(problem.ours())
    assert problem.check_ours(tuple(found)) is None
    changed = found[part].clone()
    if op == "sample_tokens" and part == 0:
        changed[0, 0] = (changed[0, 0] + 1) % 1000
    else:  # the largest number, by a thousandth or, where the bound is loose, a tenth
        loose = {("gumbel_topk", -1), ("linear_poisson_nll", 0)}
        numbers = (changed[: problems.ROWS] if op == "gumbel_topk" else changed).view(-1)
        numbers[numbers.abs().argmax()] *= 1.1 if (op, part) in loose else 1.001
    found[part] = changed
    assert problem.check_ours(tuple(found)) is not None


def test_a_machine_without_a_compiler_is_told_why(monkeypatch):
    def compiled(*_, **__):
        raise RuntimeError("no compiler found\nand more")

    monkeypatch.setattr(torch, "compile", compiled)
    _, eager, skipped = benchmark.measure_ops(["poisson_nll"], **TINY | {"compiled": True})
    assert eager["skipped"] is None
    assert skipped["skipped"] == "RuntimeError: no compiler found"
    assert not skipped["wrong"]


def test_bounds_name_the_first_number_that_is_off():
    right = torch.tensor([1.0, 2.0, float("nan")])
    told = bounds.differs(["y"], [torch.tensor([1.0, 2.5, 3.0])], [right], [0.1])
    assert told == ("y differs from the reference at 2 of 3 numbers, first at [1]: 2.5, not 2")
    assert bounds.differs(["y"], [right[:2]], [right[:2]], [0.0]) is None
    assert "shape [2], the reference [3]" in str(bounds.differs(["y"], [right[:2]], [right], [0.0]))


def test_calls_are_timed_in_turn_and_slow_ones_three_times():
    order = []
    samplers = {name: lambda name=name: order.append(name) or 1.0 for name in "ab"}
    samples = timing.in_turn(samplers, 5, 0.0, slow={"b"})
    assert order == [*"ababab", *"aa"]
    assert {name: len(found) for name, found in samples.items()} == {"a": 5, "b": 3}


def test_an_op_that_does_not_exist_is_an_error_in_python_too():
    with pytest.raises(ConfigError, match="'x' is none of the 7"):
        benchmark.measure_ops(["x"])
