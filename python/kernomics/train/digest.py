"""Digests of the cells of an epoch: whether two trainings saw the same, in the same order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernomics._mixing import mixed

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ALL = 2**64 - 1


@dataclass
class CellDigest:
    """Digests of cell ids, sums over the cells of words mixed from the ids.

    They depend neither on how the cells are cut into batches nor on where a run was stopped, and
    sums of parts are the whole's.

    Attributes
    ----------
    cells
        How many came.
    in_order
        Of the ids and the place at which each came.
    any_order
        Of the ids alone, each as many times as it came.
    """

    cells: int = 0
    in_order: int = 0
    any_order: int = 0

    def add(self, ids: npt.NDArray[np.int64], start: int = 0, whole: int | None = None) -> None:
        """Add the ids of the cells that come next, or of those from `start` on of the `whole`."""
        begin = self.cells + start
        places = np.arange(begin, begin + len(ids), dtype=np.uint64)
        words = mixed(ids.astype(np.uint64) + _GOLDEN)
        any_order = int(words.sum(dtype=np.uint64))
        words = mixed(words + places * _GOLDEN)
        whole = len(ids) if whole is None else whole
        self.join(whole, int(words.sum(dtype=np.uint64)), any_order)

    def join(self, cells: int, in_order: int, any_order: int) -> None:
        """Add the sums over the cells that come next."""
        self.cells += cells
        self.in_order = (self.in_order + in_order) & _ALL
        self.any_order = (self.any_order + any_order) & _ALL

    def figures(self) -> dict[str, str]:
        """Return the digests as the history names them, 16 hexadecimal digits each."""
        return {
            "cells_in_order": f"{self.in_order:016x}",
            "cells_any_order": f"{self.any_order:016x}",
        }
