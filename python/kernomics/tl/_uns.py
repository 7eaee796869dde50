"""What results in `.uns` are made of: things that an h5ad file can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd


def names(values: Iterable[str]) -> Any:
    """Return names as an object array [n]."""
    return np.array(list(values), dtype=object)


def without_none(params: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out settings left open: h5ad holds no None."""
    return {name: value for name, value in params.items() if value is not None}


def table(rows: Any, columns: list[str] | None = None) -> pd.DataFrame:
    """Return a table whose index is made of words, as h5ad wants it."""
    found = pd.DataFrame(rows, columns=columns)
    return found.set_axis(found.index.astype(str))
