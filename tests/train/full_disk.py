"""A disk that is full after so many writes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kernomics.train import atomic as storage


def fail_after(writes: int, monkeypatch: pytest.MonkeyPatch, *, half: bool = False) -> None:
    """Let the disk be full after so many writes, optionally with half of the next one done."""
    write, left = storage.write_bytes, [writes]

    def full(path: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] >= 0:
            write(path, data)
            return
        if half:
            write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(storage, "write_bytes", full)
