"""The door of every public function: arguments are of the kinds that their annotations say.

What is checked here is the kind alone (a whole number, a finite number, one of some words, a list
of names, an array), so that a function's own checks, of ranges and of shapes, meet nothing else.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import itertools
import math
import numbers
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from kernomics.errors import ConfigError, DataError, KernomicsError, closest

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

P = ParamSpec("P")
R = TypeVar("R")
Check = Callable[[str, Any], None]
SHOWN = 60  # characters of a value in a message


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the kinds of a function's arguments by its annotations before it is called.

    An annotation that says nothing (``Any``), or that names what is not imported when the program
    runs, is not checked: the function does it.
    """
    parameters = inspect.signature(function).parameters
    places = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    checks: dict[str, Check] | None = None

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal checks
        if checks is None:
            checks = _checks_of(parameters, function)
        # What does not fit the function's parameters, Python says, of the function itself.
        for name, value in itertools.chain(zip(places, args, strict=False), kwargs.items()):
            if name in checks and value is not defaults[name]:
                checks[name](name, value)
        return function(*args, **kwargs)

    return inner


def require_least(least: int, **given: int) -> None:
    """Raise ConfigError unless each number is at least so large."""
    for name, value in given.items():
        if value < least:
            raise ConfigError(f"{name} is {value}: at least {least} is needed")


def require_rate(**given: float) -> None:
    """Raise ConfigError unless each number is a rate, from 0 to below 1."""
    for name, value in given.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{name} is {value}: it is a rate, from 0 to below 1")


def check_fields(settings: Any) -> None:
    """Check the kinds of a dataclass's fields; for its ``__post_init__``."""
    kind = type(settings)
    for name, check in _checks_of(inspect.signature(kind).parameters, kind).items():
        check(name, getattr(settings, name))


def _checks_of(parameters: Mapping[str, inspect.Parameter], owner: Any) -> dict[str, Check]:
    """Return the check of each parameter whose annotation says something."""
    namespace = vars(sys.modules[owner.__module__])
    found: dict[str, Check] = {}
    for name, parameter in parameters.items():
        hint = parameter.annotation
        if hint is parameter.empty or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            continue
        if isinstance(hint, str):
            if "AnnData" in hint:
                continue  # whatever people hand over as cells: see kernomics.data.readers.inputs
            kinds = hint.split(" | ")
            several = len(kinds) > 1 and not {"ArrayLike", "None"}.issuperset(kinds)
            if "ArrayLike" in hint and several:
                continue  # an array or the name of one: the function tells them apart
            try:
                hint = eval(hint, {}, _Names(namespace))
            except (NameError, TypeError):  # imported, or in brackets, for the type checker alone
                continue
        if (check := _check_of(hint)) is not None:
            found[name] = check
    return found


# ---- arrays --------------------------------------------------------------------------------------


