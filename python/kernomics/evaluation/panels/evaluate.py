"""How well a given list of genes tells the labels apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics import baselines, metrics
from kernomics._arguments import checked
from kernomics._warnings import warn
from kernomics.data import CellCollection, Labels, Split
from kernomics.data.expression import measured_everywhere
from kernomics.data.gene_columns import counts_of_genes, find_genes
from kernomics.data.trained_classes import trained_classes
from kernomics.errors import ConfigError, DataError


@dataclass(frozen=True, eq=False, kw_only=True)
class PanelEvaluation:
    """Test scores of a logistic (or ridge) regression on the panel's genes.

    Attributes
    ----------
    genes
        The panel that was scored.
    scores
        For each label, ``accuracy``, ``macro_f1`` and ``auprc``, or ``r2``, ``mae`` and
        ``pearson``.
    per_class
        For each categorical label, a table with index ``class`` and columns ``f1`` (NaN for a class
        without test or training cells), ``n_train``, ``n_test`` (cells of the class).
    n_train, n_test
        Cells of the two parts, whether labelled or not.
    missing
        Requested genes that are missing from the data, or not measured in every cell.
    random
        For each label, a table with index ``metric`` and columns ``mean``, ``sd`` over random
        panels of the same size; sd is NaN for a single one. Empty if none were requested.
    """

    genes: list[str]
    scores: dict[str, dict[str, float]]
    per_class: dict[str, pd.DataFrame]
    n_train: int
    n_test: int
    missing: list[str] = field(default_factory=list)
    random: dict[str, pd.DataFrame] = field(default_factory=dict)


@checked
def evaluate_panel(
    cells: CellCollection,
    genes: str | Sequence[str],
    split: Split,
    *,
    n_random: int = 0,
    seed: int = 0,
    allow_missing: bool = False,
) -> PanelEvaluation:
    """Score any list of genes for every label of the cells.

    The predictor is `kernomics.metrics.evaluate_genes` (`evaluate_genes_regression` for continuous
    labels), trained on the training cells with only log1p of the counts of these genes, and scored
    on the test cells. The same predictor compares panels in the report of a selection.

    Parameters
    ----------
    cells
        Cells with at least one label; data on disk are read in blocks of cells.
    genes
        Names of genes in the data, without repeats.
    split
        Its training and test cells are used.
    n_random
        Also score this many random panels of the same size, drawn from the genes detected in
        training cells.
    seed
        Seed of the random panels: number i has the seed ``seed + i``.
    allow_missing
        Leave out genes missing from the data, or not measured in every cell, instead of raising an
        error.

    Returns
    -------
    PanelEvaluation
        Scores per label and per class.

    Raises
    ------
    DataError
        If a gene is repeated or not in the data, a part has no labelled cells, or the split leaves
        nothing to learn for a label; see `trained_classes`.
    ConfigError
        Without labels, training or test cells, or with too few genes for random panels.
    ImportError
        For a categorical label, without scikit-learn (extra ``report``).

    Warns
    -----
    UserWarning
        If a class has no training cells (its test cells are left out) or few.
    """
    if not cells.labels:
        raise ConfigError("the cells have no label to predict; read them with labels_key")
    if n_random < 0:
        raise ConfigError(f"n_random is {n_random}: 0 or more random panels can be drawn")
    for part in ("train", "test"):
        if not len(getattr(split, part)):
            raise ConfigError(f"the split has no {part} cells; give that part a fraction above 0")
    known, weak = trained_classes(cells.labels, split)
    for told in weak:
        warn(told)
    panel, missing = find_genes(genes, cells, allow_missing=allow_missing)
    drawn = _random_panels(cells, split, len(panel), n_random, seed) if n_random else []
    read = list(dict.fromkeys([*panel, *(gene for one in drawn for gene in one)]))
    place = {gene: i for i, gene in enumerate(read)}
    n_train = len(split.train)
    counts = counts_of_genes(cells, read, np.concatenate([split.train, split.test]))

    def judge(label: Labels, of: Sequence[str]) -> Any:
        columns = [place[gene] for gene in of]
        x_train, x_test = counts[:n_train, columns], counts[n_train:, columns]
        y_train, y_test = label.values[split.train], label.values[split.test]
        try:
            return metrics.score_panel(label.kind, x_train, y_train, x_test, y_test)
        except DataError as error:
            raise DataError(f"label {label.name!r}: {error}") from None

    scores, per_class, random = {}, {}, {}
    for name, label in known.items():
        score = judge(label, panel)
        scores[name] = score.metrics
        if label.kind == "categorical":
            per_class[name] = _per_class(cells.labels[name], label.categories, split, score.f1)
        if drawn:
            random[name] = _spread([judge(label, one).metrics for one in drawn])
    return PanelEvaluation(
        genes=panel,
        scores=scores,
        per_class=per_class,
        n_train=n_train,
        n_test=len(split.test),
        missing=missing,
        random=random,
    )


def _random_panels(
    cells: CellCollection, split: Split, k: int, n_random: int, seed: int
) -> list[list[str]]:
    detected = cells.summary(split.train).n_expressing > 0
    pool = cells.genes[detected & measured_everywhere(cells)]
    if k > len(pool):
        raise ConfigError(
            f"random panels of {k:,} genes cannot be drawn from the {len(pool):,} genes detected "
            "in training cells; set n_random=0"
        )
    # numpy takes no negative seed.
    seeds = [seed % 2**63 + i for i in range(n_random)]
    return [pool[baselines.random_panel(len(pool), k, one)].tolist() for one in seeds]


def _per_class(
    label: Labels, known: Sequence[str], split: Split, f1: NDArray[np.float64]
) -> pd.DataFrame:
    # The judge knows classes of training cells, up to the largest code it met.
    place = {name: i for i, name in enumerate(label.categories)}
    found = np.full(label.n_classes, np.nan)
    found[[place[name] for name in known[: len(f1)]]] = f1
    return pd.DataFrame(
        {
            "f1": found,
            "n_train": list(label.subset(split.train).counts().values()),
            "n_test": list(label.subset(split.test).counts().values()),
        },
        index=pd.Index(label.categories, name="class"),
    )


def _spread(found: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    table = pd.DataFrame(found)
    return pd.DataFrame(
        {"mean": table.mean(skipna=False), "sd": table.std(ddof=1, skipna=False)}
    ).rename_axis("metric")
