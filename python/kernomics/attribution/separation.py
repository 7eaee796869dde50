"""How well a model tells apart the cells that are compared."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.attribution.pairs import Pairs
from kernomics.attribution.sources import Source
from kernomics.data.row_numbers import parts, spread

MOST = 256
"""Cells of each side that are looked at."""
AT_A_TIME = 32
WEAK = 0.6
"""A model that tells the cells apart less well is told."""


def separation(source: Source, pairs: Pairs, case: int, baseline: int) -> float:
    r"""Return how often a model argues more for the case in its cells than in the baseline's.

    .. math:: P(m_I > m_B) + P(m_I = m_B) / 2, \quad m = y_\mathrm{case} - y_\mathrm{baseline}

    over up to 256 cells of each side of the pairs: the area under the ROC curve, 0.5 by chance.

    Parameters
    ----------
    source
        The model and its cells.
    pairs
        Which cells are compared.
    case, baseline
        Numbers of the outputs y.
    """
    of_case, of_baseline = (
        _margins(source, spread(np.unique(rows), MOST), case, baseline)
        for rows in (pairs.case, pairs.baseline)
    )
    above = of_case[:, None] - of_baseline
    return float((above > 0).mean() + (above == 0).mean() / 2)


def tell_if_weak(auc: float, case: str, baseline: str) -> None:
    """Warn where a model hardly tells the cells apart."""
    if auc < WEAK:
        warn(
            f"the model hardly tells {case} from {baseline} in these cells: it argues more for "
            f"{case} in a cell of {case} than in one of {baseline} in {auc:.0%} of pairs, where "
            "chance is 50%. The scores say what moves its output, not what differs between the "
            "cells: train longer or on more cells, or check the labels"
        )


def _margins(
    source: Source, rows: NDArray[np.int64], case: int, baseline: int
) -> NDArray[np.float64]:
    found = []
    with torch.no_grad():
        for some in parts(len(rows), AT_A_TIME):
            inputs = source.inputs(rows[some])
            y = source.outputs(inputs, inputs.features)
            found.append((y[:, case] - y[:, baseline]).double().cpu().numpy())
    return np.concatenate(found)
