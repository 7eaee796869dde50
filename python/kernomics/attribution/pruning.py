"""Gene pruning: how well a model still predicts when it sees only the top genes of a ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from kernomics._arguments import checked, numbers_of
from kernomics._warnings import warn
from kernomics.attribution.attribution import cells_of, classes_of, trained_model, with_counts
from kernomics.attribution.kernels import as_saved, no_kernel_per_shape
from kernomics.attribution.sources import Inputs, PhenotypeSource
from kernomics.data import CellCollection
from kernomics.data.readers.inputs import ReadOptions
from kernomics.data.rng import Stream, permutation
from kernomics.errors import ConfigError, DataError, closest
from kernomics.metrics import class_scores
from kernomics.models import YOTO, Panel, PhenotypeModel, PolyGene

if TYPE_CHECKING:
    from anndata import AnnData

SHARES = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.997)
"""Shares of the genes that are removed."""
CELLS = 300
CELLS_AT_A_TIME = 50


@dataclass(frozen=True)
class Pruning:
    """How well predictions hold up as genes are removed.

    Attributes
    ----------
    table
        One row per ranking, order and share removed: how many genes are kept; balanced accuracy,
        precision, macro-F1 and weighted F1 over case and baseline cells together; recall and
        precision of the case; and how many cells have no gene left.
    areas
        For each ranking and order, the area under the curve of balanced accuracy against the share
        removed, from 0 to 1.
    empty
        What the model calls a cell without genes, and with what probability. Once the evidence is
        gone, every cell is called that, so the recall of this class means nothing.
    n_cells
        How many case and baseline cells are scored.
    """

    table: pd.DataFrame
    areas: pd.DataFrame
    empty: tuple[str, float]
    n_cells: dict[str, int]

    @checked
    def at(self, share: float, order: str = "lowest first") -> pd.Series[float]:
        """Return each ranking's balanced accuracy at one share removed."""
        rows = self.table[(self.table["order"] == order) & np.isclose(self.table["removed"], share)]
        if rows.empty:
            raise ConfigError(
                f"there is no share {share:g} removed {order}; there are "
                f"{', '.join(f'{s:g}' for s in sorted(set(self.table['removed'])))}, "
                f"{' and '.join(sorted(set(self.table['order'])))}"
            )
        return rows.set_index("ranking")["balanced_accuracy"]

    def to_dict(self) -> dict[str, Any]:
        """Return a form for JSON."""
        return {
            "curves": self.table.to_dict("records"),
            "areas": self.areas.to_dict("records"),
            "empty_cell": {"called": self.empty[0], "probability": self.empty[1]},
            "n_cells": self.n_cells,
        }


