"""`attribute`: which genes make a model call a cell one thing and not another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from kernomics._arguments import checked, require_least, words_of
from kernomics._version import __version__
from kernomics._warnings import warn
from kernomics.attribution.engines import COMPLETE
from kernomics.attribution.pairs import Pairs, make_pairs
from kernomics.attribution.reduction import Contrast, attribute_pairs
from kernomics.attribution.rules import VERSION
from kernomics.attribution.separation import separation, tell_if_weak
from kernomics.attribution.sources import PanelSource, PhenotypeSource, Source
from kernomics.data import CellCollection, Labels
from kernomics.data.labels import column
from kernomics.data.readers.inputs import ReadOptions
from kernomics.data.row_numbers import row_numbers
from kernomics.errors import ConfigError, DataError
from kernomics.models import YOTO, Panel, PhenotypeModel, PolyGene, load
from kernomics.models.base import checked_integer

if TYPE_CHECKING:
    from anndata import AnnData

COMPARED = 64
"""Cells by which it is told whether data are those of a model."""


@dataclass(frozen=True)
class Attribution:
    """Scores of the genes for one comparison.

    Attributes
    ----------
    table
        One row per gene of the model: ``forward`` f(I, B) and ``backward`` f(B, I), means over all
        pairs, a gene that neither cell of a pair has counting 0; ``importance``, their mean, as in
        the paper; ``effect``, (forward − backward)/2, what the gene argues for the case;
        ``absolute``, the mean of (abs(forward) + abs(backward))/2, how much it matters;
        ``signed_by_change``, that with the sign of the change of expression;
        ``presence``, with a complete engine, the part of ``forward`` that is due to a gene's being
        there in one cell alone; ``expression_change``, the mean difference of log expression;
        standard deviations over the pairs; and ``n_pairs``, in how many a cell has it.
    by_group
        Per score a table of genes × combinations of controlled values.
    pairs
        The cells compared.
    params
        How: target, case, baseline, controlled, engine and so on.
    completeness
        float [n_pairs]; see `GeneScores`.
    zeros
        Per score the mean share of a pair's genes that have none.
    """

    table: pd.DataFrame
    by_group: dict[str, pd.DataFrame]
    pairs: Pairs
    params: dict[str, Any]
    completeness: NDArray[np.float64]
    zeros: dict[str, float] = field(default_factory=dict)

    @checked
    def top(self, n: int = 30, by: str = "absolute") -> pd.DataFrame:
        """Return the n genes that score highest, in order."""
        if by not in self.table.columns:
            raise ConfigError(f"by is {by!r}; the scores are {', '.join(self.table.columns)}")
        require_least(0, n=n)
        return self.table.sort_values(by, ascending=False, kind="stable").head(n)

    def summary(self) -> dict[str, Any]:
        """Return parameters, numbers of pairs and completeness, for ``uns`` and for JSON."""
        at = (0.5, 0.9, 0.99, 1.0)
        quantiles = np.quantile(self.completeness, at)
        names = ("median", "90%", "99%", "max")
        return {
            "params": self.params,
            "n_pairs": len(self.pairs),
            "n_cells": {
                "case": len(np.unique(self.pairs.case)),
                "baseline": len(np.unique(self.pairs.baseline)),
            },
            "pairs_per_group": dict(
                zip(
                    self.pairs.groups,
                    np.bincount(self.pairs.group, minlength=len(self.pairs.groups)).tolist(),
                    strict=True,
                )
            ),
            "left_out": dict(self.pairs.left_out),
            "completeness": {n: float(q) for n, q in zip(names, quantiles, strict=True)},
            "zeros": dict(self.zeros),
        }


@checked
def attribute(
    adata: AnnData | str | Path | CellCollection,
    model: PolyGene | PhenotypeModel | YOTO | Panel | str | Path,
    *,
    target: str,
    case: str,
    baseline: str,
    controlled: str | Sequence[str] = (),
    rows: ArrayLike | None = None,
    n_pairs: int | None = None,
    n_baselines: int | None = None,
    engine: str = "grad_x_delta",
    contrast: Contrast = "pairs",
    output: str = "logits",
    normalise: bool = False,
    n_tokens: int | None = None,
    min_gene_overlap: float = 0.8,
    seed: int = 0,
    progress: bool = False,
    **reading: Unpack[ReadOptions],
) -> Attribution:
    """Score the genes by what they move a model's output from baseline cells to case cells.

    Parameters
    ----------
    adata
        The cells: AnnData, path of an ``.h5ad`` file, or a collection. Not modified.
    model
        A PolyGene, a YOTO, or what either saved.
    target
        obs column, a phenotype that the model predicts.
    case, baseline
        Two of its values.
    controlled
        obs columns whose values the two cells of a pair share. A PolyGene is shown those of them
        that it knows.
    rows
        The cells to take, int [n] or bool [n_cells]. By default, for a PolyGene or YOTO in memory,
        those that are its training cells, known by their names and counts; else all, and cells that
        are not the model's are told. Cells without a count of the model's genes are left out.
    n_pairs, n_baselines, seed
        As in `kernomics.attribution.make_pairs`.
    engine
        ``"grad_x_delta"``, as in the paper; ``"deeplift"``, whose scores add up to the difference
        that they explain; or ``"integrated_gradients"``, which do so nearly and take 16 times as
        long. See `kernomics.attribution.engines`.
    contrast, normalise
        As in `kernomics.attribution.attribute_pairs`.
    output
        Attribute ``"logits"`` or ``"probabilities"``.
    n_tokens
        The most genes of a cell that a PolyGene is shown; all by default.
    min_gene_overlap
        The share of the model's genes that the data must have.
    progress
        Whether to show a progress bar.
    **reading
        How to read an AnnData or a file, as in `kernomics.data.ReadOptions`.

    Raises
    ------
    DataError, ConfigError
        Naming what was found, where, how many and the remedy.

    Warns
    -----
    UserWarning
        If the model hardly tells the cells apart (``params["separation"]``, the area under the ROC
        curve, below 0.6); if cells are not the model's, or were cut to n_tokens.
    """
    cells, rows = cells_of(model, adata, rows, reading)
    trained = trained_model(model)
    keys = words_of("controlled", controlled)
    if target in keys:
        raise ConfigError(
            f"controlled has the target {target!r}: the two cells of a pair differ in it"
        )
    source: Source
    if n_tokens is not None:
        n_tokens = checked_integer("n_tokens", n_tokens)
    if isinstance(trained, PhenotypeModel):
        classes = trained.task(target).classes
        source = PhenotypeSource(
            trained, cells, target, keys,
            output=output, n_tokens=n_tokens, min_gene_overlap=min_gene_overlap,
        )  # fmt: skip
    else:
        if n_tokens is not None:
            raise ConfigError("n_tokens is about a PolyGene; a panel is shown whole")
        source = PanelSource(trained, cells, target, output=output)
        classes = tuple(source.classes)
    for name, value in (("case", case), ("baseline", baseline)):
        if value not in classes:
            raise ConfigError(
                f"{name} is {value!r}, a value of {target!r} that the model was not trained on; it "
                f"knows {', '.join(classes)}"
            )
    rows = with_counts(source, rows)
    unknown = trained.info.get("unlabelled_category")
    label = classes_of(cells, target, unknown)
    pairs = make_pairs(
        label,
        case,
        baseline,
        rows,
        controlled=[classes_of(cells, key, unknown) for key in keys],
        n_pairs=n_pairs,
        n_baselines=n_baselines,
        seed=seed,
    )
    found = attribute_pairs(
        source,
        pairs,
        classes.index(case),
        other=classes.index(baseline),
        engine=engine,
        contrast=contrast,
        normalise=normalise,
        progress=progress,
    )
    auc = separation(source, pairs, classes.index(case), classes.index(baseline))
    tell_if_weak(auc, case, baseline)
    cut = len(getattr(source, "cut", ()))
    if cut:
        warn(f"{cut:,} cells express more than n_tokens = {n_tokens:,} genes; a choice was shown")
    params = {
        "version": __version__,
        "model": repr(trained),
        "target": target,
        "case": case,
        "baseline": baseline,
        "controlled": keys,
        "engine": engine,
        "contrast": contrast,
        "output": output,
        "normalise": normalise,
        "complete": engine in COMPLETE,
        **({"rules": VERSION} if engine == "deeplift" else {}),
        "seed": seed,
        "n_cells_given": len(rows),
        "separation": auc,
    }
    return Attribution(found.table, found.by_group, pairs, params, found.completeness, found.zeros)


def trained_model(model: Any) -> PhenotypeModel | Panel:
    """Return what predicts, of a model or a path."""
    if isinstance(model, str | Path):
        model = load(model)
    if isinstance(model, PolyGene | YOTO):
        model = model.trained
    if not isinstance(model, PhenotypeModel | Panel):
        raise ConfigError(
            f"model is {model!r}: a PolyGene, a YOTO or the path of a saved one is needed"
        )
    return model


def cells_of(
    model: Any, adata: Any, rows: ArrayLike | None, reading: ReadOptions, part: str = "train"
) -> tuple[CellCollection, NDArray[np.int64]]:
    """Read cells, and say which to take: those asked for, a part of the model's own, or all."""
    cells = trained_model(model).read(adata, **reading)
    if rows is not None:
        return cells, row_numbers(rows, cells.n_cells)
    if not isinstance(model, PolyGene | YOTO):
        return cells, np.arange(cells.n_cells)
    own, words = getattr(model.split, part), {"train": "training", "test": "test"}[part]
    if cells is model.cells:
        return cells, np.sort(own)
    at = pd.Index(model.cells.cell_names).get_indexer(pd.Index(cells.cell_names))
    if not _same_counts(cells, model.cells, at):
        warn(
            "these cells are not those that the model was made with (their names or counts "
            f"differ), so all {cells.n_cells:,} are taken; name some with rows"
        )
        return cells, np.arange(cells.n_cells)
    found = np.flatnonzero(np.isin(at, own))
    if not len(found):
        raise DataError(
            f"none of the {cells.n_cells:,} cells is a {words} cell of the model; name some with "
            "rows"
        )
    return cells, found


