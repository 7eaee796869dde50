"""Hostile settings of GIL's methods meet a named error, or are right."""

from __future__ import annotations

import dataclasses

import pytest

from kernomics.errors import KernomicsError
from kernomics.models.gil.methods import METHODS, as_methods

from .good_gil import three_stages
from .test_hostile_arguments import NEVER
from .values import SCALARS

SETTINGS = [
    (name, field.name, str(field.type))
    for name, kind in METHODS.items()
    for field in dataclasses.fields(kind)
    if field.init
]


def test_adapters_are_among_the_methods_tried() -> None:
    assert ("adapters", "rank", "int") in SETTINGS


@pytest.mark.parametrize(("method", "setting", "hint"), SETTINGS)
def test_a_setting_is_refused_or_right(method: str, setting: str, hint: str) -> None:
    model, refused = three_stages(), {}
    good = {"memory": 5} if method in ("replay", "der") else {}
    for kind, value in SCALARS.items():
        try:
            (made,) = as_methods(METHODS[method](**{**good, setting: value}))
            made.check(model.staged)
            made.check_network(model.config)
        except KernomicsError as error:
            refused[kind] = str(error)
    assert all(setting in message for message in refused.values())
    assert NEVER[hint] <= set(refused)
    assert {"minus one", "zero"} <= set(refused) or (method, setting) == ("der", "beta")
