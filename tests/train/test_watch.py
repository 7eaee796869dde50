"""A rank learns which other one is gone, and why; its own thread ends before it does."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from kernomics.train.watch import Watch


class FakeStore:
    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        if self.values.get(key, "") == expected:
            self.values[key] = desired
        return self.values[key].encode()


def watchers(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeStore, Watch, Watch]:
    monkeypatch.setattr("kernomics.train.watch.BEAT", 0.02)
    store = FakeStore()
    first, second = (Watch(store, r, 2, 30.0) for r in range(2))
    first.begin()
    second.begin()
    return store, first, second


def test_the_first_failure_is_the_one_that_all_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, second = watchers(monkeypatch)
    second.tell("the disk is full")
    first.tell("rank 1 is gone")
    assert first.explain("Connection closed") == f"{second.name} stopped: the disk is full"
    first.end()
    second.end()


def test_a_rank_without_signs_of_life_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, second = watchers(monkeypatch)
    second.end()
    time.sleep(0.1)
    found = first.explain("Connection closed by peer")
    assert found.startswith(f"{second.name} stopped: it died without a word")
    first.end()


def test_a_store_that_is_gone_is_not_asked_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch prints a trace for each question."""
    store, first, second = watchers(monkeypatch)
    asked = []

    def gone(*_: str) -> bool:
        if threading.current_thread() is threading.main_thread():
            asked.append(1)
        raise ConnectionError("Broken pipe")

    for name in ("check", "get", "set"):
        monkeypatch.setattr(store, name, gone)
    assert second.explain("Connection closed by rank 0").startswith("rank 0 died, or its machine")
    assert len(asked) <= 4
    first.end()
    second.end()


def test_a_rank_that_is_late_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, second = watchers(monkeypatch)
    first.calls = 3
    time.sleep(0.1)
    found = first.explain("Timed out waiting 30000ms")
    assert found.startswith(f"{second.name} stopped: it did not come to where")
    first.end()
    second.end()


def test_a_rank_that_ended_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    _, first, second = watchers(monkeypatch)
    second.leave()
    second.end()
    time.sleep(0.1)
    assert first.explain("Connection closed") == (
        f"{second.name} ended while this one was still at work"
    )
    first.end()


LEAVING = """
import datetime, time
import torch.distributed as dist
from kernomics.train import watch
from kernomics.train.watch import Watch
watch.BEAT = 0.0  # in the store nearly always
span = datetime.timedelta(seconds=10)
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=span)
own = dist.TCPStore("127.0.0.1", store.port, wait_for_workers=False, timeout=span)
one = Watch(own, 0, 1, 60.0)
one.begin()
time.sleep(0.1)
one.end()
"""


def test_a_process_ends_while_its_watch_asks_the_store() -> None:
    line = [sys.executable, "-c", LEAVING]
    for _ in range(3):
        subprocess.run(line, check=True, capture_output=True)


def test_the_thread_of_a_watch_has_ended_when_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, first, second = watchers(monkeypatch)
    asked = threading.Event()

    def slowly(keys: list[str]) -> bool:
        asked.set()
        time.sleep(0.3)
        return False

    monkeypatch.setattr(store, "check", slowly)
    assert asked.wait(10)
    for one in (first, second):
        one.end()
        assert not one._thread.is_alive()
