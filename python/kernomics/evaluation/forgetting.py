"""What a training in stages kept and lost: classes told from frozen features, and gene by gene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics._arguments import checked, shown
from kernomics.data import CellCollection
from kernomics.data.expression import log_expression
from kernomics.data.readers.inputs import ReadOptions, require_unread
from kernomics.data.row_numbers import parts, spread
from kernomics.errors import ConfigError, closest
from kernomics.evaluation.probed_cells import N_TRIALS, probed_cells
from kernomics.metrics.tuned_probes import tuned_probes
from kernomics.models import GIL

if TYPE_CHECKING:
    from anndata import AnnData

MOST_CELLS = 2000
"""Of a stage, by which its genes are described."""


@checked
def stage_probes(
    model: GIL,
    labels_key: str,
    adata: AnnData | str | Path | CellCollection | None = None,
    *,
    unlabelled_category: str | None = None,
    groups_key: str | None = None,
    n_trials: int = N_TRIALS,
    n_tokens: int | None = None,
    progress: bool = False,
    **reading: Unpack[ReadOptions],
) -> pd.DataFrame:
    """Score the features of the model after each stage by classifiers fitted on labelled cells.

    The model is not trained any further. After each stage it sees the genes that it knows by then,
    all of them in every cell: specific genes of other stages than the cell's own too.

    Parameters
    ----------
    model
        A trained GIL.
    labels_key
        obs column of classes; cells without one are left out.
    adata
        Labelled cells; by default those that the model was given, which it has trained on without
        their labels.
    unlabelled_category
        A class that means "unlabelled".
    groups_key
        obs column of groups, such as donors, to be kept whole when cells are divided.
    n_trials
        Divisions of the cells; see `kernomics.metrics.tuned_probes`.
    n_tokens
        The most genes of a cell to show; as many as in training by default.
    progress
        Whether to show progress bars.
    **reading
        How to read `adata`, as in `kernomics.data.ReadOptions`; what is not given is as it was in
        training.

    Returns
    -------
    pandas.DataFrame
        A row for each stage and trial, with what `tuned_probes` returns.

    Raises
    ------
    DataError
        If obs has no such column, or too few cells have a class.
    """
    names = [name for name in model.scores if name in model.stages.names]
    if not names:
        raise ConfigError("the model is not trained yet; call train() first")
    if adata is None:
        require_unread(reading)
    cells = model.trained.read(model.cells if adata is None else adata, **reading)
    labels, rows, groups = probed_cells(
        cells, labels_key, unlabelled_category, groups_key, n_trials
    )
    found = []
    for name in names:
        features = model.after(name).get_latent_representation(
            cells, rows=rows, n_tokens=n_tokens or model.config.n_tokens, progress=progress
        )
        for trial in range(n_trials):
            scores = tuned_probes(features, labels[rows], groups=groups, seed=trial)
            found.append({"after": name, "trial": trial, "n_cells": len(rows), **scores})
    return pd.DataFrame(found)


@checked
def gene_forgetting(model: GIL, of: str = "tokens") -> pd.DataFrame:
    """Return what was forgotten of each gene, and what might tell why.

    Parameters
    ----------
    model
        A trained GIL.
    of
        ``"tokens"`` or ``"queries"``; see `kernomics.models.GIL.losses`.

    Returns
    -------
    pandas.DataFrame
        A row for each gene of which values were hidden: the stage that brings it, ``n`` hidden
        values, its mean squared error ``learned`` (after that stage) and ``last``, their difference
        ``delta``; the share of that stage's training cells that express it (``detection``), its
        mean log expression there (``expression``), and the largest correlation with a base gene
        (``with_base``; of specific genes alone). The last three are of 2,000 cells, spread evenly,
        where there are more.
    """
    if of not in ("tokens", "queries"):
        raise ConfigError(f"of is {of!r}: 'tokens' or 'queries' are possible")
    if model.model is None:
        raise ConfigError("the model is not trained yet; call train() first")
    stages = model.stages
    group = stages.group_of_gene()
    rows_of = [name for name in model.scores if name in stages.names]
    last = model.scores[rows_of[-1]]
    n = last.counts
    learned = np.empty(len(group))
    for g, name in enumerate(stages.names):
        scores = model.scores.get(name, last)
        learned[group == g] = getattr(scores, of)[group == g]
    kept = n > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        first, now = learned / n, getattr(last, of) / n
    table = pd.DataFrame(
        {
            "stage": np.array(stages.names, dtype=object)[group],
            "n": n,
            "learned": first,
            "last": now,
            "delta": now - first,
            **_expression(model, group),
        },
        index=pd.Index(stages.vocabulary, name="gene"),
    )
    return table[kept]


def _expression(model: GIL, group: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Describe each gene in the training cells of its own stage."""
    found = {name: np.full(len(group), np.nan) for name in ("detection", "expression", "with_base")}
    base = np.flatnonzero(group == 0)
    for stage in range(len(model.stages)):
        rows = spread(model.staged.rows(stage), MOST_CELLS)
        mine = np.flatnonzero(group == stage)
        blocks = [
            log_expression(model.staged.cells.batch(rows[part]), model.config.target_sum)
            for part in parts(len(rows))
        ]
        total = np.zeros(len(group))
        seen = np.zeros(len(group))
        for block in blocks:
            total += np.asarray(block.sum(0)).ravel()
            seen += np.asarray((block > 0).sum(0)).ravel()
        found["detection"][mine] = seen[mine] / len(rows)
        found["expression"][mine] = total[mine] / len(rows)
        if stage:
            found["with_base"][mine] = _largest_correlation(blocks, mine, base)
    return found


