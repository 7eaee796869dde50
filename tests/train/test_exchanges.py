"""What ranks say to each other in a step, and what each knows without asking."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ranks_program
import torch
from started_ranks import run

from kernomics.data import Loader, Sampler
from kernomics.errors import ConfigError, TrainingError
from kernomics.models.tasks import Task, labelled_cells, task_losses
from kernomics.train.distributed import Part, Ranks, current, over_ranks
from kernomics.train.distributed import part as parts_of


@pytest.mark.timeout(900)
def test_ranks_exchange_once_in_a_step(tmp_path: Path) -> None:
    """Twice where a loss is a mean over genes that each rank draws of its own cells.

    Beside that the first step (of each of GIL's stages), and the one at which YOTO's panel is
    fixed, agree on what is sent.
    """
    first, second = run(2, tmp_path, job="exchanges", systems=ranks_program.SYSTEMS, steps=24)
    for system, usual in {"yoto": 1, "txfm": 1, "polygene": 2, "gil": 2}.items():
        counts = Counter(first[system])
        assert counts.most_common(1)[0][0] == usual, (system, first[system])
        assert sum(n for calls, n in counts.items() if calls > usual) <= 3, (system, first[system])
        assert second[system] == first[system]


def loaders(world: int, batch_size: int = 25) -> tuple[Loader, list[Loader]]:
    cells, rows = ranks_program.cells(), np.arange(101)  # the last batch has one cell

    def loader(rank: int, world: int) -> Loader:
        return Loader(cells, Sampler(rows, batch_size, 3, block_size=8, rank=rank, world=world))

    return loader(0, 1), [loader(rank, world) for rank in range(world)]


@pytest.mark.parametrize("world", [2, 4])
def test_a_part_of_a_batch_knows_all_of_it(world: int) -> None:
    whole, parts = loaders(world)
    empty = 0
    for one, *shares in zip(whole.epoch(1), *(part.epoch(1) for part in parts), strict=True):
        assert one.whole is None
        joined: list[int] = []
        for rank, share in enumerate(shares):
            known = share.whole
            assert known is not None
            assert (known.rank, known.world) == (rank, world)
            assert (known.start, known.n_cells) == (len(joined), len(one))
            assert {name: column.tolist() for name, column in known.labels.items()} == {
                name: column.tolist() for name, column in one.labels.items()
            }
            joined += share.cell_ids.tolist()
            empty += not len(share)
        assert joined == one.cell_ids.tolist()
    assert empty == world - 1


def test_what_is_made_of_a_part_knows_the_whole_unless_it_has_other_cells() -> None:
    part = next(loaders(2)[1][1].epoch(0))
    assert part.whole is not None
    assert part.select_genes(np.array([2, 0])).whole is part.whole
    assert part.to("cpu").whole is part.whole
    assert part.slice(0, 3).whole is None


TASKS = (
    Task("treatment", "categorical", ("a", "b", "c"), class_weights=(0.5, 1.0, 2.0)),
    Task("cell_type", "categorical", ("x", "y", "z")),
)


@pytest.mark.parametrize("world", [2, 4])
def test_losses_of_parts_are_those_of_the_whole(
    world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weighed by the parts' cells, without that anything is sent, and with weights of classes."""
    whole, parts = loaders(world)
    monkeypatch.setattr(current, "ranks", None)  # nobody is asked
    for one, *shares in zip(whole.epoch(0), *(part.epoch(0) for part in parts), strict=True):
        generator = torch.Generator().manual_seed(0)
        outputs = [
            torch.randn(len(one), task.n_out, dtype=torch.float64, generator=generator)
            for task in TASKS
        ]
        expected = torch.stack(task_losses(TASKS, outputs, one))
        found, start = torch.zeros(len(TASKS), dtype=torch.float64), 0
        for share in shares:
            n = len(share)
            part = Part(n, start, len(one))
            monkeypatch.setattr(parts_of, "_computed", part)
            own = [output[start : start + n] for output in outputs]
            if n:
                found += n / len(one) * torch.stack(task_losses(TASKS, own, share))
            start += n
        monkeypatch.setattr(parts_of, "_computed", None)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_whole_without_labels_divides_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_of, "_computed", Part(3, 0, 8))
    assert over_ranks(torch.tensor(1), of_whole=lambda: [4]) == [4 * 3 / 8]
    assert over_ranks(0, of_whole=lambda: [torch.tensor(0)]) == [1.0]
    monkeypatch.setattr(parts_of, "_computed", Part(0, 3, 8))  # a stand-in's
    assert over_ranks(5, of_whole=lambda: [4]) == [1.0]
    monkeypatch.setattr(parts_of, "_computed", None)
    assert over_ranks(5, of_whole=lambda: [9]) == [5]
    exact = torch.empty(0, dtype=torch.float64)
    assert labelled_cells(TASKS[0], exact, torch.tensor([0, 2, -1])).item() == 2.5


# -- what cannot be --------------------------------------------------------------------------------


def rank(number: int, world: int) -> Any:
    """A rank that has met nobody."""
    one = object.__new__(Ranks)
    one.rank, one.world = number, world
    one.watch = SimpleNamespace(name=f"rank {number}")
    return one


def test_batches_of_another_rank_are_refused() -> None:
    batch = next(loaders(4)[1][2].epoch(0))
    (part,) = rank(2, 4).parts([batch])
    assert part == Part(len(batch), batch.whole.start, 25)
    for number, world in ((1, 4), (2, 3)):
        with pytest.raises(ConfigError, match=r"those of rank 2 of 4, and this is rank"):
            rank(number, world).parts([batch])


def test_a_step_that_lacks_some_of_its_cells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = rank(0, 1)
    one._sent = {}
    monkeypatch.setattr(Ranks, "_sum", lambda self, tensor: tensor)
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    optimizer = torch.optim.SGD([weight])
    means, words, received = one.reduce(
        [weight], optimizer, {"loss": 2.0}, Part(4, 0, 4), [7], None
    )
    assert (means, words, received) == ({"loss": 2.0}, [7], None)
    with pytest.raises(TrainingError, match="have 3 cells in a step, and 4 belong to it"):
        one.reduce([weight], optimizer, {"loss": 2.0}, Part(3, 0, 4), [7], None)


def test_batches_that_do_not_know_their_whole_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = next(loaders(2)[1][1].epoch(0))
    other = torch.tensor([[12.0], [0.0]], dtype=torch.float64)
    monkeypatch.setattr(Ranks, "_sum", lambda self, tensor: tensor + other)
    assert rank(1, 2).parts([replace(batch, whole=None)]) == [Part(13, 12, 25)]
