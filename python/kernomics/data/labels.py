"""`Labels`: one label column, as class codes or as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._arguments import checked, shown
from kernomics._warnings import warn
from kernomics.data.row_numbers import row_numbers
from kernomics.errors import ConfigError, DataError, closest

Kind = Literal["categorical", "continuous"]

FEW_VALUES = 20
"""Numbers that are all integers, with at most this many distinct values, are taken for classes."""
MISSING_WORDS = ("", "nan", "NaN", "<NA>", "None")
"""Classes that are more likely missing labels, written as words."""

TIMES = {
    **dict.fromkeys(("datetime64", "datetime", "date", "period"), "dates"),
    **dict.fromkeys(("timedelta64", "timedelta", "time"), "durations or times"),
}
"""What pandas calls columns of dates and times, and what a message does."""

NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal")
"""What pandas calls columns of objects that are all numbers."""


@dataclass(frozen=True, eq=False)
class Labels:
    """One label of each cell.

    Attributes
    ----------
    name
        The obs column.
    kind
        ``"categorical"`` or ``"continuous"``.
    values
        Categorical: int64 [n_cells], the class, −1 unlabelled. Continuous: float32 [n_cells], NaN
        unlabelled.
    categories
        Names of the classes in the order of their codes; empty for a continuous label.
    inferred
        If numbers left the kind open: how they were interpreted, and how to override that.
    """

    name: str
    kind: Kind
    values: npt.NDArray[Any]
    categories: tuple[str, ...] = ()
    inferred: str = ""

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @classmethod
    @checked
    def from_series(
        cls,
        series: pd.Series[Any],
        name: str,
        unlabelled_category: str | None = None,
        kind: Kind | None = None,
    ) -> Labels:
        """Read a column.

        Strings, booleans and categories are classes. Numbers are classes if all are integers with
        at most 20 distinct values, whatever their type and whether or not some are missing; other
        numbers are continuous. `kind` overrides this. Classes are those that occur, in the order of
        a categorical dtype, else sorted (numbers by value); integers are written without a decimal
        point. Missing values are unlabelled.

        Parameters
        ----------
        series
            One entry per cell.
        name
            What to call it.
        unlabelled_category
            A class that means "unlabelled".
        kind
            Overrides the inference.

        Raises
        ------
        DataError
            If the column cannot be read as that kind, or holds dates or durations.

        Warns
        -----
        UserWarning
            If numbers are treated as classes and `kind` does not say so.
        """
        if not isinstance(series, pd.Series):
            raise DataError(f"series is {shown(series)}: a pandas Series is needed")
        if kind not in (None, "categorical", "continuous"):
            raise ConfigError(f"label {name!r}: kind must be 'categorical' or 'continuous'")
        _refuse_times(series, name, kind)
        inferred = ""
        if kind is None:
            kind, inferred = _kind_of(series, name)
        if kind == "continuous":
            return cls(name, kind, _numbers(series, name), inferred=inferred)
        label = cls._categorical(series, name, unlabelled_category)
        return replace(label, inferred=inferred)

    @classmethod
    def _categorical(
        cls, series: pd.Series[Any], name: str, unlabelled_category: str | None
    ) -> Labels:
        if isinstance(series.dtype, pd.CategoricalDtype):
            codes = np.asarray(series.cat.codes, dtype=np.int64)
            found: list[object] = list(series.cat.categories)
        else:
            objects = series.astype(object)
            found = list(pd.unique(objects.dropna()))
            try:
                found = sorted(found)  # type: ignore[type-var]
            except TypeError:  # a mixture, such as numbers and words
                found = sorted(found, key=str)
            codes = pd.Categorical(objects, categories=found).codes.astype(np.int64)
        names = [_written(value) for value in found]
        if len(set(names)) != len(names):
            twice = next(value for i, value in enumerate(names) if value in names[:i])
            raise DataError(
                f"label {name!r} holds different values that are all written {twice!r} (a number "
                "and a string?); convert them to one type with .astype(str)"
            )
        used = np.bincount(codes[codes >= 0], minlength=len(names)) > 0
        if unlabelled_category in names:
            used[names.index(unlabelled_category)] = False
        renumber = np.append(np.where(used, np.cumsum(used) - 1, -1), -1)  # the last is for −1
        categories = tuple(value for value, keep in zip(names, used, strict=True) if keep)
        return cls(name, "categorical", renumber[codes].astype(np.int64), categories)

    @property
    def description(self) -> str:
        """What the label is, such as ``"8 classes"``, and how that was found where it was open."""
        what = f"{self.n_classes} classes" if self.kind == "categorical" else "a number"
        return f"{what} ({self.inferred})" if self.inferred else what

    @property
    def n_classes(self) -> int:
        """Number of classes; 0 for a continuous label."""
        return len(self.categories)

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Which cells have this label, bool [n_cells]."""
        if self.kind == "categorical":
            return np.asarray(self.values >= 0)
        return np.asarray(~np.isnan(self.values))

    def counts(self) -> dict[str, int]:
        """Return the number of cells per class, in their order; empty for a continuous label."""
        if self.kind == "continuous":
            return {}
        numbers = np.bincount(self.values[self.labelled], minlength=self.n_classes)
        return dict(zip(self.categories, numbers.tolist(), strict=True))

    @checked
    def subset(self, rows: npt.ArrayLike) -> Labels:
        """Return the labels of some cells, with the same classes."""
        return replace(self, values=self.values[row_numbers(rows, len(self))])

    @checked
    def aligned(self, categories: Iterable[str]) -> Labels:
        """Return the labels coded by another list of classes, such as a trained model's.

        Cells of classes not in the list become unlabelled.
        """
        target = tuple(categories)
        code = {category: i for i, category in enumerate(target)}
        renumber = np.array([code.get(name, -1) for name in self.categories] + [-1], dtype=np.int64)
        return replace(self, values=renumber[self.values], categories=target)

    def require_usable(self) -> None:
        """Refuse a label that leaves nothing to learn: no labelled cell, or one value only."""
        labelled = self.values[self.labelled]
        if labelled.size == 0:
            raise DataError(
                f"label {self.name!r}: all {len(self):,} cells are unlabelled (missing, or of the "
                "unlabelled category); choose another labels_key"
            )
        if np.all(labelled == labelled[0]):
            value = self.categories[labelled[0]] if self.categories else f"{labelled[0]:.6g}"
            raise DataError(
                f"label {self.name!r} has one value, {value!r}, in all {labelled.size:,} "
                "labelled cells: there is nothing to predict; choose another labels_key"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; NaN is written as null."""
        values: list[Any] = self.values.tolist()
        if self.kind == "continuous":
            values = [None if value != value else value for value in values]
        return {
            "name": self.name,
            "kind": self.kind,
            "categories": list(self.categories),
            "values": values,
        }

    @classmethod
    @checked
    def from_dict(cls, saved: Mapping[str, Any]) -> Labels:
        """Read what `to_dict` wrote."""
        lacking = [name for name in ("name", "kind", "categories", "values") if name not in saved]
        if lacking:
            raise DataError(f"saved has no {lacking[0]!r}: it was not written by to_dict")
        kind = cast(Kind, saved["kind"])
        if kind == "categorical":
            values: npt.NDArray[Any] = np.array(saved["values"], dtype=np.int64)
        else:
            values = np.array(
                [np.nan if value is None else value for value in saved["values"]], dtype=np.float32
            )
        return cls(saved["name"], kind, values, tuple(saved["categories"]))


def _refuse_times(series: pd.Series[Any], name: str, kind: Kind | None) -> None:
    """Refuse complex numbers, and dates and durations, which need a unit to be numbers."""
    found = pd.api.types.infer_dtype(series, skipna=True)
    if found == "complex":
        raise DataError(
            f"label {name!r} holds complex numbers: take their absolute value or another real part"
        )
    if found in TIMES and kind != "categorical":
        raise DataError(
            f"label {name!r} holds {TIMES[found]}, which are not numbers until a unit is chosen: "
            "convert them to numbers, such as days, in another column, or treat each value as a "
            f"class with label_kinds={{{name!r}: 'categorical'}}"
        )


def _kind_of(series: pd.Series[Any], name: str) -> tuple[Kind, str]:
    """Infer a kind; also what to say of it, where numbers leave it open."""
    if isinstance(series.dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(series.dtype):
        return "categorical", ""
    known = series.dropna()
    numeric = pd.api.types.is_numeric_dtype(series.dtype)
    if not numeric and pd.api.types.infer_dtype(known) not in NUMBERS:
        return "categorical", ""
    distinct = np.unique(known.to_numpy(dtype=np.float64))
    whole = bool(np.all(np.isfinite(distinct)) and np.all(np.floor(distinct) == distinct))
    if not whole or not distinct.size:
        return "continuous", ""
    if distinct.size > FEW_VALUES:
        told = f"integers of {distinct.size:,} values; {_otherwise(name, 'categorical')} classes"
        return "continuous", told
    told = f"numbers treated as classes; {_otherwise(name, 'continuous')} a regression"
    if distinct.size > 1:
        warn(
            f"label {name!r} holds integers of {distinct.size} distinct values, which are "
            f"treated as classes: pass {_kinds(name, 'continuous')} for a regression, or "
            "'categorical' to confirm that they are classes"
        )
    return "categorical", told


def _otherwise(name: str, kind: Kind) -> str:
    """Say how to ask for another kind, in Python and by the command, in what reports keep."""
    return f"{_kinds(name, kind)} (--label-kinds {name}={kind}) for"


def _kinds(name: str, kind: Kind) -> str:
    return f"label_kinds={{{name!r}: {kind!r}}}"


def _written(value: object) -> str:
    """Write a value as the name of a class; an integer alike in every type of number."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _numbers(series: pd.Series[Any], name: str) -> npt.NDArray[np.float32]:
    try:
        values = pd.to_numeric(series.astype(object)).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise DataError(f"label {name!r} cannot be read as numbers: {error}") from error
    if np.isinf(values).any():
        first = int(np.argmax(np.isinf(values)))
        raise DataError(
            f"label {name!r} is infinite in {np.count_nonzero(np.isinf(values)):,} of "
            f"{values.size:,} cells, first in row {first:,}; set these to NaN (unlabelled)"
        )
    return values.astype(np.float32)


def read_labels(
    obs: pd.DataFrame,
    keys: Iterable[str],
    unlabelled_category: str | None = None,
    label_kinds: Mapping[str, Kind] | None = None,
) -> dict[str, Labels]:
    """Read label columns of an obs table."""
    kinds = dict(label_kinds or {})
    labels = {}
    seen: set[str] = set()
    keys = list(keys)
    for name in kinds:
        if name not in keys:
            raise ConfigError(
                f"label_kinds names {name!r}, which is not a label; {closest(name, keys)}"
            )
    for key in keys:
        series = column(obs, key)
        labels[key] = Labels.from_series(series, key, unlabelled_category, kinds.get(key))
        if labels[key].kind == "categorical":
            seen.update(_written(value) for value in series.dropna().unique())
            _tell_of_missing_words(labels[key])
    if unlabelled_category is not None and unlabelled_category not in seen:
        raise DataError(
            f"unlabelled_category {unlabelled_category!r} occurs in none of the label columns "
            f"{keys}; {closest(unlabelled_category, sorted(seen))}"
        )
    return labels


def _tell_of_missing_words(label: Labels) -> None:
    """Warn of classes such as ``"nan"``, which is what ``astype(str)`` makes of missing labels."""
    for name, count in label.counts().items():
        if name in MISSING_WORDS:
            warn(
                f"label {label.name!r}: {count:,} of {len(label):,} cells are of a class {name!r}: "
                f"if they have no label, pass unlabelled_category={name!r}"
            )


def column(obs: pd.DataFrame, key: str) -> pd.Series[Any]:
    """Return a column of obs, or say which there are."""
    if key not in obs.columns:
        raise DataError(f"obs has no column {key!r}; {closest(key, obs.columns)}")
    return obs[key]
