"""What a division of the cells leaves of each label to learn from and to be scored by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from kernomics.data.labels import Labels
from kernomics.data.splits import Split
from kernomics.errors import DataError

FEW_CELLS = 5
"""A class of fewer training cells is named in a warning."""

Named = Mapping[str, Labels]


def trained_classes(labels: Named, split: Split) -> tuple[dict[str, Labels], list[str]]:
    """Leave out classes that no training cell has, and say what is weak.

    Nobody can predict a class from no example. Its cells become unlabelled, so that they count in
    no score: as those of a class that a saved panel does not know.
    """
    found, weak = {}, []
    for name, label in labels.items():
        if label.kind == "continuous":
            _require_two(label, split)
            found[name] = label
            continue
        if split.how == "group" and split.by == name:
            raise DataError(
                f"label {name!r} is also the split key: the classes of held-out cells never "
                "occur in training, so nothing can be learnt about them; split by another "
                "column, or choose another label"
            )
        _require_two(label, split)
        found[name], told = _of_classes(label, split)
        weak += told
    return found, weak


def _require_two(label: Labels, split: Split) -> None:
    try:
        label.subset(split.train).require_usable()
    except DataError as error:
        raise DataError(f"among the training cells, {error}; or change the split") from None


def _of_classes(label: Labels, split: Split) -> tuple[Labels, list[str]]:
    n_train = _counts(label, split.train)
    tested = split.test if len(split.test) else split.validation
    n_test = _counts(label, tested)
    part = "test" if len(split.test) else "validation"
    known = n_train > 0
    if n_test.sum() and not n_test[known].sum():
        by = f" by {split.by!r}" if split.by else ""
        raise DataError(
            f"label {label.name!r}: none of its {n_test.sum():,} {part} cells belongs to a class "
            f"with training cells ({_listed(label, n_test, n_test > 0, part)}): the split{by} "
            "puts each class in one part; split differently, or choose another label"
        )
    told = []
    absent = ~known & (_counts(label, np.arange(len(label))) > 0)
    if absent.any():
        told.append(
            f"label {label.name!r}: {absent.sum()} of {label.n_classes} classes {_have(absent)} "
            f"no training cells and cannot be predicted: {_listed(label, n_test, absent, part)}; "
            "these cells are left out of the scores"
        )
    few = known & (n_train < FEW_CELLS)
    if few.any():
        told.append(
            f"label {label.name!r}: {few.sum()} of {label.n_classes} classes {_have(few)} fewer "
            f"than {FEW_CELLS} training cells: {_listed(label, n_train, few, 'training')}; "
            "little can be learnt about them: merge them, or add cells"
        )
    scored = known & (n_test > 0)
    if len(tested) and scored.sum() == 1:
        told.append(
            f"label {label.name!r}: all {part} cells that can be scored are of class "
            f"{label.categories[int(np.argmax(scored))]!r}, so AUPRC is undefined, and the other "
            "scores say nothing about distinguishing classes"
        )
    if known.all():
        return label, told
    return label.aligned(np.array(label.categories, dtype=object)[known].tolist()), told


def _counts(label: Labels, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    codes = label.values[rows]
    return np.bincount(codes[codes >= 0], minlength=label.n_classes).astype(np.int64)


def _have(which: npt.NDArray[np.bool_]) -> str:
    return "has" if which.sum() == 1 else "have"


def _listed(
    label: Labels, cells: npt.NDArray[np.int64], which: npt.NDArray[np.bool_], part: str
) -> str:
    """Name the first classes, with their cells: ``"'rare' (37 test cells), 'b' (1)"``."""
    named = [(label.categories[i], cells[i]) for i in np.flatnonzero(which)]
    first = named[0]
    unit = f"{part} cell{'' if first[1] == 1 else 's'}"
    shown = [f"{first[0]!r} ({first[1]:,} {unit})"]
    shown += [f"{name!r} ({number:,})" for name, number in named[1:5]]
    return ", ".join(shown) + (", …" if len(named) > 5 else "")
