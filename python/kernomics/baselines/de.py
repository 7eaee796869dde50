"""Differentially expressed genes: the panel most people would choose by hand.

Each class is compared with all other cells by Wilcoxon's rank-sum test on log-normalised counts
(scanpy's ``rank_genes_groups``). The panel takes the best gene of every class, then the second
best of every class, and so on, skipping genes already taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from kernomics._arguments import checked, codes_of
from kernomics._optional import keep_torch_threads, require_extra
from kernomics.errors import ConfigError, DataError, closest

TARGET_SUM = 1e4  # counts per cell after normalisation, scanpy's tutorials' value


@checked
def round_robin(rankings: Sequence[ArrayLike], k: int) -> NDArray[np.int64]:
    """Merge several rankings: the first of each, then the second of each, without repeats.

    Parameters
    ----------
    rankings
        Gene indices, best first, one list per class (or per task).
    k
        How many different genes to take.

    Returns
    -------
    ndarray
        int64 [k], in the order taken.

    Raises
    ------
    ConfigError
        If the rankings hold fewer than k different genes together.
    """
    if k < 1:
        raise ConfigError(f"k is {k}: at least 1 gene is needed")
    lists = [codes_of(f"rankings[{i}]", ranking) for i, ranking in enumerate(rankings)]
    taken: dict[int, None] = {}
    for place in range(max((ranking.size for ranking in lists), default=0)):
        for ranking in lists:
            if place < ranking.size and len(taken) < k:
                taken.setdefault(int(ranking[place]))
    if len(taken) < k:
        raise ConfigError(
            f"{k} genes were asked for; the {len(lists)} rankings hold {len(taken)} distinct genes"
        )
    return np.fromiter(taken, dtype=np.int64, count=len(taken))


def _log_normalised(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    factor = np.divide(TARGET_SUM, totals, out=np.zeros_like(totals), where=totals > 0)
    scaled = (sparse.diags_array(factor) @ counts).tocsr()
    return sparse.csr_matrix(scaled.log1p().astype(np.float32))


def _codes(data: Any, labels: ArrayLike | str) -> NDArray[np.int64]:
    if not isinstance(labels, str):
        return np.asarray(labels)
    if not hasattr(data, "obs"):
        raise ConfigError(
            f"labels={labels!r} names a column, but the counts are a bare matrix; pass class codes"
        )
    if labels not in data.obs:
        raise DataError(f"obs has no column {labels!r}; {closest(labels, data.obs.columns)}")
    codes: NDArray[np.int64] = data.obs[labels].astype("category").cat.codes.to_numpy(np.int64)
    return codes


@checked
def de_panel(
    data: Any, labels: ArrayLike | str, k: int, *, layer: str | None = None
) -> NDArray[np.int64]:
    """Choose genes that differ between classes, by Wilcoxon's test and round robin over classes.

    Give it training cells alone, or the panel has seen the test cells. Counts are normalised to
    10,000 per cell over the genes given and log1p-transformed. Genes are ranked by the signed
    z-score, so genes that mark a class by their presence come first. Classes with a single cell
    have no test and are passed over. The result does not depend on a seed.

    Parameters
    ----------
    data
        AnnData, or counts [cells, genes] as scipy sparse or an array. It is not modified.
    labels
        Class codes, integer [cells], −1 for unlabelled cells (left out); or the name of an obs
        column when ``data`` is an AnnData.
    k
        Size of the panel.
    layer
        Layer of the AnnData that holds the counts; ``X`` by default.

    Returns
    -------
    ndarray
        int64 [k], gene indices, ranked.

    Raises
    ------
    ConfigError
        If k is not between 1 and the number of genes.
    DataError
        If fewer than two classes have two or more cells, or a column or layer is missing.
    ImportError
        Without scanpy (extra ``report``).
    """
    matrix = data
    if hasattr(data, "obs"):
        if layer is not None and layer not in data.layers:
            raise DataError(f"there is no layer {layer!r}; {closest(layer, data.layers)}")
        matrix = data.X if layer is None else data.layers[layer]
    codes = _codes(data, labels)
    counts = sparse.csr_matrix(matrix)
    if codes.shape != (counts.shape[0],):
        raise DataError(f"{codes.size:,} labels were given for {counts.shape[0]:,} cells")
    if not 1 <= k <= counts.shape[1]:
        raise ConfigError(f"a panel of {k} genes was asked for, from {counts.shape[1]:,} genes")

    found, sizes = np.unique(codes[codes >= 0], return_counts=True)
    classes = found[sizes >= 2]
    if classes.size < 2:
        raise DataError(
            "differential expression needs two classes of at least two cells; found "
            f"{classes.size} among {found.size} classes and {int((codes >= 0).sum()):,} "
            "labelled cells"
        )
    kept = np.isin(codes, found)
    return round_robin(_rank_genes(_log_normalised(counts[kept]), codes[kept], classes), k)


def _rank_genes(
    expression: sparse.csr_matrix, codes: NDArray[np.int64], classes: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Return, per class, all genes by falling z-score against the other cells."""
    scanpy = require_extra("scanpy", purpose="the differential-expression baseline")
    anndata = require_extra("anndata", purpose="the differential-expression baseline")
    pandas = require_extra("pandas", purpose="the differential-expression baseline")

    cells = anndata.AnnData(
        expression,
        obs=pandas.DataFrame(
            {"label": pandas.Categorical(codes.astype(str))},
            index=[str(row) for row in range(codes.size)],
        ),
        var=pandas.DataFrame(index=[str(gene) for gene in range(expression.shape[1])]),
    )
    cells.uns["log1p"] = {"base": None}  # tells scanpy that the values are logarithms
    names = [str(c) for c in classes]
    with keep_torch_threads():
        scanpy.tl.rank_genes_groups(cells, "label", groups=names, method="wilcoxon", use_raw=False)
    ranked = cells.uns["rank_genes_groups"]["names"]
    return [np.asarray(ranked[name], dtype=np.int64) for name in names]


class DEBaseline:
    """`de_panel` as a `Baseline`."""

    name = "DE (Wilcoxon)"

    @checked
    def select(
        self, counts: Any, labels: NDArray[np.int64], n_genes: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Choose ``n_genes`` columns of ``counts``; nothing is random, so the seed is not used."""
        return de_panel(counts, labels, n_genes)
