"""What the door of a public function says, and that it lets through what it should."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike

from kernomics._arguments import checked, rows_of
from kernomics.errors import ConfigError, DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@checked
def taking(
    number: int = 1,
    share: float = 0.5,
    sure: bool = True,
    way: Literal["one", "two"] = "one",
    names: Sequence[str] | str = (),
    sizes: Sequence[int] = (),
    path: str | Path | None = None,
    weights: Mapping[str, float] | None = None,
    values: ArrayLike | None = None,
    call: Callable[[], int] | None = None,
    ax: Axes | None = None,
    anything: Any = None,
) -> int:
    return 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"number": 2.0}, "number is 2.0: it must be an integer"),
        ({"number": True}, "number is True: it must be an integer"),
        ({"number": None}, "number is None: it must be an integer"),
        ({"share": "half"}, "share is 'half': it must be a number"),
        ({"share": float("nan")}, "share is nan: it must be a finite number"),
        ({"sure": 1}, "sure is 1: it must be true or false"),
        ({"way": "tow"}, "way is 'tow'; closest: 'two'; it must be one of one, two"),
        ({"way": np.array(["one"])}, r"way is a ndarray of shape \(1,\); it must be one of"),
        ({"names": 3}, "names is 3: it must be a list of names or a string"),
        ({"sizes": [1, "2"]}, r"sizes\[1\] is '2': it must be an integer"),
        ({"path": ""}, "path is an empty string"),
        ({"path": 3}, "path is 3: it must be a string or a path"),
        ({"weights": [1.0]}, r"weights is \[1.0\]: it must be a mapping"),
        ({"values": "many"}, "values is 'many': an array is needed"),
        ({"call": 3}, "call is 3: it must be a function"),
        ({"ax": 3}, "ax is 3: it must be an object of class Axes"),
    ],
)
def test_an_argument_of_another_kind_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        taking(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"number": np.int64(3), "share": 1, "sure": np.True_, "way": "two"},
        {"share": np.float32(0.5), "names": "a", "sizes": np.arange(3), "path": Path("x")},
        {"names": pd.Index(["a", "b"]), "sizes": range(3), "path": "x"},
        {"weights": pd.Series({"a": 1.0}), "values": [1, 2], "call": int},
        {"values": pd.DataFrame({"a": [1]}), "anything": object()},
    ],
)
def test_whatever_is_of_the_kind_is_let_through(given: dict[str, Any]) -> None:
    assert taking(**given) == 7


def test_python_speaks_for_itself_of_names_that_there_are_not() -> None:
    with pytest.raises(TypeError, match=r"taking\(\) got an unexpected keyword"):
        taking(nubmer=3)


def test_rows_are_numbers_or_a_mask() -> None:
    assert rows_of("rows", [2, 0], 3).tolist() == [2, 0]
    assert rows_of("rows", np.array([True, False, True]), 3).tolist() == [0, 2]
    for wrong, message in (
        ([True], r"rows are a mask of shape \(1,\) for 3 cells"),
        ([], "rows names no cell"),
        ([0.5], "rows are of type float64"),
        ([0, -1, 3], "there are 3 cells, counted from 0: 2 of the 3 rows do not exist, first -1"),
        ([[1]], r"rows have shape \(1, 1\): give one list"),
    ):
        with pytest.raises(DataError, match=message):
            rows_of("rows", wrong, 3)
