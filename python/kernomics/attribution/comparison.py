"""What to compare an attribution with: differential expression, statistics, known gene sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from kernomics._arguments import checked, shown, words_of
from kernomics._optional import keep_torch_threads, require_extra
from kernomics._warnings import warn
from kernomics.attribution.attribution import Attribution
from kernomics.data import CellCollection, Labels
from kernomics.data.expression import CELLS_AT_A_TIME, expression_moments, log_expression
from kernomics.errors import ConfigError, DataError

FEWEST = 2
"""How many cells of each side a stratum needs to be tested."""
ATTRIBUTIONS = ("absolute", "signed_by_change", "effect", "importance", "forward", "backward")


@checked
def rankings_of(attribution: Attribution, others: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return the rankings to prune by: those of an attribution, and other columns of scores.

    Parameters
    ----------
    attribution
        Its signed scores are taken by the absolute value of their means too.
    others
        Scores per gene, such as `gene_statistics` gives.

    A score that is the same for all genes, as the importance by a complete engine, is left out.
    """
    table = attribution.table
    found: dict[str, Any] = {name: table[name] for name in ATTRIBUTIONS}
    for name in ("effect", "importance", "forward", "backward"):
        found[f"|{name}|"] = table[name].abs()
    for name in () if others is None else others.columns:
        found[str(name)] = others[name].reindex(table.index)  # type: ignore[index]
    return {name: scores for name, scores in found.items() if scores.nunique(dropna=False) > 1}


