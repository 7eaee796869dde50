"""Several ranks train as one process does; when one of them ends, all do, and say why."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import ranks_program
import staged_example
import torch
from started_ranks import WAYS, cell_digests, figures, finish, losses, run, start

from kernomics.data import Sampler
from kernomics.errors import ConfigError
from kernomics.models.gil.memory import ReplayLoader
from kernomics.nn import Draws, Dropout
from kernomics.train import TrainConfig, load_checkpoint
from kernomics.train.distributed import Alone, over_ranks, ranks
from kernomics.train.distributed.current import _hook
from kernomics.train.distributed.words import as_bytes, as_words
from kernomics.train.gradients import Gradients, rows_of
from kernomics.train.interrupts import Interrupts
from kernomics.train.optim import RowAdamW

# -- the same losses -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-5), (True, 1e-9)])
def test_a_hundred_steps_are_the_same_on_one_two_and_four_ranks(
    tmp_path: Path, double: bool, tolerance: float
) -> None:
    alone, two, four = (
        run(world, tmp_path / str(world), job="losses", double=double) for world in (1, 2, 4)
    )
    for system in ranks_program.SYSTEMS:
        expected = losses(alone[0], system)
        for found in (two, four):
            assert len({one[system]["digest"] for one in found}) == 1, system
            for one in found:
                digests = cell_digests(one[system]["history"])
                assert digests == cell_digests(alone[0][system]["history"]), system
            for record, one in zip(losses(found[0], system), expected, strict=True):
                assert record == pytest.approx(one, rel=tolerance, abs=tolerance), system
            assert losses(found[1], system) == losses(found[0], system)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_have_the_losses_of_one_process(tmp_path: Path, way: dict[str, str]) -> None:
    """YOTO has dropout, a label that cells lack and rows of a table.

    Of the last two batches, which are accumulated, one has 23 cells and the other one. Cells are
    drawn by weights, and some steps are passed over.
    """
    orders = {
        "job": "losses",
        "systems": ["yoto"],
        "settings": {
            "steps": 24, "accumulate": 2, "balance": "cell_type", "skip_steps": [[3, 4], 7],
        },
    }  # fmt: skip
    alone = start(1, tmp_path / "1", **orders)
    two = start(2, tmp_path / "2", way, **orders)
    (expected,), found = finish(alone, tmp_path / "1"), finish(two, tmp_path / "2")
    assert [one["world"] for one in (expected, *found)] == [1, 2, 2]
    assert found[0]["yoto"]["digest"] == found[1]["yoto"]["digest"]
    for one in found:
        assert cell_digests(one["yoto"]["history"]) == cell_digests(expected["yoto"]["history"])
    skipped = [r for r in found[1]["yoto"]["history"] if r["split"] == "skipped"]
    assert [s for r in skipped for s in range(r["first_step"], r["last_step"] + 1)] == [3, 4, 7]
    for record, one in zip(losses(found[0], "yoto"), losses(expected, "yoto"), strict=True):
        assert record == pytest.approx(one, rel=1e-5, abs=1e-5)
    assert losses(found[1], "yoto") == losses(found[0], "yoto")


@pytest.mark.parametrize("world", [2, 4])
def test_every_cell_is_one_rank_s_once_an_epoch(world: int) -> None:
    rows, config = np.arange(61), TrainConfig(batch_size=20)  # the last batch has one cell
    parts = []
    for rank in range(world):
        sampler = Sampler(rows, config.batch_size, 3, block_size=8, rank=rank, world=world)
        parts.append([sampler.batch(1, i) for i in range(sampler.n_batches)])
    alone = Sampler(rows, config.batch_size, 3, block_size=8)
    for i in range(alone.n_batches):
        together = np.concatenate([part[i] for part in parts])
        assert np.array_equal(together, alone.batch(1, i))
    assert sum(len(part[-1]) == 0 for part in parts) == world - 1
    drawn = np.concatenate([batch for part in parts for batch in part])
    assert np.array_equal(np.sort(drawn), rows)


@pytest.mark.parametrize("world", [2, 3])
def test_replayed_cells_are_shared_out_with_the_draws_that_one_process_gives_them(
    world: int,
) -> None:
    staged = staged_example.staged()
    kept = [staged.rows(0)[:5]]

    def batches(rank: int, world: int) -> list[list[int]]:
        sampler = Sampler(staged.rows(1), 8, 0, block_size=4, rank=rank, world=world)
        loader = ReplayLoader(staged.cells, sampler, kept, 0.5, 0)
        return [cells.cell_ids.tolist() for e in range(2) for cells in loader.epoch(e)]

    parts = [batches(rank, world) for rank in range(world)]
    whole = batches(0, 1)
    joined = [[i for part in ids for i in part] for ids in zip(*parts, strict=True)]
    assert joined == whole
    assert max(max(ids) for ids in whole) >= 2 << 32, "no cell came a second time"


# -- what ends a training --------------------------------------------------------------------------


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
def test_a_rank_that_is_killed_stops_the_other_which_names_it(
    tmp_path: Path, way: dict[str, str]
) -> None:
    orders = {"job": "ending", "how": signal.SIGKILL, "at_step": 5, "rank": 1}
    first, second = run(2, tmp_path, way, **orders)
    assert second is None
    assert first["error"] == "TrainingError"
    assert first["message"].startswith("rank 1 (process ")
    assert "died without a word" in first["message"]


@pytest.mark.timeout(900)
def test_after_an_error_the_other_rank_says_which_and_only_the_first_writes(tmp_path: Path) -> None:
    """And one process goes on from its checkpoint to the end that it would have had."""
    folder = tmp_path / "run"
    orders = {
        "job": "ending", "how": "error", "at_step": 9, "rank": 1, "run_dir": str(folder),
        "watch_writes": True,
    }  # fmt: skip
    whole = start(1, tmp_path / "whole", job="ending", run_dir=str(tmp_path / "other"))
    first, second = run(2, tmp_path, **orders)
    assert second["error"] == "RuntimeError"
    assert first["error"] == "TrainingError"
    assert first["message"].startswith("rank 1 (process ")
    assert first["message"].endswith("RuntimeError: the disk is on fire")
    assert any(str(folder) in name for name in first["written"])
    assert not any(str(folder) in name for name in second["written"])
    checkpoint = load_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 7  # of the epoch before

    (resumed,) = run(1, tmp_path / "resumed", job="ending", run_dir=str(folder), resume=True)
    (expected,) = finish(whole, tmp_path / "whole")
    assert [r["step"] for r in resumed["history"]] == [r["step"] for r in expected["history"]]
    assert cell_digests(resumed["history"]) == cell_digests(expected["history"])
    for record, one in zip(*(figures(f["history"]) for f in (resumed, expected)), strict=True):
        assert record == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_any_rank_saves_and_stops_all_and_four_ranks_go_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    orders = {"job": "ending", "how": number, "at_step": 9, "rank": 1, "run_dir": str(folder)}
    for one in run(2, tmp_path, **orders):
        assert one["error"] == ("KeyboardInterrupt" if number == signal.SIGINT else "SystemExit")
    checkpoint = load_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 10
    found = run(4, tmp_path / "four", job="ending", run_dir=str(folder), resume=True)
    (expected,) = run(1, tmp_path / "whole", job="ending")
    assert len({one["digest"] for one in found}) == 1
    assert cell_digests(found[3]["history"]) == cell_digests(expected["history"])
    for record, one in zip(*(figures(f["history"]) for f in (found[3], expected)), strict=True):
        assert record == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rank_that_hangs_is_named_within_the_limit(tmp_path: Path) -> None:
    orders = {"job": "ending", "how": "sleep", "at_step": 5, "rank": 1}
    limit = {"KERNOMICS_RANK_LIMIT": "20"}
    begun = time.monotonic()
    first, _ = finish(start(2, tmp_path, limit, **orders), tmp_path)
    assert first["error"] == "TrainingError"
    assert first["message"].startswith("rank 1 (process ")
    assert "did not come to where the others waited for it for 20 s" in first["message"]
    assert first["seconds"] < 40 < time.monotonic() - begun


def test_a_process_that_a_rank_forks_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the others would hear that the rank has left, or failed, while it is at work."""
    said: list[str] = []

    class Told(Alone):
        def failed(self, error: BaseException) -> None:
            said.append(str(error))

        def leave(self) -> None:
            said.append("left")

    at_the_end: list[Callable[[], None]] = []
    monkeypatch.setattr("atexit.register", at_the_end.append)
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    _hook(Told())
    own = os.getpid()
    for process, expected in ((own + 1, []), (own, ["no disk", "left"])):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        sys.excepthook(OSError, OSError("no disk"), None)
        at_the_end[0]()
        assert said == expected