def _same_counts(cells: CellCollection, own: CellCollection, at: NDArray[np.int64]) -> bool:
    """Tell whether cells of the same names have the same counts, from a few of them."""
    known = np.flatnonzero(at >= 0)
    if not len(known) or not np.isin(own.genes, cells.genes).all():
        return False
    rows = known[np.unique(np.linspace(0, len(known) - 1, COMPARED).astype(np.int64))]
    one, two = cells.with_genes(own.genes, 1.0).batch(rows), own.batch(at[rows])
    return torch.equal(one.indptr, two.indptr) and all(
        torch.equal(a.to(b.dtype), b)
        for a, b in ((one.indices, two.indices), (one.values, two.values))
    )


def with_counts(source: Source, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out cells that have no count of the model's genes, with a warning."""
    if source.has_all_genes:
        return rows
    ordered = np.sort(rows)
    full = []
    for start, stop in source.view.blocks():
        part = ordered[slice(*np.searchsorted(ordered, [start, stop]))]
        if len(part):
            full.append(part[(source.view.batch(part).indptr.diff() > 0).numpy()])
    kept = np.concatenate([np.empty(0, np.int64), *full])
    if len(kept) < len(rows):
        warn(
            f"{len(rows) - len(kept):,} of {len(rows):,} cells have no count of the model's genes "
            "and are left out"
        )
    return kept


def classes_of(cells: CellCollection, name: str, unlabelled: str | None = None) -> Labels:
    """Return an obs column as classes, of which one may mean that a cell has none."""
    if name in cells.labels and cells.labels[name].kind == "categorical":
        return cells.labels[name]
    label = Labels.from_series(column(cells.obs, name), name, unlabelled, kind="categorical")
    if not label.categories:
        raise DataError(f"obs column {name!r} has no value in any cell")
    return label
