"""Every public callable meets hostile arguments with a named error or a right result."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kernomics
from hostile import doors, good, good_attribution, good_data, good_gil, good_models, good_nn
from hostile.good import NOT_WALKED
from hostile.surface import callables, parameters
from hostile.values import ENDLESS, SCALARS, spoilt
from kernomics.errors import KernomicsError

HOME = str(Path(kernomics.__file__).parent)
SURFACE = dict(callables())
HOMES = (good, good_attribution, good_data, good_gil, good_models, good_nn)
SLOW = {**doors.SLOW, **good_attribution.SLOW, **good_gil.SLOW}
GOOD = {key: made for home in HOMES for key, made in home.GOOD.items()}
INSTANCES = {key: made for home in (*HOMES, doors) for key, made in home.INSTANCES.items()}
UNFIT = good.UNFIT | good_models.UNFIT | good_attribution.UNFIT | good_gil.UNFIT


def call(key: str, arguments: dict[str, Any]) -> Any:
    home, _, method = key.rpartition(".")
    if home in INSTANCES:
        found = getattr(INSTANCES[home](), method)(**arguments)
    else:
        found = SURFACE[key](**arguments)
    return next(found, None) if hasattr(found, "__next__") else found  # an iterator waits


def hostile(parameter: inspect.Parameter, good: Any) -> Iterator[tuple[str, Any]]:
    for kind, value in SCALARS.items():
        if kind not in ENDLESS:
            yield kind, value
    yield from spoilt(good, array_taken="Array" in str(parameter.annotation))


def fault(key: str, name: str, kind: str, arguments: dict[str, Any]) -> str | None:
    """Say what is wrong with the outcome of one call; None when all is well."""
    call_of = f"{key}({name}={kind})"
    try:
        call(key, arguments)
    except KernomicsError:
        return None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = frames[-1].filename.startswith(HOME)
        if own and type(error) in (ValueError, TypeError) and name in str(error):
            return None
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        return f"{call_of}: {type(error).__name__} from {where}: {str(error)[:90]}"
    if (key, name, kind) not in LEGAL and taken_wrongly(SURFACE[key], name, kind):
        return f"{call_of} is taken without a word"
    return None


# What no parameter of these kinds may be; what else is taken may be meant.
NEVER = {
    "int": {"nothing", "a word", "an empty string", "a fraction", "NaN", "infinity", "a truth",
            "an empty list", "a list", "a mapping", "a thing", "a table", "a mask", "words"},
    "float": {"nothing", "a word", "an empty string", "NaN", "infinity", "a truth", "an empty list",
              "a list", "a mapping", "a thing", "a table", "a mask", "words"},
    "str": {"nothing", "a number", "a fraction", "a list", "a mapping", "a thing", "a table"},
    "bool": {"nothing", "a word", "a number", "a list", "a thing", "a table", "NaN"},
    "ArrayLike": {"a word", "an empty string", "a mapping", "a thing", "words", "one too few",
                  "words in place of numbers"},
}  # fmt: skip
# Names of any kind tell batches and perturbations apart; arrays that no other has to fit.
LEGAL = {
    ("metrics.align", "batches", "words in place of numbers"),
    ("metrics.structural_integrity", "batches", "words in place of numbers"),
    ("pl.activation", "z", "one too few"),
    ("evaluation.panels.contributions", "rows", "one too few"),
    ("evaluation.panels.contributions", "background_rows", "one too few"),
    ("evaluation.panels.redundancy", "rows", "one too few"),
    ("data.select_cells", "rows", "one too few"),
    ("data.Sampler", "rows", "one too few"),
    ("models.CellEncoder.get_latent_representation", "rows", "one too few"),
    ("models.CellEncoder.get_block_representations", "rows", "one too few"),
    ("models.CellEncoder.get_normalized_expression", "rows", "one too few"),
    ("models.ExpressionModel.get_latent_representation", "rows", "one too few"),
    ("models.ExpressionModel.predict", "rows", "one too few"),
    ("models.PhenotypeModel.get_latent_representation", "rows", "one too few"),
    ("models.PhenotypeModel.probabilities", "rows", "one too few"),
}


def never(item: Any, name: str) -> set[str]:
    """Return the kinds of values that a parameter may never be; none where that is not known."""
    hint = str(parameters(item)[name].annotation)
    parts = {part.strip() for part in hint.split("|")}
    if not parts - {"None"} <= set(NEVER):
        return set()
    found = set.intersection(*(NEVER[part] for part in parts - {"None"}))
    return found - {"nothing"} if "None" in parts else found


def taken_wrongly(item: Any, name: str, kind: str) -> bool:
    return kind in never(item, name)


def test_every_public_callable_is_walked_or_said_not_to_be() -> None:
    elsewhere = {key for keys in NOT_WALKED.values() for key in keys}
    new = [
        key
        for key, item in SURFACE.items()
        if key not in GOOD
        and key not in SLOW
        and key not in elsewhere
        and parameters(item)
        # A dataclass that is no setting is a result: the package makes it.
        and not (dataclasses.is_dataclass(item) and not key.endswith("Config"))
    ]
    assert not new, f"give a good call of each in tests/hostile/good.py: {new}"
    gone = sorted((elsewhere | set(GOOD) | set(SLOW)) - set(SURFACE))
    assert not gone, f"these are no public callables any more: {gone}"
    assert not elsewhere & (set(GOOD) | set(SLOW))
    assert not set(GOOD) & set(SLOW)


@pytest.mark.parametrize("key", sorted(GOOD))
def test_hostile_arguments_meet_a_named_error_or_a_right_result(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a word is a path to some
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if key not in UNFIT:
            call(key, GOOD[key]())
        faults = []
        for name, parameter in parameters(SURFACE[key]).items():
            good = GOOD[key]().get(name, parameter.default)
            for kind, value in hostile(parameter, good):
                found = fault(key, name, kind, {**GOOD[key](), name: value})
                if found is not None:
                    faults.append(found)
            if matplotlib := sys.modules.get("matplotlib.pyplot"):
                matplotlib.close("all")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)


@pytest.mark.parametrize("key", sorted(SLOW))
def test_a_slow_call_refuses_at_the_door_what_no_such_parameter_may_be(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        faults = [
            found
            for name in parameters(SURFACE[key])
            for kind in sorted(never(SURFACE[key], name))
            if kind in SCALARS
            for found in [fault(key, name, kind, {**SLOW[key](), name: SCALARS[kind]})]
            if found is not None
        ]
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
