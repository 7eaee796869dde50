"""Pieces are whole batches of all rows; helpers wait while the first rank is busy."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import Any

import pytest
import torch

from kernomics.errors import TrainingError
from kernomics.train import shared_work
from kernomics.train.distributed import Alone
from kernomics.train.shared_work import CELLS_OF_A_PIECE, Crew, pieces


@pytest.mark.parametrize("n_rows", [0, 1, 5, 255, 256, 257, 1000, 5003])
@pytest.mark.parametrize("batch_size", [1, 7, 256, 300, 4096])
@pytest.mark.parametrize("world", [2, 3, 64])
def test_pieces_are_whole_batches_of_all_rows(n_rows: int, batch_size: int, world: int) -> None:
    parts = pieces(n_rows, batch_size, world)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(n_rows))
    sizes = [part.stop - part.start for part in parts]
    assert all(size % batch_size == 0 for size in sizes[:-1])
    assert all(0 < size <= max(batch_size, CELLS_OF_A_PIECE) for size in sizes)
    n_batches = -(-n_rows // batch_size)
    most = max(sum(-(-size // batch_size) for size in sizes[r::world]) for r in range(world))
    assert most <= -(-n_batches // world) + max(1, CELLS_OF_A_PIECE // batch_size)


class Told(Alone):
    """One of two ranks in threads; `failing` is what the first one's next message ends with."""

    world, many = 2, True  # type: ignore[assignment]

    def __init__(self, rank: int, said: queue.Queue[Any]) -> None:
        self.rank, self.said, self.n_told = rank, said, 0
        self.failing: Exception | None = None
        self.why: list[BaseException] = []

    def failed(self, error: BaseException) -> None:
        self.why.append(error)

    def told(self, value: Any) -> Any:
        if self.failing is not None:
            raise self.failing
        self.n_told += 1
        if self.first:
            self.said.put(value)
            return value
        return self.said.get(timeout=60)


def test_the_others_wait_while_the_first_rank_is_busy_and_help_when_asked() -> None:
    said: queue.Queue[Any] = queue.Queue()
    first, second = Told(0, said), Told(1, said)
    helped: list[Any] = []
    helper = threading.Thread(target=lambda: helped.extend(Crew(second, 0.01).requests()))
    helper.start()
    crew = Crew(first, 0.01)
    with crew.at_work():
        while first.n_told < 5:
            time.sleep(0.01)
        with crew.asking({"rows": [1, 2]}):
            asked = first.n_told
            time.sleep(0.1)
            assert first.n_told == asked  # nothing else is said while all are at it
        while first.n_told < asked + 5:
            time.sleep(0.01)
    helper.join(60)
    assert helped == [{"rows": [1, 2]}]
    assert first.n_told == second.n_told


def test_the_first_rank_is_told_of_the_others_when_it_asks_next() -> None:
    first = Told(0, queue.Queue())
    crew = Crew(first, 0.01)
    with pytest.raises(TrainingError, match="rank 1 stopped"), crew.at_work():  # noqa: PT012
        first.failing = TrainingError("rank 1 stopped")
        time.sleep(0.1)
        with crew.asking("more"):
            raise AssertionError("nobody is there to help")


def test_an_error_of_the_first_rank_leaves_the_others_unasked() -> None:
    first = Told(0, queue.Queue())
    with pytest.raises(ZeroDivisionError), Crew(first, 60.0).at_work():
        raise ZeroDivisionError
    assert first.n_told == 0  # the others are told why by `together`


def test_an_error_in_what_all_are_at_is_told_though_it_may_be_caught() -> None:
    first = Told(0, queue.Queue())
    crew, error = Crew(first, 60.0), ValueError("no")
    with crew.at_work(), contextlib.suppress(ValueError), crew.asking("help"):
        raise error
    assert first.why == [error]


def test_tensors_that_lie_in_another_order_arrive_as_they_are(monkeypatch: Any) -> None:
    monkeypatch.setattr(shared_work, "_round", lambda one, own: iter([own]))
    given = torch.arange(12.0).reshape(3, 4).t()
    (found,) = shared_work.in_order(Alone(), [0], lambda _: {"a": given, "b": given[1:]})
    assert torch.equal(found["a"], given)
    assert torch.equal(found["b"], given[1:])
