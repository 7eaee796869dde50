"""What stages cost one another: forgetting and transfer, from losses after each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kernomics._arguments import checked, numbers_of
from kernomics.errors import DataError


@dataclass(frozen=True)
class Forgetting:
    """How losses changed over stages; all differences are of losses, so a fall is negative.

    Attributes
    ----------
    groups
        A row for each group of genes: its loss ``untrained``, ``before`` the stage that brings it,
        ``learned`` (just after that stage) and ``last`` (after the last one); ``delta`` is last −
        learned, what was forgotten.
    backward_transfer
        − mean ``delta`` of all groups but the last: how much later stages help earlier genes.
    forward_transfer
        Mean of ``untrained − before`` of all groups but the first: how much earlier stages help
        genes that have not come yet.
    """

    groups: pd.DataFrame
    backward_transfer: float
    forward_transfer: float

    def to_dict(self) -> dict[str, Any]:
        """Return a form for JSON."""
        return {
            "groups": self.groups.reset_index().to_dict("records"),
            "backward_transfer": self.backward_transfer,
            "forward_transfer": self.forward_transfer,
        }


@checked
def forgetting(losses: pd.DataFrame) -> Forgetting:
    """Return what was forgotten and transferred.

    Parameters
    ----------
    losses
        A row of the untrained model, then one after each stage; a column for each stage's group of
        genes, in the same order: as `kernomics.models.GIL.losses` returns. Of a training of all
        stages at once there is one row after all: then nothing can be forgotten.

    Raises
    ------
    DataError
        If the table has another shape.
    """
    n_rows, n_groups = losses.shape
    if n_groups < 2 or n_rows not in (2, n_groups + 1):
        raise DataError(
            f"losses have {n_rows} rows and {n_groups} columns: a row of the untrained model and "
            "one after each stage, and a column for each of two stages or more, are needed"
        )
    values = numbers_of("losses", losses)
    learned = np.minimum(np.arange(n_groups) + 1, n_rows - 1)
    at = np.arange(n_groups)
    table = pd.DataFrame(
        {
            "untrained": values[0],
            "before": values[learned - 1, at],
            "learned": values[learned, at],
            "last": values[-1],
            "delta": values[-1] - values[learned, at],
        },
        index=pd.Index(losses.columns, name="genes of"),
    )
    return Forgetting(
        table,
        -float(table["delta"].iloc[:-1].mean()),
        float((table["untrained"] - table["before"]).iloc[1:].mean()),
    )
