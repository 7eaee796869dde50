"""Standard errors of a representation's scores over the held-out cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics.metrics import bootstrap_scores, proportion_error
from kernomics.metrics.uncertainty import spread

Probes = dict[tuple[str, str], tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]]
"""By label and representation what `kernomics.metrics.probe_predictions` returned."""

SHARES = ("linear_top1", "linear_top5", "mlp_accuracy")
"""Scores that are shares of the labelled held-out cells, beside the probes'."""
DIFFERENCES = ["label", "representation", "metric", "difference", "error"]


def score_errors(
    table: pd.DataFrame, probes: Probes, n_labelled: Mapping[str, int], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the errors of a table of scores, and the differences from its first representation."""
    errors = pd.DataFrame(np.nan, index=table.index, columns=table.columns)
    for metric in SHARES:
        if metric in table:
            shares: dict[Any, float] = table[metric].to_dict()
            errors[metric] = [
                proportion_error(share, n_labelled[key[0]]) for key, share in shares.items()
            ]
    differences = []
    for label in dict.fromkeys(label for label, _ in probes):
        own = {name: found for (of, name), found in probes.items() if of == label}
        truth = next(iter(own.values()))[0]
        guesses = {(kind, n): codes for n, (_, all_) in own.items() for kind, codes in all_.items()}
        drawn = bootstrap_scores(truth, guesses, seed=seed)
        first = next(iter(own))
        for (kind, name), scores in drawn.items():
            for part, values in scores.items():
                metric = f"{kind}_{part}"
                errors.loc[(label, name), metric] = spread(values)
                if name != first:
                    of_metric: dict[Any, float] = table[metric].to_dict()
                    gap = of_metric[label, first] - of_metric[label, name]
                    error = spread(drawn[kind, first][part] - values)
                    differences.append((label, name, metric, gap, error))
    return errors, pd.DataFrame(differences, columns=DIFFERENCES)