@checked
def prune(
    adata: AnnData | str | Path | CellCollection,
    model: PolyGene | PhenotypeModel | Panel | YOTO | str | Path,
    rankings: Mapping[str, Any],
    *,
    target: str,
    case: str,
    baseline: str,
    rows: ArrayLike | None = None,
    n_cells: int = CELLS,
    shares: Sequence[float] = SHARES,
    reversed_too: bool = True,
    min_gene_overlap: float = 0.8,
    seed: int = 0,
    progress: bool = False,
    **reading: Unpack[ReadOptions],
) -> Pruning:
    """Remove genes in the order of rankings, and score the model's predictions on what is left.

    Parameters
    ----------
    adata
        The cells, as for `attribute`.
    model
        A PolyGene. A panel, which has been pruned already, is refused.
    rankings
        For each ranking, scores of the model's genes: a Series by gene or an array [G] in the
        model's order. The highest scores are kept longest; ties are broken at random, by the seed.
    target, case, baseline
        As for `attribute`.
    rows
        Which cells, int [n] or bool [n_cells]. By default, for a PolyGene in memory and the cells
        it was made with, its test cells; else all. They should not be those attributed.
    n_cells
        How many cells to use at most, half of them case cells if there are enough; chosen by the
        seed.
    shares
        Shares of the genes to remove, from 0 to below 1.
    reversed_too
        Whether to remove the highest scores first as well.
    min_gene_overlap
        The share of the model's genes that the data must have.
    seed
        Seed of the choice of cells and of ties.
    progress
        Whether to show a progress bar.
    **reading
        How to read an AnnData or a file, as in `kernomics.data.ReadOptions`.

    Raises
    ------
    DataError, ConfigError
        Naming what was found, where, how many and the remedy.
    """
    trained = trained_model(model)
    if not isinstance(trained, PhenotypeModel):
        raise ConfigError("model is a panel, which has been pruned already; give a PolyGene")
    if not shares or not all(0 <= share < 1 for share in shares):
        raise ConfigError(f"shares is {tuple(shares)}: shares from 0 to below 1 are needed")
    if n_cells < 2:
        raise ConfigError(f"n_cells is {n_cells}: at least 2 are needed, one of each class")
    cells, rows = cells_of(model, adata, rows, reading, part="test")
    source = PhenotypeSource(trained, cells, target, min_gene_overlap=min_gene_overlap)
    rows = with_counts(source, rows)
    chosen, truth = _choice(cells, trained, rows, target, (case, baseline), n_cells, seed)
    orders = {name: _order(name, scores, source.genes, seed) for name, scores in rankings.items()}
    if not orders:
        raise ConfigError("rankings is empty: give scores of the genes by name")
    inputs = [
        source.inputs(chosen[i : i + CELLS_AT_A_TIME])
        for i in range(0, len(chosen), CELLS_AT_A_TIME)
    ]
    n_genes, code = len(source.genes), source.classes.index(case)
    jobs = [
        (name, order, share)
        for name in orders
        for order in ("lowest first", "highest first")[: 1 + reversed_too]
        for share in sorted(set(map(float, shares)))
    ]
    found = []
    whole: tuple[NDArray[np.int64], int] | None = None  # with all genes every ranking is alike
    for name, order, share in tqdm(jobs, unit="cut", desc="pruning", disable=not progress):
        kept = np.zeros(n_genes, dtype=bool)
        n_kept = max(1, round(n_genes * (1 - share)))
        best = orders[name]
        kept[best[:n_kept] if order == "lowest first" else best[n_genes - n_kept :]] = True
        if n_kept == n_genes and whole is not None:
            called, without = whole
        else:
            called, without = _called(source, inputs, torch.from_numpy(kept))
        if n_kept == n_genes:
            whole = called, without
        scores = class_scores(truth, called)
        hits = (called == code) & (truth == code)
        found.append(
            {
                "ranking": name,
                "order": order,
                "removed": share,
                "n_genes": n_kept,
                **scores,
                "case_recall": hits.sum() / (truth == code).sum(),
                "case_precision": hits.sum() / max(1, (called == code).sum()),
                "cells_without_genes": without,
            }
        )
    table = pd.DataFrame(found)
    n_case = int((truth == code).sum())
    return Pruning(
        table,
        _areas(table),
        _empty(source, inputs[0]),
        {case: n_case, baseline: len(truth) - n_case},
    )