def numbers_of(name: str, values: Any) -> NDArray[np.float64]:
    """Return an array as float64, or say that what it holds are no numbers."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name} is {shown(values)}, which does not contain numbers") from None


def rows_of(
    name: str, values: Any, n: int, *, least: int = 1, what: str = "cells"
) -> NDArray[np.int64]:
    """Return which of n rows are named, by number or by a mask over all of them, int64 [m]."""
    given, one = np.asarray(values), what[:-1]
    if given.dtype == bool:
        if given.shape != (n,):
            raise DataError(
                f"{name} are a mask of shape {given.shape} for {n:,} {what}: give one value for "
                f"each {one}, or the {what}' numbers"
            )
        given = np.flatnonzero(given)
    if given.ndim > 1:
        raise DataError(f"{name} have shape {given.shape}: give one list of numbers, or a mask")
    given = given.reshape(-1)
    if given.size < least:
        raise DataError(f"{name} names no {one}; at least one is needed")
    if given.size and given.dtype.kind not in "iu":
        raise DataError(
            f"{name} are of type {given.dtype}, first {given[0]!r}: give the {what}' numbers as "
            "integers, or a mask of bool"
        )
    wrong = np.flatnonzero((given < 0) | (given >= n)) if given.size else given
    if wrong.size:
        raise DataError(
            f"{name} {given.min():,} … {given.max():,} were asked for, but there are {n:,} {what}, "
            f"counted from 0: {wrong.size:,} of the {given.size:,} {name} do not exist, first "
            f"{given[wrong[0]]:,}"
        )
    return given.astype(np.int64, copy=True)


def columns_of(name: str, values: Any) -> NDArray[np.int64]:
    """Return a list of integers as int64 [k], or say what it is instead."""
    try:
        given = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        raise DataError(f"{name} is {shown(values)}: a list of integers is needed") from None
    if given.ndim != 1:
        raise DataError(f"{name} is {shown(values)}: a list of integers is needed")
    if given.size and given.dtype.kind not in "iu":
        raise DataError(f"{name} holds {given.dtype}: integers are needed")
    return given.astype(np.int64, copy=False)


def words_of(name: str, values: Any) -> list[str]:
    """Return a list of names; none for None, one for a text."""
    if values is None:
        return []
    if isinstance(values, str):
        return [values]
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} is {shown(values)}: it must be a name or a list of names")
    found = list(values)
    for i, one in enumerate(found):
        if not isinstance(one, str):
            raise ConfigError(f"{name}[{i}] is {shown(one)}: it must be a name")
    return [str(one) for one in found]


def matrix_of(name: str, values: Any) -> csr_matrix:
    """Return counts [cells, genes], dense or sparse, as a copy in CSR float64, all finite."""
    from scipy import sparse

    if not sparse.issparse(values):
        values = numbers_of(name, values)
    if values.ndim != 2:
        raise DataError(f"{name} must have shape [cells, genes], found {tuple(values.shape)}")
    try:
        matrix = sparse.csr_matrix(values, dtype=np.float64, copy=True)
    except (TypeError, ValueError):
        raise DataError(f"{name} is {shown(values)}, which does not contain numbers") from None
    wrong = np.flatnonzero(~(np.isfinite(matrix.data) & (matrix.data >= 0)))
    if wrong.size:
        first = int(np.searchsorted(matrix.indptr, wrong[0], side="right")) - 1
        raise DataError(
            f"{name} holds {wrong.size:,} values that are negative or not finite, first "
            f"{matrix.data[wrong[0]]} in row {first:,}; raw counts are needed"
        )
    return matrix


def codes_of(name: str, values: Any) -> NDArray[np.int64]:
    """Return integer codes [n] as int64, or say what they are instead."""
    try:
        codes = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        raise DataError(f"{name} is {shown(values)}: one code for each cell is needed") from None
    if codes.ndim != 1:
        raise DataError(f"{name} must have one dimension [cells], found shape {codes.shape}")
    if codes.size and codes.dtype.kind not in "iu":
        raise DataError(
            f"{name} must hold integer class codes, found dtype {codes.dtype}; "
            "for names, take the codes of pandas.Categorical(names, categories)"
        )
    return codes.astype(np.int64, copy=False)


class _Stub:
    """Stands for a class that is imported for the type checker alone."""


class _Names(dict[str, Any]):
    """A module's names, and stubs of classes that are known by their name."""

    def __missing__(self, name: str) -> Any:
        if name in _BY_NAME:
            return type(name, (_Stub,), {})
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise NameError(name)


_BY_NAME = {  # classes that modules import for the type checker alone
    "AnnData", "Attribution", "Axes", "CellCollection", "Contributions", "Labels", "Panel",
    "PanelCurve", "PanelEmbedding", "PerturbationConsistency", "PerturbationScores", "Pruning",
    "Redundancy", "Split", "Stability",
}  # fmt: skip


# ---- one check for each kind ---------------------------------------------------------------------


