"""Names of a package that are imported when first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence


def later(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a package's ``__getattr__``: so a part of it needs only what that part imports."""

    def __getattr__(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return __getattr__


def parts(package: str, names: Sequence[str]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package whose public names are its modules."""

    def __getattr__(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    return __getattr__