def _choice(
    cells: CellCollection,
    model: PhenotypeModel,
    rows: NDArray[np.int64],
    target: str,
    values: tuple[str, str],
    n_cells: int,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose cells of both classes, and return their codes by the model's classes."""
    label, classes = classes_of(cells, target), model.task(target).classes
    sides = []
    for i, value in enumerate(values):
        for names, whose in ((label.categories, "the data"), (classes, "the model")):
            if value not in names:
                raise ConfigError(
                    f"{value!r} is not a value of {target!r} in {whose}: {', '.join(names)}"
                )
        side = rows[label.values[rows] == label.categories.index(value)]
        if not len(side):
            raise DataError(
                f"none of the {len(rows):,} cells to prune on has {target!r} = {value!r}; give "
                "other rows"
            )
        sides.append(side[permutation(len(side), seed, Stream.PRUNED_CELLS, i)])
    n_case = min(len(sides[0]), max(n_cells // 2, n_cells - len(sides[1])))
    take = (n_case, min(len(sides[1]), n_cells - n_case))
    chosen = [np.sort(side[:n]) for side, n in zip(sides, take, strict=True)]
    codes = [np.full(len(c), classes.index(v)) for c, v in zip(chosen, values, strict=True)]
    return np.concatenate(chosen), np.concatenate(codes)


def _order(name: str, scores: Any, genes: NDArray[np.object_], seed: int) -> NDArray[np.int64]:
    """Return the genes' numbers, highest score first."""
    if isinstance(scores, pd.Series):
        if not scores.index.is_unique:
            twice = scores.index[scores.index.duplicated()]
            raise DataError(
                f"ranking {name!r} has {len(twice):,} genes twice, first {twice[0]!r}; give one "
                "score for each"
            )
        lacking = [gene for gene in genes if gene not in scores.index]
        if lacking:
            raise DataError(
                f"ranking {name!r} has no score for {len(lacking):,} of the model's {len(genes):,} "
                f"genes, first {lacking[0]!r}"
            )
        scores = scores.reindex(genes.tolist()).to_numpy()
    values = numbers_of(f"ranking {name!r}", scores)
    if values.shape != genes.shape:
        raise DataError(
            f"ranking {name!r} has shape {values.shape}; one score for each of the "
            f"{len(genes):,} genes is needed"
        )
    if np.isnan(values).any():
        first = int(np.flatnonzero(np.isnan(values))[0])
        raise DataError(
            f"ranking {name!r} is NaN for {int(np.isnan(values).sum()):,} genes, first "
            f"{genes[first]!r}"
        )
    if len(values) > 1 and (values == values[0]).all():
        warn(f"ranking {name!r} scores all {len(genes):,} genes alike, so that its order is chance")
    chance = permutation(len(genes), seed, Stream.PRUNED_TIES)
    found: NDArray[np.int64] = chance[np.argsort(-values[chance], kind="stable")]
    return found


def _called(
    source: PhenotypeSource, inputs: Sequence[Inputs], kept: torch.Tensor
) -> tuple[NDArray[np.int64], int]:
    """Return the class of each cell predicted from the genes kept, and how many cells have none."""
    called, without = [], 0
    with torch.inference_mode(), as_saved(), no_kernel_per_shape():
        for part in inputs:
            there = kept.to(part.gene_ids.device)[part.gene_ids]
            cells = torch.repeat_interleave(torch.arange(len(part.rows)), part.lengths)
            lengths = torch.bincount(cells[there.cpu()], minlength=len(part.rows))
            less = Inputs(
                part.gene_ids[there],
                lengths,
                part.features[there],
                part.expression[there],
                part.rows,
            )
            called.append(source.outputs(less, less.features).argmax(1).cpu().numpy())
            without += int((lengths == 0).sum())
    return np.concatenate(called), without


def _empty(source: PhenotypeSource, inputs: Inputs) -> tuple[str, float]:
    none = Inputs(
        inputs.gene_ids[:0],
        torch.zeros(1, dtype=torch.int64),
        inputs.features[:0],
        inputs.expression[:0],
        inputs.rows[:1],
    )
    with torch.inference_mode():
        found = source.outputs(none, none.features).softmax(1)[0]
    return source.classes[int(found.argmax())], float(found.max())


def _areas(table: pd.DataFrame) -> pd.DataFrame:
    found = []
    for (name, order), part in table.groupby(["ranking", "order"], sort=False):
        removed, score = part["removed"].to_numpy(), part["balanced_accuracy"].to_numpy()
        width = removed[-1] - removed[0]
        area = float(np.trapezoid(score, removed) / width) if width > 0 else float(score[0])
        found.append({"ranking": name, "order": order, "area": area})
    return pd.DataFrame(found)


@checked
def retrain(
    model: PolyGene,
    rankings: Mapping[str, Any],
    *,
    target: str,
    n_genes: Sequence[int] = (50, 200),
    seed: int = 0,
    progress: bool = False,
    **training: Any,
) -> pd.DataFrame:
    """Train a new model on the top genes of each ranking, to see which choice makes the best one.

    Parameters
    ----------
    model
        A PolyGene; the new models have its cells, split, phenotypes and settings.
    rankings
        As for `prune`; made from the training cells.
    target
        The phenotype to score.
    n_genes
        How many top genes; one model for each number.
    seed
        Seed of ties, the initial weights and the order of the cells.
    progress
        Whether to show a progress bar of each training.
    **training
        Settings of `TrainConfig`; by default those of `model`.

    Returns
    -------
    pandas.DataFrame
        One row per ranking and number of genes: balanced accuracy and macro-F1 on the test cells.
        Cells with none of the genes are predicted too, from nothing, and count.
    """
    names = [task.name for task in model.tasks]
    if target not in names:
        raise ConfigError(f"the model has no phenotype {target!r}; {closest(target, names)}")
    if not len(model.split.test):
        raise ConfigError("the split has no test cells; give fractions a third share above 0")
    found = []
    for name, scores in rankings.items():
        order = _order(name, scores, model.genes, seed)
        for n in n_genes:
            if not 1 <= n <= len(order):
                raise ConfigError(f"n_genes has {n}: each must be from 1 to {len(order):,}")
            new = PolyGene(
                model.cells,
                genes=model.genes[np.sort(order[:n])].tolist(),
                split=model.split,
                seed=seed,
                config=model.config,
                task_weights={task.name: task.weight for task in model.tasks},
            )
            new.training = model.training
            new.train(**{"progress": progress, **training})
            score = new.test_metrics()[target]
            found.append(
                {
                    "ranking": name,
                    "n_genes": n,
                    "balanced_accuracy": score["balanced_accuracy"],
                    "macro_f1": score["macro_f1"],
                }
            )
    return pd.DataFrame(found)