def _largest_correlation(
    blocks: list[Any], some: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return each gene's largest correlation with one of the others; NaN where it is constant."""
    n = sum(block.shape[0] for block in blocks)
    product = np.zeros((len(others), len(some)))
    moments = {name: np.zeros(blocks[0].shape[1]) for name in ("sum", "square")}
    for block in blocks:
        x = block.astype(np.float64).tocsc()
        product += np.asarray((x[:, others].T @ x[:, some]).todense())
        moments["sum"] += np.asarray(x.sum(0)).ravel()
        moments["square"] += np.asarray(x.multiply(x).sum(0)).ravel()
    mean = moments["sum"] / n
    deviation = np.sqrt(np.maximum(moments["square"] / n - mean**2, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (product / n - np.outer(mean[others], mean[some])) / np.outer(
            deviation[others], deviation[some]
        )
    found[~np.isfinite(found)] = -np.inf
    best = np.asarray(found.max(0), np.float64)
    best[np.isinf(best)] = np.nan
    return best


@checked
def what_predicts(table: pd.DataFrame, stage: str) -> dict[str, float]:
    """Return the rank correlation of forgetting with what describes the genes of a stage.

    Parameters
    ----------
    table
        From `gene_forgetting`.
    stage
        Whose genes.

    Returns
    -------
    dict
        Spearman's ρ of ``delta`` with ``detection``, ``expression`` and ``with_base``; NaN where
        there are fewer than three genes or one side does not vary.
    """
    if "stage" not in table.columns or stage not in set(table["stage"]):
        there = list(dict.fromkeys(table["stage"])) if "stage" in table.columns else []
        raise ConfigError(
            f"the table has no genes of stage {shown(stage)}; {closest(stage, there)}"
        )
    part = table[table["stage"] == stage]
    return {
        name: _spearman(part["delta"].to_numpy(), part[name].to_numpy())
        for name in ("detection", "expression", "with_base")
    }


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    ranks = pd.DataFrame({"a": a[both], "b": b[both]}).rank()
    if len(ranks) < 3 or (ranks.nunique() < 2).any():
        return float("nan")
    return float(np.corrcoef(ranks["a"], ranks["b"])[0, 1])