@checked
def gene_statistics(
    cells: CellCollection,
    genes: Any,
    target: Labels,
    case: str,
    baseline: str,
    rows: Any,
    *,
    controlled: Sequence[Labels] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Score genes without a model.

    Parameters
    ----------
    cells
        The cells.
    genes
        Names of the genes to score; the data must have them all.
    target, case, baseline
        The label, and the two values to compare.
    rows
        int64 [n], the cells to use: those attributed.
    controlled
        Labels within whose strata the test is repeated.
    seed
        Seed of the random scores.

    Returns
    -------
    pandas.DataFrame
        One row per gene. ``DE``: scanpy's Wilcoxon z of the case against the baseline, on log
        expression; ``|DE|``; ``DE within strata``, the same in each combination of the controlled
        labels, combined as Σ √n z / √Σ n; ``HVG``, the variance of log expression; ``mean``;
        ``dropout``, the share of cells without a count; ``random``. A gene is scored over the cells
        whose data set measured it.
    """
    rows = np.asarray(rows, dtype=np.int64)
    view = cells.with_genes(list(genes), 1.0)
    codes = [target.categories.index(value) for value in (case, baseline)]
    rows = np.sort(rows[np.isin(target.values[rows], codes)])
    mean, variance = expression_moments(view, rows)
    summary = view.summary(rows)
    is_case = target.values[rows] == codes[0]
    expression = _expression(view, rows)
    found = {"DE": np.zeros(view.n_genes)}
    if controlled:
        found["DE within strata"] = np.zeros(view.n_genes)
    n_measured = np.zeros(view.n_genes, np.int64)
    for columns, own in _measured(view, rows):
        n_measured[columns] = own.sum()
        part, side = sparse.csr_matrix(expression[own][:, columns]), is_case[own]
        if min(side.sum(), (~side).sum()) < FEWEST:
            warn(
                f"differential expression needs {FEWEST} cells on each side; {len(columns):,} "
                f"genes were measured in {side.sum():,} case and {(~side).sum():,} baseline "
                "cells: their DE is 0"
            )
            continue
        found["DE"][columns] = _wilcoxon(part, side)
        if controlled:
            within = _within(part, side, rows[own], controlled)
            found["DE within strata"][columns] = within
    found["|DE|"] = np.abs(found["DE"])
    found["HVG"] = variance
    found["mean"] = mean
    found["dropout"] = 1 - np.asarray(summary.n_expressing) / np.maximum(1, n_measured)
    found["random"] = np.random.default_rng(seed).random(len(mean))
    return pd.DataFrame(found, index=pd.Index(view.genes.astype(str)))


def _measured(
    cells: CellCollection, rows: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Return groups of genes with the rows, bool [n], whose data sets measured them."""
    if cells.observed is None or cells.panel_of_cell is None:
        return [(np.arange(cells.n_genes), np.ones(len(rows), dtype=bool))]
    mask, panels = cells.observed.mask.numpy().astype(bool), cells.panel_of_cell[rows]
    patterns, of_gene = np.unique(mask, axis=1, return_inverse=True)
    return [
        (np.flatnonzero(of_gene.ravel() == i), patterns[panels, i])
        for i in range(patterns.shape[1])
    ]


def _expression(cells: CellCollection, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    parts = [
        log_expression(cells.batch(rows[start : start + CELLS_AT_A_TIME]))
        for start in range(0, len(rows), CELLS_AT_A_TIME)
    ]
    return sparse.csr_matrix(sparse.vstack(parts))


def _wilcoxon(expression: sparse.csr_matrix, is_case: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return scanpy's z-scores of all genes, case against baseline."""
    scanpy = require_extra("scanpy", purpose="differential expression")
    anndata = require_extra("anndata", purpose="differential expression")
    adata = anndata.AnnData(
        expression,
        obs=pd.DataFrame(
            {"side": pd.Categorical(np.where(is_case, "case", "baseline"))},
            index=[str(i) for i in range(len(is_case))],
        ),
        var=pd.DataFrame(index=[str(i) for i in range(expression.shape[1])]),
    )
    adata.uns["log1p"] = {"base": None}  # tells scanpy that the values are logarithms
    with keep_torch_threads():
        scanpy.tl.rank_genes_groups(
            adata, "side", groups=["case"], reference="baseline", method="wilcoxon", use_raw=False
        )
    result = adata.uns["rank_genes_groups"]
    scores = np.zeros(expression.shape[1])
    scores[np.asarray(result["names"]["case"], dtype=np.int64)] = result["scores"]["case"]
    finite: NDArray[np.float64] = np.nan_to_num(scores)
    return finite


def _within(
    expression: sparse.csr_matrix,
    is_case: NDArray[np.bool_],
    rows: NDArray[np.int64],
    controlled: Sequence[Labels],
) -> NDArray[np.float64]:
    names = pd.Series(
        list(zip(*[label.values[rows].tolist() for label in controlled], strict=True)),
        dtype=object,
    )
    total, size = np.zeros(expression.shape[1]), 0
    for stratum in names.unique():
        own = np.array([name == stratum for name in names])
        if -1 in stratum or min(is_case[own].sum(), (~is_case[own]).sum()) < FEWEST:
            continue
        n = int(own.sum())
        total += np.sqrt(n) * _wilcoxon(sparse.csr_matrix(expression[own]), is_case[own])
        size += n
    if not size:
        warn(
            "no combination of the controlled labels has two cells on each side: the test within "
            "strata is 0 for every gene"
        )
        return total
    combined: NDArray[np.float64] = total / np.sqrt(size)
    return combined


# -- truths ----------------------------------------------------------------------------------------


@checked
def read_gene_sets(path: str | Path) -> dict[str, list[str]]:
    """Read gene sets from a GMT file: a name, a description and genes per line, tab-separated.

    Raises
    ------
    DataError
        When there is no such file, or a line holds no genes.
    """
    if not Path(path).is_file():
        raise DataError(f"there is no file '{path}'")
    found = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        fields = [part.strip() for part in line.split("\t")]
        genes = [gene for gene in fields[2:] if gene]
        if not genes:
            raise DataError(
                f"'{path}', line {number}: a gene set is a name, a description and genes, between "
                f"tabs; this line has {len(fields)} fields"
            )
        if fields[0] in found:
            raise DataError(f"'{path}', line {number}: a second gene set is called {fields[0]!r}")
        found[fields[0]] = genes
    if not found:
        raise DataError(f"'{path}' holds no gene set")
    return found


@checked
def recall_of_sets(
    scores: Mapping[str, Any], sets: Mapping[str, Any], *, n: int = 30
) -> pd.DataFrame:
    """Score rankings of genes by how high they place the genes of known sets.

    Parameters
    ----------
    scores
        For each ranking, a Series of scores by gene; the highest score ranks first.
    sets
        For each set, the names of its genes.
    n
        How many top genes to look for genes of the set in.

    Returns
    -------
    pandas.DataFrame
        One row per set and ranking: how many genes of the set are scored, the average precision,
        that of a random order, and how many of the top n genes are in the set. Ties keep the order
        of the genes.

    Raises
    ------
    DataError
        When no gene of any set is scored.

    Warns
    -----
    UserWarning
        When a set has no gene in the data; it is left out.
    """
    if n < 1:
        raise ConfigError(f"n is {n}: at least 1 is needed")
    rows, absent = [], []
    for name, named in sets.items():
        genes = words_of(f"sets[{name!r}]", named)
        for ranking, values in scores.items():
            table = values if isinstance(values, pd.Series) else pd.Series(values)
            order = np.argsort(-table.to_numpy(), kind="stable")
            hits = np.isin(table.index.astype(str)[order], genes)
            if not hits.any():
                absent.append(name)
                break
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            rows.append(
                {
                    "set": name,
                    "ranking": ranking,
                    "genes": int(hits.sum()),
                    "average_precision": float(precision[hits].mean()),
                    "by_chance": float(hits.mean()),
                    f"in_top_{n}": int(hits[:n].sum()),
                }
            )
    if absent and not rows:
        first = next(iter(sets[absent[0]]), "")
        raise DataError(
            f"none of the {len(sets)} gene sets has a gene in the data (first set {absent[0]!r}, "
            f"first gene {first!r}): are the names of the same kind? see gene_names"
        )
    if absent:
        warn(f"{len(absent)} gene sets have no gene in the data, first {absent[0]!r}; left out")
    return pd.DataFrame(rows)


@checked
def top_genes(scores: Mapping[str, Any], n: int = 30) -> pd.DataFrame:
    """Return the top n genes of each ranking, one column per ranking."""
    if n < 1:
        raise ConfigError(f"n is {n}: at least 1 is needed")
    for name, values in scores.items():
        if not isinstance(values, pd.Series):
            raise ConfigError(f"scores[{name!r}] is {shown(values)}: a Series by gene is needed")
    shown_genes = min([n, *map(len, scores.values())])
    return pd.DataFrame(
        {
            name: values.sort_values(ascending=False, kind="stable").index[:shown_genes].astype(str)
            for name, values in scores.items()
        },
        index=pd.RangeIndex(1, shown_genes + 1, name="rank"),
    )


def overlap(tops: pd.DataFrame) -> pd.DataFrame:
    """Return how many top genes each two rankings share, from a table of `top_genes`."""
    sets = {name: set(tops[name]) for name in tops}
    return pd.DataFrame(
        [[len(sets[a] & sets[b]) for b in tops] for a in tops], index=tops.columns,
        columns=tops.columns,
    )  # fmt: skip


@checked
def recurring(
    attributions: Mapping[str, Attribution], *, by: str = "absolute", n: int = 30
) -> pd.DataFrame:
    """Return the genes that are among the top genes of more than one attribution.

    Parameters
    ----------
    attributions
        Attributions by name, such as one for each disease.
    by
        The score to rank by.
    n
        How many top genes to take from each.

    Returns
    -------
    pandas.DataFrame
        One row per gene: in how many attributions it recurs, and its rank in each, from 1; NaN
        where it is not among the top n.
    """
    if n < 1:
        raise ConfigError(f"n is {n}: at least 1 is needed")
    for name, found in attributions.items():
        if not isinstance(found, Attribution):
            raise ConfigError(f"attributions[{name!r}] is {shown(found)}: an Attribution is needed")
    ranks = {
        name: pd.Series(np.arange(1, n + 1)[: len(top)], index=top.index)
        for name, top in ((name, found.top(n, by)) for name, found in attributions.items())
    }
    table = pd.DataFrame(ranks)
    table.insert(0, "recurs_in", table.notna().sum(axis=1))
    table = table[table["recurs_in"] > 1]
    best = table.drop(columns="recurs_in").min(axis=1)
    order = np.lexsort((best.to_numpy(), -table["recurs_in"].to_numpy()))
    return table.iloc[order]