# -- one process -----------------------------------------------------------------------------------


def test_one_process_has_no_group_and_divides_by_its_own_counts() -> None:
    assert type(ranks()) is Alone
    assert not torch.distributed.is_initialized()
    assert over_ranks(7, 0) == [7, 1]
    counted, weighed = over_ranks(torch.tensor(0), torch.tensor(0.0))
    assert (int(counted), float(weighed)) == (1, torch.finfo(torch.float32).tiny)


def test_draws_for_parts_of_a_batch_are_those_for_the_whole() -> None:
    x = torch.ones(7, 5)
    whole = Dropout(0.4, Draws(3))(x)
    for bounds in ([0, 3, 7], [0, 1, 1, 7]):
        found = []
        for begin, stop in pairwise(bounds):
            draws = Draws(3)
            draws.of_part(begin, stop - begin, 7)
            part = x[begin:stop] if stop > begin else x[:2]  # a stand-in
            drawn = Dropout(0.4, draws)(part)
            found.append(drawn if stop > begin else drawn[:0])
            assert torch.equal(draws.state(), _after(whole_of=x))
        assert torch.equal(torch.cat(found), whole)
    draws = Draws(3)
    draws.of_part(0, 3, 7)
    with pytest.raises(ConfigError, match="draws for 5 rows, and 3 cells"):
        Dropout(0.4, draws)(x[:5])
    with pytest.raises(ConfigError, match="no part of whole = 7 cells"):
        draws.of_part(5, 3, 7)


