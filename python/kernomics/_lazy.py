"""Names of a package that are imported when first asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence


def later(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a package's ``__getattr__``: so a part of it needs only what that part imports."""

    def __getattr__(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    _list(package, homes)
    return __getattr__


def parts(package: str, names: Sequence[str]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package whose public names are its modules."""

    def __getattr__(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    _list(package, names)
    return __getattr__


def _list(package: str, names: Iterable[str]) -> None:
    """Let ``dir()``, and so completion, show the names before they are imported."""
    module = sys.modules[package]
    vars(module)["__dir__"] = lambda: sorted({*vars(module), *names})
