"""Arrays whose bytes lie as they are in files: read in place, past the library that wrote them.

An uncompressed array of numbers, contiguous or in chunks, is its bytes at known places. Reading a
range through h5py or zarr takes tens of microseconds to a millisecond, more than the bytes take.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from kernomics.ops._native import cpu

Places = npt.NDArray[np.int64]

MOST_FILES = 64
"""Files kept open, of an array that lies in many."""


class FlatArray:
    """Numbers [n] in pieces of `step`, piece i at `offsets[i]` of file ``files[file_of[i]]``."""

    def __init__(
        self,
        files: Sequence[Path],
        file_of: Places,
        offsets: Places,
        step: int,
        n: int,
        dtype: np.dtype[Any],
    ) -> None:
        self.files = [file.absolute() for file in files]  # the process may go elsewhere
        self.file_of, self.offsets = file_of, offsets
        self.step, self.shape, self.dtype = max(step, 1), (n,), dtype
        self._open: dict[int, int] = {}
        self._marks: dict[int, Mark] = {0: mark_of(self.files[0].stat())} if self.files else {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def __getitem__(self, wanted: slice) -> npt.NDArray[Any]:
        start, stop, _ = wanted.indices(self.shape[0])
        return self.read(np.array([start]), np.array([max(start, stop)]))

    def read(
        self, starts: Places, stops: Places, room: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[Any]:
        """Read ranges, one after the other; into `room`, if it is given and large enough."""
        n = int((stops - starts).sum())
        size = n * self.dtype.itemsize
        fits = room is not None and room.size >= size
        out = room[:size].view(self.dtype) if room is not None and fits else np.empty(n, self.dtype)
        kept = stops > starts
        if kept.any():
            self._read(starts[kept], stops[kept], out)
        return out

    def _read(self, starts: Places, stops: Places, out: npt.NDArray[Any]) -> None:
        first, last = starts // self.step, (stops - 1) // self.step
        n_pieces = last - first + 1
        ends = np.cumsum(n_pieces)
        piece = np.arange(ends[-1]) + np.repeat(first - ends + n_pieces, n_pieces)
        begin = np.maximum(np.repeat(starts, n_pieces), piece * self.step)
        end = np.minimum(np.repeat(stops, n_pieces), (piece + 1) * self.step)
        size = self.dtype.itemsize
        file, offset = self.file_of[piece], self.offsets[piece] + (begin - piece * self.step) * size
        length = (end - begin) * size
        new = np.ones(piece.size, bool)  # does it begin where the one before does not end?
        new[1:] = (offset[1:] != offset[:-1] + length[:-1]) | (file[1:] != file[:-1])
        heads = np.flatnonzero(new)
        offset, file, length = offset[heads], file[heads], np.add.reduceat(length, heads)
        place = np.concatenate(([0], np.cumsum(length)))
        cuts = np.concatenate(([0], np.flatnonzero(np.diff(file)) + 1, [file.size])).tolist()
        for a, b in pairwise(cuts):
            at, many = np.ascontiguousarray(offset[a:b]), np.ascontiguousarray(length[a:b])
            with self._descriptor(int(file[a])) as descriptor:
                fault, error = cpu().read_ranges(
                    descriptor, b - a, at.ctypes.data, many.ctypes.data,
                    out.ctypes.data + int(place[a]),
                )  # fmt: skip
            if fault >= 0:
                path = self.files[int(file[a])]
                why = os.strerror(error) if error else "it is shorter than it should be"
                raise OSError(f"{path.name} at byte {int(at[fault]):,}: {why}")

    @contextmanager
    def _descriptor(self, i: int) -> Iterator[int]:
        """Open a file, or take it as it is open; none is closed that another thread may read."""
        kept = self._open.get(i)
        if kept is not None:
            require_mark(self._marks[i], mark_of(os.fstat(kept)), self.files[i])
            yield kept
            return
        new = os.open(self.files[i], os.O_RDONLY | os.O_CLOEXEC)
        try:
            mark = mark_of(os.fstat(new))
            require_mark(self._marks.setdefault(i, mark), mark, self.files[i])
        except OSError:
            os.close(new)
            raise
        if len(self._open) < MOST_FILES and self._open.setdefault(i, new) == new:
            yield new
            return
        try:
            yield new
        finally:
            os.close(new)


Mark: TypeAlias = tuple[int, int]


def mark_of(stat: os.stat_result) -> Mark:
    """Return what tells a file from what is in its place later: its size and time of change."""
    return stat.st_size, stat.st_mtime_ns


def require_mark(known: Mark, found: Mark, file: Path) -> None:
    """Refuse a file that is no longer what it was."""
    if found != known:
        raise OSError(f"{file.name} was replaced or changed since its places were looked up")


class Spare:
    """Memory that was read into before, used again: the system hands out new pages slowly."""

    MOST, LARGEST = 4, 1 << 26

    def __init__(self) -> None:
        self._rooms: list[npt.NDArray[np.uint8]] = []

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """Return at least `size` bytes that nobody else uses."""
        try:  # other threads take and give too
            room = self._rooms.pop()
        except IndexError:
            return np.empty(size, np.uint8)
        return room if room.size >= size else np.empty(size, np.uint8)

    def give(self, room: npt.NDArray[np.uint8]) -> None:
        """Let others use it."""
        if room.size <= self.LARGEST and len(self._rooms) < self.MOST:
            self._rooms.append(room)


SPARE = Spare()


def _plain(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "buif" and dtype.isnative and dtype.itemsize <= 8


def flat_h5(stored: Any) -> FlatArray | None:
    """Return where a dataset's numbers lie; None where they must be decoded."""
    n, dtype = int(stored.shape[0]), stored.dtype
    path = Path(stored.file.filename)  # another file's than the one opened, behind a link
    if not _plain(dtype) or stored.external or stored.is_virtual:
        return None
    if not stored.id.get_type().equal(h5py.h5t.py_create(dtype, logical=True)):
        return None  # fewer bits than its bytes have, say
    if stored.file.driver != "sec2" or stored.file.userblock_size:
        return None
    if stored.chunks is None:
        offset = stored.id.get_offset()
        if offset is None and n:
            return None
        zero = np.zeros(1, np.int64)
        return FlatArray([path], zero, zero + (offset or 0), max(n, 1), n, dtype)
    step = int(stored.chunks[0])
    if stored.id.get_create_plist().get_nfilters() or not hasattr(stored.id, "chunk_iter"):
        return None
    n_chunks = -(-n // step)
    if stored.id.get_num_chunks() < n_chunks:  # some were never written: to be filled
        return None
    offsets = np.full(n_chunks, -1, np.int64)

    def note(chunk: Any) -> None:
        if chunk.chunk_offset[0] < n:
            offsets[chunk.chunk_offset[0] // step] = chunk.byte_offset

    if n:
        stored.id.chunk_iter(note)
    if (offsets < 0).any():  # never written: to be filled
        return None
    return FlatArray([path], np.zeros(offsets.size, np.int64), offsets, step, n, dtype)


def flat_zarr(path: Path, stored: Any) -> FlatArray | None:
    """Return where an array's numbers lie in a store on this disk; None if they are decoded."""
    folder = path / stored.path
    n, dtype, meta = int(stored.shape[0]), np.dtype(stored.dtype), stored.metadata
    if not _plain(dtype) or not folder.is_dir():
        return None
    if meta.zarr_format == 2:
        if meta.compressor is not None or meta.filters or meta.dtype.to_native_dtype() != dtype:
            return None
        step = inner = int(meta.chunks[0])
    else:
        found = _uncompressed(meta)
        if found is None:
            return None
        step, inner = found
    n_files = -(-n // step)
    files = [folder / meta.encode_chunk_key((i,)) for i in range(n_files)]
    if not all(file.is_file() for file in files):
        return None
    in_file = step // inner
    piece = np.arange(-(-n // inner))
    offsets = (piece % in_file) * inner * dtype.itemsize
    if in_file > 1:
        for i, file in enumerate(files):
            index = _shard_index(file, in_file, inner * dtype.itemsize)
            if index is None:
                return None
            mine = slice(i * in_file, min((i + 1) * in_file, piece.size))
            offsets[mine] = index[: mine.stop - mine.start]
            if (offsets[mine] < 0).any():
                return None
    return FlatArray(files, piece // in_file, offsets, inner, n, dtype)


def _uncompressed(meta: Any) -> tuple[int, int] | None:
    """Return the entries in a file and in a chunk of version 3, if they are stored as they are."""
    step = int(meta.chunk_grid.chunk_shape[0])
    codecs = list(meta.codecs)
    names = [type(codec).__name__ for codec in codecs]
    if names == ["ShardingCodec"]:
        codec = codecs[0]
        index = [type(one).__name__ for one in codec.index_codecs]
        where = str(getattr(codec.index_location, "value", codec.index_location))
        if index != ["BytesCodec", "Crc32cCodec"] or where != "end":
            return None
        inner, codecs = int(codec.chunk_shape[0]), list(codec.codecs)
    else:
        inner = step
    if [type(codec).__name__ for codec in codecs] != ["BytesCodec"]:
        return None
    endian = getattr(codecs[0].endian, "value", codecs[0].endian)
    return (step, inner) if endian in ("little", None) else None


def _shard_index(file: Path, n: int, size: int) -> Places | None:
    """Return where the chunks of a shard begin, −1 for those that are not there."""
    n_bytes = file.stat().st_size
    if n_bytes < 16 * n + 4:
        return None
    with file.open("rb") as opened:
        opened.seek(-(16 * n + 4), os.SEEK_END)
        data = opened.read(16 * n + 4)
    if crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
        return None  # damaged, as the library will say
    index = np.frombuffer(data[:-4], "<u8").reshape(n, 2)
    there = index[:, 0] != np.iinfo(np.uint64).max
    if (index[there, 1] != size).any() or (index[there, 0] > n_bytes - size).any():
        return None
    begin = np.full(n, -1, np.int64)
    begin[there] = index[there, 0]
    return begin


def _crc_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F6_3B78 & -(crc & 1))
        table.append(crc)
    return table


CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the checksum (Castagnoli) that a shard's index ends with."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc = (crc >> 8) ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFF_FFFF


def flat(path: Path, stored: Any) -> FlatArray | None:
    """Return where the numbers of an array of a file or store lie, if they lie as they are."""
    if stored.ndim != 1:
        return None
    if isinstance(stored, h5py.Dataset):
        return flat_h5(stored)
    return flat_zarr(path, stored)