def _after(whole_of: torch.Tensor) -> torch.Tensor:
    draws = Draws(3)
    draws.dropped(whole_of, 0.4)
    return draws.state()


def test_only_the_rows_that_a_step_updates_are_sent() -> None:
    table, plain, unused = (torch.nn.Parameter(torch.zeros(n, 2)) for n in (1000, 3, 4))
    rows = torch.tensor([5, 17])
    optimizer = RowAdamW([{"params": [table], "rows": lambda: rows}, {"params": [plain, unused]}])
    gradients = Gradients([table, plain, unused], [True, True, False], rows_of(optimizer))
    table.grad = torch.zeros(1000, 2)
    table.grad[rows] = 1.0
    plain.grad = torch.ones(3, 2)
    buffer = gradients.pack([0.5])
    assert buffer.numel() == 1 + 2 * 2 + 3 * 2
    gradients.unpack(2 * buffer, [2.0, 2.0])
    assert torch.equal(table.grad[rows], torch.full((2, 2), 2.0))
    assert int((table.grad != 0).sum()) == 4
    assert torch.equal(plain.grad, torch.full((3, 2), 2.0))
    assert unused.grad is None


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_parameters_too_narrow_for_counts_and_digests_are_refused(kind: torch.dtype) -> None:
    one = torch.nn.Parameter(torch.zeros(2, dtype=kind))
    with pytest.raises(ConfigError, match="add up gradients in float32 or float64"):
        Gradients([one], [True], {})
    Gradients([one], [False], {})  # nothing of it is sent


def test_a_sparse_gradient_is_sent_by_its_rows_and_stays_sparse() -> None:
    table, rows = torch.nn.Parameter(torch.zeros(1000, 2)), torch.tensor([17, 5])
    gradients = Gradients(
        [table], [True], rows_of(RowAdamW([{"params": [table], "rows": lambda: rows}]))
    )
    table.grad = torch.sparse_coo_tensor(
        rows[None], torch.tensor([[1.0, 2.0], [3.0, 4.0]]), (1000, 2)
    )
    buffer = gradients.pack([])
    assert buffer.tolist() == [3.0, 4.0, 1.0, 2.0]
    gradients.unpack(2 * buffer, [2.0])
    assert table.grad.is_sparse
    assert table.grad.coalesce().indices().tolist() == [[5, 17]]
    assert table.grad.coalesce().values().tolist() == [[6.0, 8.0], [2.0, 4.0]]
    table.grad = torch.sparse_coo_tensor(rows[None, :1], torch.ones(1, 2), (1000, 2))
    with pytest.raises(ConfigError, match="has 1 rows and the optimizer updates 2"):
        gradients.pack([])
    everything = Gradients([table], [True], {})
    assert everything.pack([]).numel() == 2000
    everything.unpack(torch.ones(2000), [1.0])
    assert torch.equal(table.grad, torch.ones(1000, 2))


@pytest.mark.parametrize("world", [1, 2, 300])
def test_words_of_64_bits_are_added_up_in_float32(world: int) -> None:
    source = random.Random(world)
    each = [[source.randrange(2**64), 2**64 - 1] for _ in range(world)]
    sums = torch.tensor([as_bytes(words) for words in each], dtype=torch.float32).sum(0)
    assert as_words(sums.tolist()) == [sum(one) % 2**64 for one in zip(*each, strict=True)]


def test_a_gradient_that_only_others_have_comes_with_the_sum() -> None:
    one = torch.nn.Parameter(torch.zeros(2))
    gradients = Gradients([one], [True], {})
    assert torch.equal(gradients.pack([]), torch.zeros(2))
    gradients.unpack(torch.tensor([1.0, 2.0]), [0.0])
    assert one.grad is None
    gradients.unpack(torch.tensor([1.0, 2.0]), [1.0])
    assert torch.equal(one.grad, torch.tensor([1.0, 2.0]))


def test_signals_that_come_together_count_as_one() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt, match="after it had finished"):
            signalled_three_times()
    finally:
        signal.signal(signal.SIGINT, before)


def signalled_three_times() -> None:
    with Interrupts(together=60.0) as interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert interrupts.received == signal.SIGINT
