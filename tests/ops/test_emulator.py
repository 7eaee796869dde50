"""The emulator of the CUDA kernels finds the faults that it is there to find."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from emulated import Emulator

FAULTS = {
    "leave_before_the_barrier": "have returned",
    "meet_at_two_barriers": "another barrier than faulty.cu",
    "wait_for_block_and_for_lanes": "32 threads from thread 0 on wait for the block at faulty.cu",
    "leave_before_the_vote": "a collective of lanes that have returned",
    "meet_in_two_collectives": "another collective than faulty.cu",
    "read_a_lane_outside_of_the_mask": "a lane outside of the mask is read",
    "write_beyond_shared_memory": "writes beyond the 64 bytes of its shared memory",
    "write_off_alignment": "an access that is not aligned",
    "leave_an_array": "an index outside of its array",
    "shift_too_far": "a shift by more bits than there are",
}
RIGHT = [(t + 1) % 64 for t in range(64)]


@pytest.fixture(params=[0, 1, 2])
def scheduled(request: pytest.FixtureRequest, emulator: Emulator) -> Iterator[Emulator]:
    emulator.schedule(request.param)
    yield emulator
    emulator.schedule(0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(scheduled: Emulator, fault: str) -> None:
    assert FAULTS[fault] in scheduled.run_faulty(fault)[0]


def test_the_launch_after_a_fault_is_as_any_other(scheduled: Emulator) -> None:
    first = scheduled.run_faulty("forget_the_barrier")[0]
    scheduled.run_faulty("leave_before_the_vote")
    assert first == scheduled.run_faulty("forget_the_barrier")[0] == ""


def test_what_nothing_wrote_is_garbage(scheduled: Emulator) -> None:
    scheduled.run_faulty("forget_the_second_barrier")
    message, found = scheduled.run_faulty("forget_the_barrier")
    assert message == ""
    assert found != RIGHT


def test_the_order_of_threads_shows_a_missing_barrier(emulator: Emulator) -> None:
    results = []
    for seed in range(3):
        emulator.schedule(seed)
        results.append(emulator.run_faulty("forget_the_second_barrier")[1])
    emulator.schedule(0)
    assert any(found != RIGHT for found in results)
    assert results[1] != results[2]
