"""The door of the ops: what no kernel could read is named before anything looks inside it.

Each check is an isinstance or two, so that a call stays a matter of microseconds and torch's
compiler can follow.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

PARTS = ("indptr", "indices", "values", "shape")
WHOLE = (int, torch.SymInt, numbers.Integral)
REAL = (int, float, torch.SymInt, torch.SymFloat, numbers.Real)


def shown(value: Any) -> str:
    """Return a value as a message shows it, on one short line."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def require_tensors(**given: Tensor | None) -> None:
    """Raise ``TypeError`` unless each is a tensor, or None where a caller may leave it out."""
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name} is {shown(value)}; a torch.Tensor is needed")


def require_given(**given: Tensor) -> None:
    """Raise ``TypeError`` unless each is a tensor."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is {shown(value)}; a torch.Tensor is needed")


def require_rows(name: str, value: Any) -> None:
    """Raise ``TypeError`` unless it is a tensor, or has the parts of `SparseRows`."""
    if not isinstance(value, Tensor) and not all(hasattr(value, part) for part in PARTS):
        raise TypeError(
            f"{name} is {shown(value)}; a torch.Tensor or compressed sparse rows "
            f"({', '.join(PARTS)}) are needed"
        )


def require_observed(observed: Any) -> None:
    """Raise ``TypeError`` unless it is None, or has the table of `ObservedGenes`."""
    if observed is not None and not isinstance(getattr(observed, "mask", None), Tensor):
        raise TypeError(
            f"observed is {shown(observed)}; kernomics.ops.ObservedGenes are needed, such as "
            "ObservedGenes.from_lists makes them"
        )


def require_integers(**given: Any) -> None:
    """Raise ``TypeError`` unless each is an integer."""
    for name, value in given.items():
        if not isinstance(value, WHOLE) or isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} is {shown(value)}; an integer is needed")


def require_numbers(**given: Any) -> None:
    """Raise ``TypeError`` unless each is a number or a tensor, whose shape the op looks at."""
    for name, value in given.items():
        if isinstance(value, float | Tensor):
            continue
        if not isinstance(value, REAL) or isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} is {shown(value)}; a number is needed")


def require_words(**given: str) -> None:
    """Raise ``TypeError`` unless each is a text."""
    for name, value in given.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} is {shown(value)}; a text is needed")


def require_truths(**given: bool) -> None:
    """Raise ``TypeError`` unless each is true or false."""
    for name, value in given.items():
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} is {shown(value)}; true or false is needed")


def integers_of(name: str, values: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return a list of integers as int64 [n].

    Raises
    ------
    TypeError, ValueError
        If it is no list of one dimension, or holds something else.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        found = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        raise ValueError(f"{name} is {shown(values)}; a list of integers is needed") from None
    if found.ndim != 1:
        raise ValueError(f"{name} is {shown(values)}; a list of integers is needed")
    if found.size and found.dtype.kind not in "iu":
        raise TypeError(f"{name} holds {found.dtype}; integers are needed")
    return found.astype(np.int64, copy=False)


def device_of(device: Any) -> torch.device:
    """Return a device by its name; raise ``ValueError`` for what names none."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device is {shown(device)}; give a torch.device or its name, such as 'cpu' or 'cuda'"
        ) from None


def require_lists(name: str, value: Any) -> None:
    """Raise ``TypeError`` unless it is a list of lists, or of arrays."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"{name} is {shown(value)}; a list with one list of genes each is needed")
