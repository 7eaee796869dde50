"""A digest of cells that proves that each arrived once, in whatever order and however stored."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from kernomics.data.csr import Rows, require_inside, require_pointers
from kernomics.data.rng import Stream, draws_of_names
from kernomics.ops._native import cpu

Words = npt.NDArray[np.uint64]

_ODD = np.uint64(0x9E37_79B9_7F4A_7C15)
_FIRST, _SECOND = np.uint64(0xBF58_476D_1CE4_E5B9), np.uint64(0x94D0_49BB_1331_11EB)


class CellDigest:
    """The sum of a word for each cell, modulo 2⁶⁴, beside their number.

    A cell's word comes from its name and the sum over its non-zeros of a word of the gene's name
    and the count. So neither the order of cells or genes matters, nor genes without counts; a cell
    that is lost, there twice, or changed in its name or one count changes it.

    Parameters
    ----------
    genes
        Names, in the order of the columns.
    """

    def __init__(self, genes: Iterable[object]) -> None:
        self.genes = draws_of_names(genes, 0, Stream.DIGEST_GENES)
        self.n_cells, self.total = 0, 0

    def words(self, rows: Rows, names: Iterable[object]) -> Words:
        """Return the word of each cell, uint64 [n]; the rows are canonical.

        Raises
        ------
        DataError
            If they name genes or entries that there are not.
        """
        require_pointers(rows.indptr, rows.indices.size, rows.values.size, len(rows), "the batch")
        require_inside(rows.indices, self.genes.size, "the batch", "genes")
        indptr = np.ascontiguousarray(rows.indptr, np.int64)
        indices = np.ascontiguousarray(rows.indices, np.int32)
        values = np.ascontiguousarray(rows.values, np.float32)
        sums = np.empty(len(rows), np.uint64)
        cpu().row_words(
            len(rows), indptr.ctypes.data, indices.ctypes.data, values.ctypes.data,
            self.genes.ctypes.data, sums.ctypes.data,
        )  # fmt: skip
        with np.errstate(over="ignore"):
            return _mixed(sums + draws_of_names(names, 0, Stream.DIGEST_CELLS) * _ODD)

    def add(self, rows: Rows, names: Iterable[object]) -> None:
        """Add cells, whose rows are canonical."""
        words = self.words(rows, names)
        self.n_cells += words.size
        self.total = (self.total + int(np.add.reduce(words, dtype=np.uint64))) % (1 << 64)

    def __str__(self) -> str:
        return f"{self.n_cells}-{self.total:016x}"


def _mixed(words: Words) -> Words:
    """Return the words' images under SplitMix64's bijection, in which every bit tells."""
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))
