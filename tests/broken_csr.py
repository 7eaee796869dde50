"""Compressed sparse rows that hypothesis draws and breaks, and what they mean if they mean a thing.

Rows have a meaning if their pointers ascend within what is stored and each row's columns lie inside
the matrix and ascend, whatever lies between and after the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st

EXTREME = [-(2**63), -(2**31), -7, -1, 0, 1, 2, 3, 7, 11, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1]
INTEGERS = [np.int32, np.int64]
OTHERS = [np.int8, np.uint8, np.int16, np.uint64, np.float32, np.float64, np.bool_, np.complex64]


@dataclass
class Csr:
    """Arrays as they are: whatever is wrong with them stays wrong."""

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    def rows(self, *, ascending: bool = True, spare: bool = False) -> np.ndarray | None:
        """Return the dense matrix, float64; None where there is none.

        Without `ascending`, the columns of a row may stand in any order, each once; with `spare`,
        there may be more columns or values than rows need.
        """
        n, genes = self.shape
        indptr, indices, values = self.indptr, self.indices, self.values
        if any(part.ndim != 1 for part in (indptr, indices, values)):
            return None
        if indptr.size != n + 1 or (indices.size != values.size and not spare):
            return None
        if indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
            return None
        if values.dtype.kind not in "buif":
            return None
        ends, columns = indptr.tolist(), indices.tolist()
        dense = np.zeros(self.shape)
        for row, (a, b) in enumerate(pairwise(ends)):
            if not 0 <= a <= b <= min(len(columns), values.size):
                return None
            own = columns[a:b]
            if any(not 0 <= column < genes for column in own) or len(set(own)) < len(own):
                return None
            if ascending and sorted(own) != own:
                return None
            dense[row, own] = values[a:b]
        return dense


@st.composite
def sound(draw: Any, *, counts: bool = False) -> Csr:
    """Rows as they should be, some of them empty."""
    n, genes = draw(st.integers(0, 5)), draw(st.integers(0, 9))
    rows = [sorted(draw(st.sets(st.integers(0, genes - 1)))) if genes else [] for _ in range(n)]
    indices = [column for row in rows for column in row]
    numbers = st.integers(1, 9) if counts else st.integers(-4, 9)
    values = draw(st.lists(numbers, min_size=len(indices), max_size=len(indices)))
    index, pointer = draw(st.sampled_from(INTEGERS)), draw(st.sampled_from(INTEGERS))
    kind = draw(st.sampled_from([np.float32, np.float64]))
    return Csr(
        np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(pointer),
        np.array(indices, index),
        np.array(values, kind),
        (n, genes),
    )


def _within(value: int, dtype: np.dtype) -> Any:
    if dtype.kind not in "iu":
        return value
    info = np.iinfo(dtype)
    return min(max(value, int(info.min)), int(info.max))


@st.composite
def broken(draw: Any, *, counts: bool = False) -> Csr:
    """Rows to which up to three things were done, any of which may leave them sound."""
    x = draw(sound(counts=counts))
    for _ in range(draw(st.integers(0, 3))):
        what = draw(st.sampled_from(["indptr", "indices", "values"]))
        array = getattr(x, what)
        how = draw(st.sampled_from(["set", "set", "set", "swap", "cut", "add", "dtype", "matrix"]))
        if how == "set" and array.size:
            number = draw(st.sampled_from(EXTREME) if what != "values" else st.integers(-9, 9))
            array = array.copy()
            array[draw(st.integers(0, array.size - 1))] = _within(number, array.dtype)
        elif how == "swap" and array.size > 1:
            a, b = (draw(st.integers(0, array.size - 1)) for _ in range(2))
            array = array.copy()
            array[[a, b]] = array[[b, a]]
        elif how == "cut" and array.size:
            array = array[: draw(st.integers(0, array.size - 1))]
        elif how == "add":
            array = np.append(array, array[-1:] if array.size else array.dtype.type(0))
        elif how == "dtype":
            with np.errstate(all="ignore"):
                array = array.real.astype(draw(st.sampled_from([*INTEGERS, *OTHERS])))
        elif how == "matrix":
            array = array.reshape(-1, 1)
        setattr(x, what, array)
    return x
