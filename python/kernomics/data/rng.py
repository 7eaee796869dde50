"""Random numbers of the data package: Philox, keyed by what is drawn and never by history."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


class Stream(enum.IntEnum):
    """One constant per purpose, so that no two purposes share random numbers."""

    SPLIT = 1
    SAMPLER_BLOCKS = 2
    SAMPLER_ROWS = 3
    SIMULATED_GENES = 4
    SIMULATED_CELLS = 5
    SIMULATED_COUNTS = 6
    COMPONENTS = 7
    NULL_CELLS = 8
    RECONSTRUCTED_CELLS = 9
    RELATIONSHIP_PAIRS = 10
    PROBE_ORDER = 11
    PAIRS = 12
    PRUNED_CELLS = 13
    PRUNED_TIES = 14
    STAGES = 15
    STAGE_PARTS = 16
    RESERVOIR = 17
    REPLAY = 18
    FISHER_CELLS = 19
    SAMPLER_DRAWS = 20
    SCORED_CELLS = 21
    CONVERTED_ORDER = 30
    DIGEST_CELLS = 31
    DIGEST_GENES = 32


def philox(
    seed: int, stream: Stream, step: int = 0, part: int = 0, first: int = 0
) -> np.random.Philox:
    """Return a Philox4x64 bit generator that depends on its arguments alone.

    Its words are those of one part of one step, from the `first` four on.
    """
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, int(stream)], dtype=np.uint64)
    counter = np.array([first, 0, part, step], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter)


def uniforms(
    seed: int, stream: Stream, step: int, start: int, stop: int
) -> npt.NDArray[np.float64]:
    """Return the numbers from `start` up to `stop` of an endless list, each from 0 to below 1."""
    first, rest = divmod(start, 4)
    words = philox(seed, stream, step, first=first).random_raw(rest + stop - start)[rest:]
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(
    n: int, seed: int, stream: Stream, step: int = 0, part: int = 0
) -> npt.NDArray[np.int64]:
    """Return a random order of 0 … n−1, as the ranks of n raw Philox words.

    The order is read off the raw words, which numpy guarantees to stay as they are, instead of
    drawn by ``Generator.permutation``, which a new numpy may change: a run resumed under another
    numpy goes on with the same batches.
    """
    words = philox(seed, stream, step, part).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def draws_of_names(names: Iterable[object], seed: int, stream: Stream) -> npt.NDArray[np.uint64]:
    """Return a random word for each cell's name, by which cells are divided or kept, uint64 [n].

    It is BLAKE2b of the name, keyed by the seed and the purpose: nothing hangs on the order of the
    cells or on which others are there. The k cells with the smallest words are a draw without
    replacement, every cell being as likely as the next.
    """
    key = (seed & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little")
    person = int(stream).to_bytes(2, "little")
    digests = b"".join(
        hashlib.blake2b(
            str(name).encode("utf-8", "surrogatepass"), digest_size=8, key=key, person=person
        ).digest()
        for name in names
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def keys_of_names(names: Iterable[object]) -> npt.NDArray[np.int64]:
    """Return a number for each cell's name, by which inference draws.

    It is BLAKE2b of the name in UTF-8, 48 bits, as an integer whose first byte is the lowest. So
    a chunk, a file in another order and the whole draw alike for one cell; cells of equal names,
    such as "0" of two files, get equal draws. About one microsecond a name.
    """
    digests = b"".join(
        hashlib.blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=6).digest()
        for name in names
    )
    keys = np.zeros((len(digests) // 6, 8), np.uint8)
    keys[:, :6] = np.frombuffer(digests, np.uint8).reshape(-1, 6)
    return keys.view("<i8").reshape(-1).astype(np.int64)
