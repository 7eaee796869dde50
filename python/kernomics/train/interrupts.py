"""Ctrl-C and SIGTERM during training: finish the step, save, and only then leave."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from types import FrameType
from typing import Any


class Interrupts:
    """While open, notes SIGINT and SIGTERM instead of letting them stop the program at once.

    Signals are handled in the main thread only; elsewhere nothing is noted. A signal that the
    process ignores (as under ``nohup``) stays ignored. A SIGINT after another signal interrupts at
    once, but not within `together` seconds of it: one Ctrl-C may come from the terminal and from
    the program that started the process.
    """

    def __init__(self, together: float = 0.0) -> None:
        self.received: signal.Signals | None = None
        self.together, self._at = together, 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.getsignal(number)
                # None: a handler that Python did not install and could not put back.
                if previous is not None and previous is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._restore()
        if self.received is not None and error is None:
            self.leave("training was interrupted after it had finished")

    def leave(self, message: str) -> None:
        """Put the previous handlers back, and end as the signal asked."""
        self._restore()
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt(message)
        raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self._at = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._at >= self.together:
            self._restore()
            raise KeyboardInterrupt("interrupted a second time: nothing more was saved")
        if self.received is None:
            self.received = signal.Signals(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            with contextlib.suppress(ValueError):  # the interpreter is shutting down
                signal.signal(number, handler)
        self._previous = {}
