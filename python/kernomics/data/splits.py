"""Splitting cells into train, validation and test, reproducibly, with the parts on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._arguments import checked
from kernomics._warnings import warn
from kernomics.data.groups import grouped
from kernomics.data.labels import Labels
from kernomics.data.rng import Stream, permutation
from kernomics.errors import ConfigError, DataError, closest

How = Literal["random", "stratified", "group"]
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Which cells are used for training, validation and testing.

    Attributes
    ----------
    train, validation, test
        int64, sorted rows; no row is in two parts.
    how
        ``"random"``, ``"stratified"`` or ``"group"``.
    by
        The label or group column, if any.
    seed
        What it was drawn with.
    note
        What was done, or could not be done, to keep every class in train; often empty.
    """

    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    how: How
    by: str | None
    seed: int
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form, rows included."""
        rows = {part: getattr(self, part).tolist() for part in PARTS}
        return {"how": self.how, "by": self.by, "seed": self.seed, "note": self.note, **rows}

    @classmethod
    @checked
    def from_dict(cls, saved: Mapping[str, Any]) -> Split:
        """Read what `to_dict` wrote.

        Raises
        ------
        DataError
            If a part is missing or a row is in two parts.
        """
        missing = [key for key in (*PARTS, "how", "by", "seed") if key not in saved]
        if missing:
            raise DataError(f"the saved split lacks {missing}; it holds {sorted(saved)}")
        rows = [np.sort(np.array(saved[part], dtype=np.int64)) for part in PARTS]
        together = np.sort(np.concatenate(rows))
        twice = together[1:][np.diff(together) == 0]
        if twice.size:
            raise DataError(
                f"{twice.size:,} rows of the saved split are in two parts, first row {twice[0]:,}"
            )
        return cls(
            rows[0],
            rows[1],
            rows[2],
            cast(How, saved["how"]),
            saved["by"],
            int(saved["seed"]),
            saved.get("note", ""),
        )


@checked
def make_split(
    n_cells: int,
    *,
    how: How,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    labels: Labels | npt.ArrayLike | None = None,
    groups: Labels | npt.ArrayLike | None = None,
    keep: Sequence[Labels] = (),
    seed: int = 0,
) -> Split:
    """Split cells; the same arguments always give the same split.

    - ``"random"``: sizes are the fractions rounded by largest remainder, train first.
    - ``"stratified"``: the same within each class of `labels`, unlabelled cells being a class of
      their own. Every class is represented in train, so classes with few cells go to train first
      and may be absent elsewhere; a warning names them.
    - ``"group"``: whole groups (donors, batches) go to one part each, so that sizes only come near
      the fractions. Where the draw would leave a class of `keep` without a training cell, groups
      are drawn again so that every class keeps one, if any division does; a warning says so, and
      names the classes if none does. So are they where the last part (test) would have cells of
      one class of a label alone: then of each label it gets two, if such a division is found.

    Parameters
    ----------
    n_cells
        Rows 0 … n_cells − 1 are split.
    how
        See above.
    fractions
        For train, validation and test; they sum to 1. A part with a positive fraction is never
        empty.
    labels
        [n_cells], for ``"stratified"``: categorical `Labels`, or one value per cell.
    groups
        [n_cells], for ``"group"``: likewise; no cell without one.
    keep
        For ``"group"``: labels [n_cells] whose classes should all stay in train, and of which two
        classes should be held out; continuous ones are of no account.
    seed
        Any integer.

    Raises
    ------
    ConfigError
        If the arguments do not fit together.
    DataError
        If there are too few cells or groups for the requested parts.

    Warns
    -----
    UserWarning
        If a class is too small to be in every part, or groups were drawn again for a class.
    """
    fractions, note = _require_fractions(fractions), ""
    wanted = {"random": (False, False), "stratified": (True, False), "group": (False, True)}
    if how not in wanted:
        raise ConfigError(f"how={how!r} is not a way to split; {closest(how, wanted)}")
    for name, value, needed in zip(
        ("labels", "groups"), (labels, groups), wanted[how], strict=True
    ):
        if needed and value is None:
            raise ConfigError(f"how={how!r} needs {name}, one per cell")
        if value is not None and not needed:
            raise ConfigError(f"{name} given, but how={how!r} does not use them")
    if len(keep) and how != "group":
        raise ConfigError(f"keep given, but how={how!r} does not use it")
    if how == "random":
        part, by = _random(n_cells, fractions, seed), None
    elif how == "stratified":
        column = _as_labels(labels, n_cells, "labels")
        part, by = _stratified(column, fractions, seed), column.name or None
    else:
        column = _as_labels(groups, n_cells, "groups")
        classes = [label for label in keep if label.kind == "categorical"]
        kept = [_as_labels(label, n_cells, "keep") for label in classes]
        part, note = grouped(column, kept, fractions, seed)
        by = column.name or None
    train, validation, test = (np.flatnonzero(part == i).astype(np.int64) for i in range(3))
    return Split(train, validation, test, how, by, seed, note)


def _require_fractions(fractions: tuple[float, float, float]) -> tuple[float, float, float]:
    values = tuple(float(value) for value in fractions)
    if len(values) != 3 or min(values) < 0 or abs(sum(values) - 1) > 1e-6:
        raise ConfigError(
            f"fractions must be three numbers from 0 to 1 that sum to 1 (train, validation, test), "
            f"not {values}, which sum to {sum(values):.6g}"
        )
    if values[0] == 0:
        raise ConfigError("fractions leave nothing to train on; the first must be above 0")
    return values[0], values[1], values[2]


def _as_labels(column: Labels | npt.ArrayLike | None, n_cells: int, what: str) -> Labels:
    if not isinstance(column, Labels):
        # numpy would make a word of the NaN that stands for a missing one among words.
        series = pd.Series(column if isinstance(column, list | tuple) else np.asarray(column))
        column = Labels.from_series(series, "", kind="categorical")
    if column.kind != "categorical":
        raise ConfigError(
            f"{what} {column.name!r} is continuous; a split needs classes (bin it first, or use "
            "how='random')"
        )
    if len(column) != n_cells:
        raise ConfigError(f"{what} has {len(column):,} entries for {n_cells:,} cells")
    return column


def rounded_sizes(n: int, fractions: Sequence[float]) -> npt.NDArray[np.int64]:
    """Round n·fractions to integers that sum to n: largest remainder, ties to the earlier part."""
    exact = n * np.array(fractions)
    sizes = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(np.round(sizes - exact, 9), kind="stable")
    sizes[order[: n - sizes.sum()]] += 1
    if n and sizes[0] == 0:
        sizes[np.argmax(sizes)] -= 1
        sizes[0] = 1
    return sizes


def _random(n: int, fractions: tuple[float, float, float], seed: int) -> npt.NDArray[np.int64]:
    sizes = rounded_sizes(n, fractions)
    for name, size, fraction in zip(PARTS, sizes, fractions, strict=True):
        if size == 0 and fraction > 0:
            raise DataError(
                f"{n:,} cells leave none for {name} (fraction {fraction:g}); raise that fraction "
                "or set it to 0"
            )
    part = np.empty(n, dtype=np.int64)
    part[permutation(n, seed, Stream.SPLIT)] = np.repeat(np.arange(3), sizes)
    return part


def _stratified(
    labels: Labels, fractions: tuple[float, float, float], seed: int
) -> npt.NDArray[np.int64]:
    part = np.empty(len(labels), dtype=np.int64)
    shuffled = permutation(len(labels), seed, Stream.SPLIT)
    short = []
    for code in range(-1, labels.n_classes):
        rows = shuffled[labels.values[shuffled] == code]
        sizes = rounded_sizes(rows.size, fractions)
        part[rows] = np.repeat(np.arange(3), sizes)
        absent = [PARTS[i] for i in range(3) if sizes[i] == 0 and fractions[i] > 0]
        if code >= 0 and absent:
            cells = "1 cell" if rows.size == 1 else f"{rows.size} cells"
            short.append(f"{labels.categories[code]!r} ({cells}: none in {' and '.join(absent)})")
    for i, name in enumerate(PARTS):
        if fractions[i] > 0 and not (part == i).any():
            raise DataError(
                f"no class has enough cells for {name} (fraction {fractions[i]:g}) in a stratified "
                "split; raise that fraction, set it to 0, or use how='random'"
            )
    if short:
        warn(
            f"{len(short)} of {labels.n_classes} classes of {labels.name or 'labels'!r} have too "
            "few cells for every part, and training got theirs first: "
            f"{', '.join(short[:5])}{', …' if len(short) > 5 else ''}; their scores rest on few "
            "or no cells: merge or drop them"
        )
    return part
