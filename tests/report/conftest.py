"""Makes `example.py` reachable from the tests beside it, and reports of several sizes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CASES: dict[str, dict[str, Any]] = {
    "usual": {"regression": True},
    "one class": {"n_classes": 1, "n_genes": 1},
    "two classes, three tasks": {"n_classes": 2, "n_tasks": 3, "n_genes": 16},
    "30 classes, long names": {"n_classes": 30, "long": True, "n_tasks": 2},
}


TXFM: dict[str, dict[str, Any]] = {
    "TxFM": {},
    "TxFM, long names": {"long": True},
    "TxFM without labels": {"bare": True},
}
EVALUATED = "panel evaluation"


LARGE = {
    "two classes, three tasks",
    "30 classes, long names",
    "TxFM, long names",
    "TxFM without labels",
}
"""Reports that take seconds to draw."""


def _sized(names: Iterable[str]) -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.slow if name in LARGE else (), id=name)
        for name in names
    ]


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"report_{name}", Path(__file__).with_name(f"{name}.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def example() -> ModuleType:
    """Return the module of made-up report data."""
    return _module("example")


@pytest.fixture(scope="session")
def representation_example() -> ModuleType:
    """Return the module of made-up data of a TxFM's report."""
    return _module("representation_example")


@pytest.fixture(scope="session", params=_sized(CASES))
def rendered(request: pytest.FixtureRequest, example: Any) -> tuple[Any, str]:
    """Return report data of several sizes, and the report made of them."""
    pytest.importorskip("matplotlib")
    from kernomics.report import render_report

    data = example.report_data(**CASES[request.param], further=True)
    return data, render_report(data)


@pytest.fixture(scope="session", params=_sized([*CASES, *TXFM, EVALUATED]))
def any_report(request: pytest.FixtureRequest, example: Any, representation_example: Any) -> str:
    """Return a report of each kind and size."""
    pytest.importorskip("matplotlib")
    from kernomics.report import render_report, render_representation_report
    from kernomics.report.panel_evaluation import render_panel_evaluation

    if request.param in TXFM:
        data = representation_example.representation_report(**TXFM[request.param])
        return render_representation_report(data)
    if request.param == EVALUATED:
        return render_panel_evaluation(
            example.report_data(regression=True), {"cell_type": {"accuracy": 0.01}}
        )
    return render_report(example.report_data(**CASES[request.param], further=True))
