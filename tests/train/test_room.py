"""Ranks of one machine add up in memory that they share: the same bits, and nobody waits for ever.

That trainings come out alike, and say who died, is tested with the other ranks' tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import room_program
import torch
from started_ranks import SOURCE

from kernomics.errors import ConfigError
from kernomics.train.distributed import room
from kernomics.train.distributed.room import Room, make_file, room_size, shared_room, wanted

pytestmark = pytest.mark.skipif(not room.FOLDER.is_dir(), reason="no memory that looks like a file")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rooms are made, which is not the system's."""
    monkeypatch.setattr(room, "FOLDER", tmp_path)
    return tmp_path


def start(path: Path, world: int, job: str, limit: float = 60.0) -> list[Any]:
    """Start the ranks of a room; return the processes."""
    return [
        subprocess.Popen(
            [
                sys.executable,
                room_program.__file__,
                str(path),
                str(rank),
                str(world),
                f"{limit}",
                job,
            ],
            env={**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def ended(processes: list[Any]) -> list[Any]:
    """Return what each rank found, None of one that has nothing to tell."""
    found = []
    for process in processes:
        printed = process.communicate(timeout=200)[0]
        assert process.returncode == 0
        found.append(json.loads(printed) if printed else None)
    return found


@pytest.mark.parametrize("world", [2, 3])
def test_sums_are_those_in_the_order_of_the_ranks_to_the_bit(folder: Path, world: int) -> None:
    path = make_file(world)
    assert path is not None
    found = ended(start(path, world, "sums"))
    assert [one["wrong"] for one in found] == [[]] * world
    assert len({one["turns"] for one in found}) == 1
    assert found[0]["turns"] > 48, "no sum had more than a slot holds"


@pytest.mark.parametrize(
    ("job", "limit", "why"),
    [
        ("leaves", 60, "Connection closed by rank 1"),
        ("sleeps", 1, "Timed out after 1 s of waiting for rank 1"),
        ("told", 60, "rank 7 stopped: no disk"),
        ("kinds", 60, "rank 1 adds up values of another number or kind"),
        ("differs", 60, "rank 1 adds up values of another number or kind"),
    ],
)
def test_a_rank_that_does_not_come_is_not_waited_for(
    folder: Path, job: str, limit: float, why: str
) -> None:
    path = make_file(2)
    assert path is not None
    first, second = start(path, 2, job, limit)
    printed = first.communicate(timeout=200)[0]
    second.kill()
    second.communicate()
    found = json.loads(printed)
    assert found["why"] == why
    assert found["seconds"] < 25


def test_the_file_is_gone_once_all_have_it_open(folder: Path) -> None:
    seen = []

    def all_can(yes: bool) -> bool:
        seen.extend(path.stat().st_size for path in folder.iterdir())
        return yes

    found = shared_room(0, 2, 1.0, lambda name: name, all_can)
    assert found is not None
    assert seen == [room_size(2)]
    assert not [*folder.iterdir()]
    found.close()
    found.close()


def test_ranks_that_cannot_all_open_it_have_none(folder: Path) -> None:
    answers = iter([True, False])
    assert shared_room(0, 2, 1.0, lambda name: name, lambda yes: next(answers)) is None
    assert not [*folder.iterdir()]
    # of another machine
    told = str(folder / "kernomics-elsewhere")
    assert shared_room(1, 2, 1.0, lambda _: told, lambda yes: yes) is None


def test_there_is_none_without_memory_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        assert make_file(2) is None
        assert shared_room(0, 2, 1.0, lambda name: name, lambda yes: yes) is None
    assert not [*folder.iterdir()]
    monkeypatch.setattr(room, "FOLDER", folder / "nowhere")
    assert make_file(2) is None


@pytest.mark.parametrize("rank", [0, 1])
def test_there_is_none_where_the_user_of_any_rank_wants_the_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    told = str(make_file(2))
    monkeypatch.setenv("KERNOMICS_SHARED_MEMORY", "0")
    assert shared_room(rank, 2, 1.0, lambda name: name or told, lambda yes: yes) is None


def test_another_wish_is_no_yes() -> None:
    for text, yes in (("0", False), ("1", True), ("", True)):
        assert wanted({"KERNOMICS_SHARED_MEMORY": text}) is yes
    assert wanted({})
    for text in ("false", "off", " 0", "2"):
        with pytest.raises(ConfigError, match=f"KERNOMICS_SHARED_MEMORY is '{text}': give 0"):
            wanted({"KERNOMICS_SHARED_MEMORY": text})


def test_no_file_waits_for_ranks_that_are_late(folder: Path) -> None:
    """A rank that is killed while it waits leaves none behind."""
    seen = []

    def all_can(yes: bool) -> bool:
        seen.append(len([*folder.iterdir()]))
        return yes

    found = shared_room(0, 2, 1.0, lambda name: name, all_can)
    assert found is not None
    found.close()
    assert seen == [0, 1]


def test_no_file_is_left_where_another_rank_fails(folder: Path) -> None:
    def fails(*_: object) -> str:
        raise RuntimeError("Connection closed by peer")

    with pytest.raises(RuntimeError, match="Connection closed"):
        shared_room(0, 2, 1.0, fails, lambda yes: yes)
    assert not [*folder.iterdir()]


@pytest.mark.parametrize("limit", [60.0, 0.0])
def test_a_rank_that_came_and_left_in_the_meantime_is_not_missed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    path = make_file(2)
    assert path is not None
    first, second = (Room(path, rank, 2, limit) for rank in range(2))
    if not limit:  # it is late instead
        monkeypatch.setattr(first, "_ended", lambda rank: False)
    came = []

    def heard() -> None:  # asked once it has been waited for in vain
        if not came:
            came.append(torch.full((5,), 2.0))
            second.sum(came[0], lambda: None)
            second.close()

    own = torch.ones(5)
    first.sum(own, heard)
    assert came
    assert own.tolist() == came[0].tolist() == [3.0] * 5
    first.close()


def test_numbers_that_are_not_one_after_the_other_are_refused(folder: Path) -> None:
    path = make_file(1)
    assert path is not None
    alone = Room(path, 0, 1, 1.0)
    for values in (torch.ones(4, 3).T, torch.ones(6)[::2], torch.ones(1).expand(9)):
        with pytest.raises(ValueError, match="are not contiguous"):
            alone.sum(values, lambda: None)
    for values in (torch.ones(()), torch.ones(0, 3)):
        alone.sum(values, lambda: None)
        assert (values == 1).all()
    alone.close()


def test_a_file_of_another_size_is_no_room(folder: Path) -> None:
    path = folder / "small"
    path.write_bytes(bytes(64))
    with pytest.raises(ValueError, match="mmap"):
        Room(path, 0, 2, 1.0)


def test_slots_of_many_ranks_are_small() -> None:
    assert room_size(2) == 2 * 64 + 4 * 2**20
    assert room_size(64) <= 2**25 + 64 * 64
