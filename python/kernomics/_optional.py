"""Imports of optional packages, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def require_extra(module: str, *, purpose: str, extra: str = "report") -> Any:
    """Import an optional module."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f"{purpose} needs the package '{package}', which is not installed; "
            f"install it with: pip install 'kernomics[{extra}]'"
        ) from error


@contextmanager
def keep_torch_threads() -> Iterator[None]:
    """Leave torch's number of threads as it was found.

    numba, which scanpy calls, sets OpenMP's number of threads for the whole process when its
    first parallel function starts. Torch shares that setting, and on small batches two threads
    that were never asked for cost four times the processor time of one.
    """
    n_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
