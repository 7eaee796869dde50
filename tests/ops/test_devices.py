"""Every tensor that an op takes must be on the device of the others, or the error names it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from problems.calls import CALLS, UNREAD
from torch import Tensor

from kernomics import ops
from kernomics.ops import ObservedGenes

Change = Callable[[Tensor], Tensor]


def tensors(call: dict[str, Any]) -> Iterator[tuple[str, Callable[[Change], dict[str, Any]]]]:
    """Name each tensor of a call, with a function that makes the call with it changed."""
    for name, value in call.items():
        if isinstance(value, Tensor):
            yield name, lambda f, n=name, v=value: call | {n: f(v)}
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                part, full = getattr(value, field.name), f"{name}.{field.name}"
                if isinstance(part, Tensor) and full not in UNREAD:
                    yield (
                        full,
                        lambda f, n=name, v=value, i=field.name, p=part: (
                            call | {n: dataclasses.replace(v, **{i: f(p)})}
                        ),
                    )


CASES = [
    pytest.param(op, call, name, changed, id=f"{op}-{i}-{name}")
    for op, calls in CALLS.items()
    for i, call in enumerate(calls)
    for name, changed in tensors(call)
]


def test_the_table_holds_every_op_and_every_tensor_that_it_takes() -> None:
    public = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    assert set(CALLS) == public - {"build_info"}
    for name, calls in CALLS.items():
        takes = {
            parameter.name
            for parameter in inspect.signature(getattr(ops, name)).parameters.values()
            if re.search(
                r"Tensor|SparseRows|ObservedGenes|ObservedGenes", str(parameter.annotation)
            )
        }
        given = {key for call in calls for key, value in call.items() if value is not None}
        assert takes <= given, f"{name}: {takes - given}"


@pytest.mark.parametrize("op", CALLS)
def test_the_calls_work_as_they_are(op: str) -> None:
    for call in CALLS[op]:
        found = getattr(ops, op)(**call)
        for tensor in found if isinstance(found, tuple) else (found,):
            assert tensor.isfinite().all()


@pytest.mark.parametrize(("op", "call", "name", "changed"), CASES)
def test_a_tensor_elsewhere_is_named(
    op: str, call: dict[str, Any], name: str, changed: Any
) -> None:
    if sum(1 for _ in tensors(call)) == 1:
        pytest.skip("the only tensor is nowhere else")
    with pytest.raises(ValueError, match="; move one of them") as error:
        getattr(ops, op)(**changed(lambda t: t.to("meta")))
    message = str(error.value)
    assert "meta" in message
    assert "cpu" in message
    argument, _, part = name.partition(".")
    words = {"indptr": "row pointers", "indices": "columns"}
    assert argument in message
    if argument == "observed" or part in words:
        assert words.get(part, name) in message


def test_the_table_of_panels_is_the_ops_own() -> None:
    """`UNREAD` names real fields, so that a new one of ObservedGenes is not left out by it."""
    names = {f"observed.{field.name}" for field in dataclasses.fields(ObservedGenes)}
    assert names >= UNREAD
