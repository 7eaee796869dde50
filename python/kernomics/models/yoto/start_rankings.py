"""Where the scores of some starts begin: among the genes that another method would choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kernomics._optional import require_extra
from kernomics.baselines import Baseline, DEBaseline, L1Baseline, round_robin
from kernomics.data import CellCollection
from kernomics.data.expression import as_csr
from kernomics.data.row_numbers import parts
from kernomics.errors import ConfigError
from kernomics.models.tasks import Task
from kernomics.models.yoto.marker_prior import CELLS_AT_A_TIME, marker_strengths

Ranking = Literal["markers", "l1", "de"]
"""Whose ranking of the genes a start begins with; see `YOTOConfig`."""

METHODS: dict[str, type[Baseline]] = {"l1": L1Baseline, "de": DEBaseline}
MOST_CELLS = 50_000
"""Labelled training cells that a ranking is made from, at most."""


def require_rankable(
    rankings: Sequence[str], cells: CellCollection, rows: NDArray[np.int64], tasks: Sequence[Task]
) -> None:
    """Refuse rankings that cannot be made, before a start that does not need them is trained."""
    if "l1" in rankings:
        require_extra("sklearn.linear_model", purpose="start_rankings with 'l1'")
    if "de" not in rankings:
        return
    require_extra("scanpy", purpose="start_rankings with 'de'")
    for task in tasks:
        if task.classes and task.weight:
            codes = cells.labels[task.name].values[rows]
            sizes = np.bincount(codes[codes >= 0], minlength=1)
            if (sizes >= 2).sum() < 2:
                raise ConfigError(
                    f"start_rankings has 'de', which compares classes of at least two training "
                    f"cells, and label {task.name!r} has {int((sizes >= 2).sum())} of them: leave "
                    "'de' out, or give more cells"
                )


def ranked_genes(
    ranking: str,
    cells: CellCollection,
    rows: NDArray[np.int64],
    tasks: Sequence[Task],
    usable: NDArray[np.int64],
    k: int,
    seed: int,
) -> NDArray[np.int64]:
    """Return the k genes that a method chooses for all tasks by turns, best first.

    Parameters
    ----------
    ranking
        ``"l1"`` or ``"de"``. A number is ranked by the absolute correlation in either case.
    cells, rows, tasks
        The training cells and what is to be predicted; tasks of weight 0 are passed over.
    usable
        int64, the genes that may be chosen, by number.
    k, seed
        Size of the panel, and what decides all that is random.
    """
    k = min(k, len(usable))
    found = []
    for task in tasks:
        if not task.weight:
            continue
        values = cells.labels[task.name].values[rows]
        some = rows[values >= 0 if task.classes else ~np.isnan(values)]
        if len(some) > MOST_CELLS:
            some = np.sort(np.random.default_rng(0).choice(some, MOST_CELLS, replace=False))
        if task.classes:
            codes = cells.labels[task.name].values[some]
            counts = _counts(cells, some)[:, usable]
            found.append(METHODS[ranking]().select(counts, codes, k, seed=seed))
        else:
            ((_, strengths),) = marker_strengths(cells, some, [task])
            found.append(np.argsort(-strengths[0, usable], kind="stable")[:k])
    chosen: NDArray[np.int64] = usable[round_robin(found, k)]
    return chosen


def _counts(cells: CellCollection, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    blocks = [as_csr(cells.batch(rows[part])) for part in parts(len(rows), CELLS_AT_A_TIME)]
    return sparse.vstack(blocks, format="csr")
