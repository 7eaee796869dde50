"""`Watch`: how a rank learns which other one is gone, and why."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from typing import Any, Protocol

BEAT = 1.0
"""Seconds between signs of life."""
GRACE = 60.0
"""Seconds that a rank has to stop by itself when another one failed."""
PATIENCE = 10.0
"""Seconds after which a question to the store fails."""
LINGER = 20
"""Quarters of a sign of life that rank 0, which may hold the store, stays so that the others hear
why it stops."""


class Store(Protocol):
    """What is asked of a store that all ranks share."""

    def set(self, key: str, value: str, /) -> None:
        """Store a value."""

    def get(self, key: str, /) -> bytes:
        """Return a value, once it is there."""

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all keys are there."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Set a value if it is the expected one; return what is there then."""


class Watch:
    """Signs of life of all ranks in a store that they share, and the first failure.

    Parameters
    ----------
    store
        A connection of its own.
    rank, world
        Which of how many.
    limit
        Seconds without a sign of life after which a rank counts as dead, whoever waits for it.
    """

    def __init__(self, store: Store, rank: int, world: int, limit: float) -> None:
        self.store, self.rank, self.world, self.limit = store, rank, world, limit
        self.calls = 0  # in how many collectives this rank has been
        self._beats = 0
        self.heard: str | None = None  # the first failure, once this rank knows of it
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kernomics-watch", daemon=True)

    @property
    def name(self) -> str:
        """What the others call this rank."""
        return f"rank {self.rank} (process {os.getpid()} on {os.uname().nodename})"

    def begin(self) -> None:
        """Say who is here, and begin to watch."""
        self._set(f"name/{self.rank}", self.name)
        self._beat(0)
        self._thread.start()

    def end(self) -> None:
        """Watch no longer.

        The thread is waited for: one that is still in the store when the interpreter goes would
        abort the process, and what started the ranks would then end those still at work.
        """
        self._ended.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2 * PATIENCE)

    def leave(self) -> None:
        """Say that this rank is done, and nobody need miss it.

        Rank 0, which may hold the store, stays a little until the others have said so.
        """
        with contextlib.suppress(Exception):
            self._set(f"left/{self.rank}", "1")
            others = [] if self.rank else list(range(1, self.world))
            for _ in range(5 * LINGER):
                others = [r for r in others if not self._has(f"left/{r}")]
                if not others:
                    break
                time.sleep(BEAT / 20)

    def tell(self, why: str) -> None:
        """Say why this rank stops, unless another one was the first to fail."""
        with contextlib.suppress(Exception):
            self._fail(self.name, why)
            others = [] if self.rank else list(range(1, self.world))
            for _ in range(LINGER):
                others = [r for r in others if not self._has(f"heard/{r}")]
                if not [r for r in others if not self._has(f"left/{r}")]:
                    break
                time.sleep(BEAT / 4)

    def explain(self, error: str) -> str:
        """Say which rank is gone and why, after a collective failed."""
        late = "imed out" in error
        first = self._state()
        begun = self._beats
        for _ in range(1 if late else 400):
            failure = self._failure()
            if failure is not None:
                return failure
            if first is None and self._state() is None:  # the store is gone, and nobody will tell
                break
            if self._beats > begun + 4:  # however busy the machine is, the others had as long
                break
            if not self._thread.is_alive():  # the store has been away for as long as the limit
                break
            time.sleep(BEAT / 4)
        now = self._state()
        if first is None or now is None:
            return (
                f"rank 0 died, or its machine cannot be reached ({error}); a training goes on from "
                "its last checkpoint with resume=True"
            )
        dead = [r for r, one in now.items() if r != self.rank and first.get(r) == one]
        if dead and not late:
            why = (
                "it died without a word: it was killed, ran out of memory, or its machine or "
                "network failed"
            )
        elif late:
            least = min(calls for _, calls in now.values())
            dead = [r for r, (_, calls) in now.items() if calls == least and r != self.rank]
            why = f"it did not come to where the others waited for it for {self.limit:g} s"
        if not dead:
            gone = [r for r in range(self.world) if r not in now]
            if not gone:
                return f"the ranks lost each other: {error}"
            return f"{self._get(f'name/{gone[0]}')} ended while this one was still at work"
        self.tell_of(dead[0], why)
        return self._failure() or f"rank {dead[0]} stopped: {why}"

    def tell_of(self, rank: int, why: str) -> None:
        """Say that another rank has failed."""
        with contextlib.suppress(Exception):
            self._fail(self._get(f"name/{rank}"), why)

    # -- the store -------------------------------------------------------------------------------

    def _fail(self, who: str, why: str) -> None:
        with self._lock:
            self.store.compare_set("failed", "", json.dumps({"who": who, "why": why}))

    def _failure(self) -> str | None:
        """Return the first failure, told as an error is."""
        if self.heard is None:
            try:
                with self._lock:
                    if not self.store.check(["failed"]):
                        return None
                    found = json.loads(self.store.get("failed"))
            except Exception:
                return None
            self.heard = f"{found['who']} stopped: {found['why']}"
            with contextlib.suppress(Exception):
                self._set(f"heard/{self.rank}", "1")
        return self.heard

    def _state(self) -> dict[int, tuple[str, int]] | None:
        """Return of each rank that has not left its last sign of life, and its collectives."""
        found = {}
        try:
            for rank in range(self.world):
                if not self._has(f"left/{rank}"):
                    beat, calls = self._get(f"beat/{rank}").split()
                    found[rank] = beat, int(calls)
        except Exception:
            return None
        return found

    def _set(self, key: str, value: str) -> None:
        with self._lock:
            self.store.set(key, value)

    def _get(self, key: str) -> str:
        with self._lock:
            return self.store.get(key).decode()

    def _has(self, key: str) -> bool:
        with self._lock:
            return bool(self.store.check([key]))

    def _beat(self, number: int) -> None:
        self._set(f"beat/{self.rank}", f"{number} {self.calls}")

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        number, lost = 0, 0.0
        seen: dict[int, tuple[str, float]] = {}
        failed_at: float | None = None
        while not self._ended.wait(BEAT):
            number += 1
            now = time.monotonic()
            self._beats = number
            try:
                self._beat(number)
                lost = 0.0
            except Exception:
                lost = lost or now
                if now - lost > self.limit:
                    return  # whoever held the store has left, or the next collective will tell
                continue
            failure = self._failure()
            if failure is not None:
                failed_at = failed_at or now
                if now - failed_at > GRACE:  # the main thread hangs in a device or a file
                    self._exit(failure)
            elif number % max(5, self.world // 4) == 0:
                self._find_dead(seen, now)

    def _find_dead(self, seen: dict[int, tuple[str, float]], now: float) -> None:
        """Tell of a rank that has given no sign of life for too long."""
        for rank, (beat, _) in (self._state() or {}).items():
            if rank not in seen or seen[rank][0] != beat:
                seen[rank] = beat, now
            elif now - seen[rank][1] > self.limit:
                self.tell_of(rank, f"it gave no sign of life for {self.limit:g} s")

    def _exit(self, why: Any) -> None:
        if not self._ended.is_set():
            print(f"kernomics: {why}", file=sys.stderr, flush=True)
            os._exit(70)
