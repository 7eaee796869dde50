"""Highly variable genes: the panel one would choose without labels.

Trial on inner splits: the training part of a stratified 70/10/20 split of each set (classes of at
least 20 cells) was divided again, stratified 70/30 with seeds 100 to 102; genes seen in at least 3
cells; mean macro-F1 of `evaluate_genes` on the inner validation cells.

    flavour              pbmc3k                 zheng_pbmc_facs
                         k=16   32     64       k=16   32     64
    pearson_residuals    0.857  0.895  0.910    0.628  0.694  0.733
    cell_ranger          0.588  0.750  0.799    0.352  0.544  0.633
    seurat               0.074  0.141  0.181    0.226  0.346  0.460

The last two are made for thousands of genes: their first few dozen are mostly rare genes that
stand out within their bin of mean expression.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kernomics._arguments import checked, shown
from kernomics._optional import keep_torch_threads, require_extra
from kernomics.baselines.de import _log_normalised
from kernomics.errors import ConfigError, DataError, closest

HVGFlavor = Literal["pearson_residuals", "cell_ranger", "seurat"]
"""How `hvg_panel` measures variability."""


def counts_matrix(data: Any, layer: str | None) -> sparse.csr_matrix:
    """Return the counts of an AnnData (``X`` or a layer), or of a bare matrix, as CSR."""
    if not hasattr(data, "obs"):
        if layer is not None:
            raise ConfigError(
                f"layer={layer!r} was given, but the counts are a bare matrix; pass an AnnData"
            )
        try:
            return sparse.csr_matrix(data)
        except (TypeError, ValueError):
            raise DataError(
                f"counts is {shown(data)}: an AnnData or a matrix [cells, genes] is needed"
            ) from None
    if layer is not None and layer not in data.layers:
        raise DataError(f"there is no layer {layer!r}; {closest(layer, data.layers)}")
    return sparse.csr_matrix(data.X if layer is None else data.layers[layer])


@checked
def hvg_panel(
    data: Any,
    k: int,
    *,
    layer: str | None = None,
    flavor: HVGFlavor = "pearson_residuals",
) -> NDArray[np.int64]:
    """Choose the genes that vary most between cells, by scanpy; labels play no part.

    Give it training cells alone, or the panel has seen the test cells. Cells without counts are
    passed over. Ties, such as genes without counts, come last in the order of their columns. The
    result does not depend on a seed, and the first j genes are the panel of size j.

    Parameters
    ----------
    data
        AnnData, or raw counts [cells, genes] as scipy sparse or an array. It is not modified.
    k
        Size of the panel.
    layer
        Layer of the AnnData that holds the counts; ``X`` by default.
    flavor
        ``"pearson_residuals"``: variance of the Pearson residuals of the counts under a negative
        binomial with θ = 100 and a mean proportional to the cell's total, clipped to
        ±√cells (Lause et al. 2021), by far the best on our trial. ``"cell_ranger"``,
        ``"seurat"``: dispersion of the counts per 10,000 (log1p-transformed for scanpy),
        normalised within bins of mean expression (Zheng et al. 2017, Satija et al. 2015).

    Returns
    -------
    ndarray
        int64 [k], gene indices, most variable first.

    Raises
    ------
    ConfigError
        If k is not between 1 and the number of genes, there is no such flavour, or a layer is
        named for a bare matrix.
    DataError
        If fewer than two cells have counts, the layer is missing, or the genes are too few or too
        much alike for the flavour's bins.
    ImportError
        Without scanpy (extra ``report``).
    """
    counts = counts_matrix(data, layer)
    if not 1 <= k <= counts.shape[1]:
        raise ConfigError(f"a panel of {k} genes was asked for, from {counts.shape[1]:,} genes")
    filled = np.asarray(counts.sum(axis=1)).ravel() > 0
    if filled.sum() < 2:
        raise DataError(
            "highly variable genes need two cells with counts; found "
            f"{int(filled.sum())} among {filled.size:,} cells"
        )
    variability = _variability(counts[filled], k, flavor)
    return np.argsort(-variability, kind="stable")[:k].astype(np.int64, copy=False)


def _variability(counts: sparse.csr_matrix, k: int, flavor: HVGFlavor) -> NDArray[np.float64]:
    """Return scanpy's measure per gene, −∞ where it is undefined."""
    scanpy = require_extra("scanpy", purpose="the highly-variable-genes baseline")
    anndata = require_extra("anndata", purpose="the highly-variable-genes baseline")
    if flavor == "pearson_residuals":
        with keep_torch_threads():
            # Estimated counts need not be integers; scanpy would only warn of them.
            table = scanpy.experimental.pp.highly_variable_genes(
                anndata.AnnData(counts.astype(np.float64)),
                n_top_genes=k,
                check_values=False,
                inplace=False,
            )
        found = table["residual_variances"]
    else:
        cells = anndata.AnnData(_log_normalised(counts))
        cells.uns["log1p"] = {"base": None}  # tells scanpy that the values are logarithms
        undefined = DataError(
            f"flavor={flavor!r} cannot compare these {counts.shape[1]:,} genes within bins of "
            "their mean expression; use flavor='pearson_residuals'"
        )
        try:
            # Genes without variance get no value.
            with keep_torch_threads(), np.errstate(all="ignore"):
                table = scanpy.pp.highly_variable_genes(cells, flavor=flavor, inplace=False)
        except ValueError as error:  # bins of no width
            raise undefined from error
        found = table["dispersions_norm"]
        if found.isna().all():
            raise undefined
    values = found.to_numpy(dtype=np.float64)
    return np.where(np.isnan(values), -np.inf, values)


class HVGBaseline:
    """`hvg_panel` as a `Baseline`.

    Parameters
    ----------
    flavor
        As in `hvg_panel`.
    """

    @checked
    def __init__(self, flavor: HVGFlavor = "pearson_residuals") -> None:
        self.flavor: HVGFlavor = flavor
        self.name = f"HVG ({flavor.replace('_', ' ').capitalize()})"

    @checked
    def select(
        self, counts: Any, labels: NDArray[np.int64], n_genes: int, *, seed: int
    ) -> NDArray[np.int64]:
        """Choose ``n_genes`` columns of ``counts``; the labels and the seed play no part."""
        return hvg_panel(counts, n_genes, flavor=self.flavor)
