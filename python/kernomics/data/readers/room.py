"""What a file says of its sizes is held against what there is, before memory is taken for it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import h5py

from kernomics.errors import DataError

DEEPEST = 4
"""Groups within each other in a table, such as the codes of a column of categories."""
FEW = 1 << 12
"""Chunks that are not worth counting files for."""


def free_memory() -> int | None:
    """Return the memory that is available; None where the system does not tell."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return None if found is None else 1024 * int(found.group(1))


def require_room(path: Path, node: Any, what: str) -> None:
    """Refuse tables and arrays that are larger by their own account than the memory there is."""
    require_bytes(path, sum(map(_bytes_of, _arrays(node))), what)


def require_bytes(path: Path, size: int, what: str) -> None:
    """Refuse what takes more memory than there is."""
    room = free_memory()
    if room is not None and size > room:
        raise DataError(
            f"'{path}' says that {what} takes {size / 1e9:,.1f} GB, and {room / 1e9:,.1f} GB of "
            "memory are free: it is damaged, or needs another machine; copy or download it again"
        )


def require_chunk(path: Path, array: Any, what: str) -> None:
    """Refuse an array of which one chunk, which is read whole, is larger than memory."""
    chunk = getattr(array, "chunks", None)
    size, room = math.prod(chunk or ()) * array.dtype.itemsize, free_memory()
    if room is not None and size > room:
        raise DataError(
            f"'{path}' says that {what} is stored in chunks of {size / 1e9:,.1f} GB, and "
            f"{room / 1e9:,.1f} GB of memory are free: write it again in smaller ones"
        )


def require_written(path: Path, array: Any, what: str) -> None:
    """Refuse an array of an HDF5 file that was not written whole: the rest reads as zeros."""
    if not isinstance(array, h5py.Dataset) or array.ndim != 1 or array.size == 0:
        return
    needed = 1 if array.chunks is None else -(-array.size // array.chunks[0])
    found = array.id.get_num_chunks() if array.chunks else int(array.id.get_storage_size() > 0)
    if array.external or array.is_virtual or found >= needed:
        return
    raise DataError(
        f"'{path}' lacks {needed - found:,} of {needed:,} chunks of {what}: it was not written "
        "whole; copy or download it again"
    )


def require_files(path: Path, array: Any, what: str) -> None:
    """Refuse an array of a zarr store that has more chunks than the store has files for it."""
    step = (getattr(array, "shards", None) or array.chunks)[0]
    needed = -(-int(array.shape[0]) // max(int(step), 1))
    if needed <= FEW:
        return
    found = sum(1 for _ in islice(_files(path / array.path), needed))
    if found < needed:
        raise DataError(
            f"the zarr store '{path}' lacks {needed - found:,} of {needed:,} chunks of {what}: "
            "copy or download it again"
        )


def _files(folder: Path) -> Iterator[str]:
    for _, _, names in os.walk(folder):
        yield from names


def _arrays(node: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the arrays of a table, those of its columns too; what loops ends."""
    if not hasattr(node, "keys"):
        yield node
        return
    if depth > DEEPEST:
        raise ValueError("it holds groups in groups without end")
    for name in node:
        yield from _arrays(node[name], depth + 1)


def _bytes_of(array: Any) -> int:
    """Return what an array takes in memory, by its own account."""
    dtype = array.dtype
    n = math.prod(int(size) for size in array.shape)
    return n * max(int(getattr(dtype, "itemsize", 8)), 1)
