"""Hostile values, and which of them a parameter may take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd


class Thing:
    """Something that no function takes."""

    def __repr__(self) -> str:
        return "a thing"


SCALARS: dict[str, Any] = {
    "nothing": None,
    "a word": "no such",
    "an empty string": "",
    "a number": 3,
    "a fraction": 0.3,
    "minus one": -1,
    "zero": 0,
    "huge": 10**12,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "a truth": True,
    "an empty list": [],
    "a list": [1, "a"],
    "a mapping": {"a": 1},
    "a thing": Thing(),
    "a table": pd.DataFrame({"a": [1.0, 2.0]}),
    "a mask": np.array([True, False, True]),
    "an empty array": np.empty(0),
    "words": np.array(["x", "y"]),
    "a cube": np.zeros((2, 2, 2)),
}
# Takers of whole numbers would begin on work without end.
ENDLESS = {"huge"}


def spoilt(good: Any, *, array_taken: bool) -> Iterator[tuple[str, Any]]:
    """Yield an array (or list) as it should be but for one thing."""
    if not isinstance(good, np.ndarray | list | tuple):
        return
    try:
        array = np.asarray(good)
    except ValueError:
        return
    if array.ndim == 0 or not len(array) or array.dtype.kind not in "biufOU":
        return
    yield "one too few", array[:-1]
    yield "one too many", np.concatenate([array, array[-1:]])
    yield "one dimension more", array[..., None]
    yield "words in place of numbers", np.full(array.shape, "x", dtype=object)
    if array.dtype.kind == "f":
        for name, value in (("a NaN inside", np.nan), ("an infinity inside", np.inf)):
            other = array.copy()
            other.flat[0] = value
            yield name, other
    if array.dtype.kind in "iu":
        # A network of a milliard units is legal, and would be made.
        beyond = (("beyond the end", 10**9),) if array_taken else ()
        for name, value in (("a negative inside", -7), *beyond):
            other = array.copy()
            other.flat[0] = value
            yield name, other
        yield "fractions", array + 0.5
