"""How sure a panel's score is, where cells of a few donors are held out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernomics.models import YOTO

DRAWS = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class OverGroups:
    """A panel's scores on the held-out groups of cells, such as donors.

    Attributes
    ----------
    by
        The obs column of the groups.
    n_groups
        How many are held out, with labelled cells.
    intervals
        The 95 % interval of each score, by its name; empty with one group.
    """

    by: str
    n_groups: int
    intervals: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return asdict(self)

    def sentence(self) -> str:
        """Say it in words."""
        if self.n_groups == 1:
            return f"All held-out cells are of one {self.by}: what others would give is not known."
        told = " and ".join(
            f"{name} from {low:.3f} to {high:.3f}"
            for name, (low, high) in zip(
                ("accuracy", "macro-F1"), self.intervals.values(), strict=True
            )
        )
        return (
            f"Other groups of {self.by} would give its own network an {told} (95% intervals over "
            f"the {self.n_groups:,} that are held out)."
        )


def over_groups(model: YOTO) -> dict[str, OverGroups]:
    """Return what a split by groups tells of each categorical label; empty for other splits."""
    split = model.split
    if (
        split.how != "group"
        or split.by is None
        or split.by not in model.cells.obs
        or not len(split.test)
    ):
        return {}
    groups = model.cells.obs[split.by].astype(str).to_numpy()[split.test]
    outputs = model.trained.outputs(model.cells, split.test)
    found = {}
    for task in model.tasks:
        truth = model.cells.labels[task.name].values[split.test]
        labelled = truth >= 0
        if not task.classes or not labelled.any():
            continue
        of_cells = groups[labelled]
        found[task.name] = OverGroups(
            split.by,
            len(np.unique(of_cells)),
            intervals(truth[labelled], outputs[task.name].argmax(1)[labelled], of_cells),
        )
    return found


def intervals(
    truth: ArrayLike, predicted: ArrayLike, groups: ArrayLike, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of accuracy and macro-F1 over groups of cells; none for one group.

    From the scores of 2,000 draws of D − 1 of the D groups with replacement, with all their cells:
    with D of them the variance would be (D − 1)/D of what it is (Rao and Wu, Journal of the
    American Statistical Association 83, 1988, section 2).

    Parameters
    ----------
    truth, predicted
        Class codes, int [cells], from 0.
    groups
        The group of each cell, [cells].
    seed
        Of the draws.
    """
    codes, of_group = np.asarray(truth), np.unique(np.asarray(groups), return_inverse=True)[1]
    told = np.asarray(predicted)
    n_groups = int(of_group.max(initial=-1)) + 1
    if n_groups < 2:
        return {}
    n_classes = int(max(codes.max(), told.max())) + 1

    def counted(of_class: NDArray[Any], cells: NDArray[np.bool_]) -> NDArray[np.int64]:
        slot = of_group[cells] * n_classes + of_class[cells]
        return np.bincount(slot, minlength=n_groups * n_classes).reshape(n_groups, n_classes)

    every = np.ones(len(codes), bool)
    hits, true, named = counted(codes, codes == told), counted(codes, every), counted(told, every)
    drawn = np.random.default_rng(seed).multinomial(
        n_groups - 1, np.full(n_groups, 1 / n_groups), size=DRAWS
    )
    hits, true, named = drawn @ hits, drawn @ true, drawn @ named
    with np.errstate(invalid="ignore"):
        f1 = np.where(true > 0, 2 * hits / (true + named), np.nan)
    values = {
        "accuracy": hits.sum(1) / true.sum(1),
        "macro_f1": np.nanmean(f1, axis=1),
    }
    tail = (1 - CONFIDENCE) / 2
    return {
        name: (float(np.quantile(of, tail)), float(np.quantile(of, 1 - tail)))
        for name, of in values.items()
    }
