"""What the report of a training in stages is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kernomics.metrics import Forgetting
from kernomics.report.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class IncrementReport:
    """Everything that the report of a training in stages shows. All names are escaped.

    Attributes
    ----------
    title
        The headline.
    head
        Terms and values below it.
    counts
        Genes and cells of each stage, as `kernomics.data.Stages.counts` returns.
    losses
        ``"tokens"`` and ``"queries"``: loss by stage and group, as `kernomics.models.GIL.losses`.
    forgotten
        Of each of these.
    oracle
        The same losses of a training of all stages at once; empty where there was none.
    probes
        Classes told from the features after each stage; None where no label was named.
    label
        Its name.
    genes
        As `kernomics.evaluation.forgetting.gene_forgetting` returns.
    predictors
        Per stage, rank correlations of what was forgotten of its genes.
    history
        Records of the training.
    warnings
        What a reader must know, one sentence each.
    provenance
        How to make it again.
    """

    title: str
    head: Sequence[tuple[str, str]]
    counts: pd.DataFrame
    losses: Mapping[str, pd.DataFrame]
    forgotten: Mapping[str, Forgetting]
    oracle: Mapping[str, pd.DataFrame]
    probes: pd.DataFrame | None
    label: str
    genes: pd.DataFrame
    predictors: Mapping[str, Mapping[str, float]]
    history: Sequence[Mapping[str, Any]]
    warnings: Sequence[str] = ()
    provenance: Provenance
