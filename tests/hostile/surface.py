"""Every public callable of the package, found by looking: no list to forget one in."""

from __future__ import annotations

import enum
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import kernomics as kn

# What a class inherits or a decorator writes is not its own.
WRITTEN_BY_OTHERS = {"load_state_dict", "state_dict", "extra_repr", "forward", "backward"}


def modules() -> dict[str, ModuleType]:
    """Return the public modules by their name inside the package, those of packages too."""
    names = [name for name in kn.__all__ if not name.startswith("_")]
    found = {name: importlib.import_module(f"kernomics.{name}") for name in names}
    for name in ("evaluation",):  # its public names are modules
        package = found.pop(name)
        found |= {f"{name}.{inner}": getattr(package, inner) for inner in package.__all__}
    return found


def public_names(module: ModuleType) -> list[str]:
    """Return ``__all__``, or what the module itself defines and does not hide."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, item in vars(module).items()
        if not name.startswith("_")
        and callable(item)
        and getattr(item, "__module__", "") == module.__name__
    ]


def callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield ``"metrics.accuracy"``, ``"models.YOTO"``, ``"models.YOTO.train"`` and so on."""
    for home, module in modules().items():
        for name in public_names(module):
            item = getattr(module, name)
            if inspect.isclass(item):
                if issubclass(item, enum.Enum) or getattr(item, "_is_protocol", False):
                    continue
                if typing.is_typeddict(item):
                    continue
                yield f"{home}.{name}", item
                for method, found in methods(item):
                    yield f"{home}.{name}.{method}", found
            elif callable(item) and typing.get_origin(item) is None:  # no alias of types
                yield f"{home}.{name}", item


def methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public methods that the package defines and that take something."""
    for name, found in inspect.getmembers(kind, callable):
        home = getattr(found, "__module__", None) or ""
        if name.startswith("_") or name in WRITTEN_BY_OTHERS or not home.startswith("kernomics"):
            continue
        if inspect.isclass(found):
            continue
        if parameters(found, bound=isinstance(vars(kind).get(name), (classmethod, staticmethod))):
            yield name, found


def parameters(item: Callable[..., Any], *, bound: bool = True) -> dict[str, inspect.Parameter]:
    """Return what a caller passes by name, ``self`` and ``**overrides`` left out."""
    found = dict(inspect.signature(item).parameters)
    if not bound or (not inspect.isclass(item) and next(iter(found), "") == "self"):
        found.pop("self", None)
    return {name: p for name, p in found.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
