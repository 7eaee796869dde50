"""The gate of CI: which ratios it compares with, and that it fails when one has fallen."""

import json

import pytest

from bench import gate


def line(ratio, isa="avx2", provider="eager"):
    return json.dumps(
        {"op": "x", "case": "c", "isa": isa, "provider": provider, "times_first": ratio}
    )


def test_the_least_ratio_of_an_instruction_set_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one.jsonl").write_text(line(8.0) + "\n" + line(3.0, "avx512"))
    (tmp_path / "results" / "two.jsonl").write_text(line(6.0) + "\n" + line(1.0, provider="ours"))
    assert gate.committed("avx2") == {("x", "c", "eager"): 6.0, ("x", "c", "ours"): 1.0}
    assert gate.committed("portable") == {}


def test_every_gated_case_is_one_of_its_op_s():
    for op, name in gate.GATED.items():
        ours, other = gate.beside_torch(op, name).providers
        assert (ours.name, other.name != ours.name) == ("kernomics", True)


@pytest.mark.parametrize(("ratios", "tried"), [([6.0], 1), ([3.0, 6.0], 2), ([3.0, 3.0, 4.9], 3)])
def test_a_ratio_is_measured_again_before_it_counts_as_fallen(monkeypatch, capsys, ratios, tried):
    op, name = "gumbel_topk", gate.GATED["gumbel_topk"]
    other = gate.beside_torch(op, name).providers[1].name
    monkeypatch.setattr(gate, "GATED", {op: name})
    monkeypatch.setattr(gate, "committed", lambda isa: {(op, name, other): 10.0})
    measured = []
    monkeypatch.setattr(gate, "ratio", lambda case: measured.append(1) or ratios[len(measured) - 1])
    monkeypatch.setattr(gate, "busy", lambda: False)
    if max(ratios) < 5:
        with pytest.raises(SystemExit, match=r"gumbel_topk: 4\.9 where at least 5 is wanted"):
            gate.main()
    else:
        gate.main()
        assert "committed 10" in capsys.readouterr().out
    assert len(measured) == tried


def test_what_was_never_measured_is_said_to_be_let_through(monkeypatch, capsys):
    monkeypatch.setattr(gate, "committed", lambda isa: {})
    gate.main()
    assert capsys.readouterr().out.count("not gated") == len(gate.GATED)


def test_on_a_busy_machine_a_fall_is_told_and_nothing_fails(monkeypatch, capsys):
    op, name = "gumbel_topk", gate.GATED["gumbel_topk"]
    other = gate.beside_torch(op, name).providers[1].name
    monkeypatch.setattr(gate, "GATED", {op: name})
    monkeypatch.setattr(gate, "committed", lambda isa: {(op, name, other): 10.0})
    monkeypatch.setattr(gate, "ratio", lambda case: 1.0)
    monkeypatch.setattr(gate, "busy", lambda: True)
    gate.main()
    assert "busy" in capsys.readouterr().out
