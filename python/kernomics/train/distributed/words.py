"""Signals and words of 64 bits as the numbers that ranks add up."""

from __future__ import annotations

import signal
from collections.abc import Sequence


def as_counts(received: signal.Signals | None) -> list[float]:
    """Return a signal as numbers, 1 for the one received."""
    return [float(received == signal.SIGINT), float(received == signal.SIGTERM)]


def as_signal(interrupts: float, terms: float) -> signal.Signals | None:
    """Return the signal that any rank has received, from the sums of `as_counts`."""
    if interrupts:
        return signal.SIGINT
    return signal.SIGTERM if terms else None


def as_bytes(words: Sequence[int]) -> list[float]:
    """Return words of 64 bits as numbers whose sums over ranks float32 holds exactly."""
    return [float(byte) for word in words for byte in word.to_bytes(8, "little")]


def as_words(sums: Sequence[float]) -> list[int]:
    """Return the sums of words, modulo 2⁶⁴, from those of their bytes."""
    eights = [sums[i : i + 8] for i in range(0, len(sums), 8)]
    return [sum(round(one) << 8 * j for j, one in enumerate(e)) % 2**64 for e in eights]