def _check_of(hint: Any) -> Check | None:
    """Return the check that a hint stands for; None when it says nothing."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        names = {getattr(typing.get_origin(one), "__name__", "") for one in inner}
        if "_SupportsArray" in names:  # numpy's ArrayLike, with or without None
            return functools.partial(_array, type(None) in inner, True)
        return _any_of(inner)
    if origin is Literal:
        return functools.partial(_choice, inner)
    if origin is np.ndarray:
        return functools.partial(_array, False, False)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is not None and isinstance(origin, type):
        if issubclass(origin, Mapping):
            return functools.partial(_instance, Mapping, "a mapping of names")
        if issubclass(origin, Sequence) or origin in (Iterable, Collection):
            element = _check_of(inner[0]) if inner and inner[0] is not Ellipsis else None
            return functools.partial(_sequence, element)
        if origin.__name__ == "Callable":
            return functools.partial(_instance, Callable, "a function")
        return None
    if isinstance(hint, type) and issubclass(hint, _Stub):
        return functools.partial(_like, hint.__name__)
    if (
        isinstance(hint, type)
        and hint not in (object, Any)
        and not getattr(hint, "_is_protocol", False)
    ):
        return functools.partial(_instance, hint, f"a {hint.__name__}")
    return None


def _any_of(hints: Collection[Any]) -> Check | None:
    """Return a check that a value passes when it passes that of one of some hints."""
    own = [hint for hint in hints if hint is not type(None)]
    optional = len(own) < len(hints)
    checks = [_check_of(hint) for hint in own]
    if any(check is None for check in checks):
        return None
    known = [check for check in checks if check is not None]

    def check(name: str, value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, str) and not value and Path in own:
            raise ConfigError(f"{name} is an empty string: a path is needed")
        said: list[KernomicsError] = []
        for one in known:
            try:
                return one(name, value)
            except KernomicsError as error:
                said.append(error)
        choices = [i for i, hint in enumerate(own) if typing.get_origin(hint) is Literal]
        if len(said) == 1 or (isinstance(value, str) and choices):
            raise said[choices[0] if choices else 0]
        # The whole list of kinds is of more use than the first one's complaint.
        needed = " or ".join(_named(hint) for hint in own)
        raise type(said[0])(f"{name} is {shown(value)}: it must be {needed}")

    return check


def _lists(element: Check | None) -> str:
    kinds: dict[Check, str] = {
        _whole: "a list of integers",
        _finite: "a list of numbers",
        _text: "a list of names",
    }
    return "a list" if element is None else kinds.get(element, "a list")


def _named(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _lists(_check_of(inner[0]) if inner else None)
    return _NAMES.get(hint) or str(getattr(hint, "__name__", hint))


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, on one line."""
    if isinstance(value, np.ndarray) or hasattr(value, "iloc"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _whole(name: str, value: Any) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise ConfigError(f"{name} is {shown(value)}: it must be an integer")


def _finite(name: str, value: Any) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise ConfigError(f"{name} is {shown(value)}: it must be a number")
    if not math.isfinite(value):
        raise ConfigError(f"{name} is {value}: it must be a finite number")


def _truth(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name} is {shown(value)}: it must be true or false")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {shown(value)}: it must be a string")


def _path(name: str, value: Any) -> None:
    if not isinstance(value, Path):
        raise ConfigError(f"{name} is {shown(value)}: it must be a path")


def _choice(options: tuple[Any, ...], name: str, value: Any) -> None:
    if not any(type(value) is type(option) and value == option for option in options):
        near = closest(value, options) if isinstance(value, str) else ""
        near = f"{near}; " if near.startswith("closest") else ""
        words = ", ".join(map(str, options))
        raise ConfigError(f"{name} is {shown(value)}; {near}it must be one of {words}")


def _instance(kind: Any, what: str, name: str, value: Any) -> None:
    fits = callable(value) if kind is Callable else isinstance(value, kind)
    if kind is Mapping:  # a Series maps names, too
        fits = fits or (hasattr(value, "items") and getattr(value, "ndim", 0) == 1)
    if not fits:
        raise ConfigError(f"{name} is {shown(value)}: it must be {what}")


def _like(kind: str, name: str, value: Any) -> None:
    if all(parent.__name__ != kind for parent in type(value).__mro__):
        raise ConfigError(f"{name} is {shown(value)}: it must be an object of class {kind}")


def _sequence(element: Check | None, name: str, value: Any) -> None:
    if (
        isinstance(value, str | bytes | Mapping)
        or not isinstance(value, Iterable)
        or getattr(value, "ndim", 1) != 1
    ):
        raise ConfigError(f"{name} is {shown(value)}: it must be {_lists(element)}")
    if element is not None and isinstance(value, Collection):
        for i, item in enumerate(value):
            element(f"{name}[{i}]", item)


def _array(optional: bool, numbers_too: bool, name: str, value: Any) -> None:
    if value is None and optional:
        return
    if isinstance(value, str | bytes | Mapping) or not (
        (numbers_too and isinstance(value, numbers.Number))
        or hasattr(value, "__len__")
        or hasattr(value, "shape")
    ):
        raise DataError(f"{name} is {shown(value)}: an array is needed")


_SCALARS: dict[Any, Check] = {
    int: _whole, float: _finite, bool: _truth, str: _text, Path: _path,
}  # fmt: skip
_NAMES: dict[Any, str] = {
    int: "an integer", float: "a number", bool: "true or false", str: "a string", Path: "a path",
}  # fmt: skip
