"""Data sets to start with: real cells that come with scanpy, and simulated ones of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import sparse

from kernomics._arguments import checked
from kernomics.data.simulate import simulate
from kernomics.errors import DataError, percent

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["pbmc68k", "simulate"]


@checked
def pbmc68k() -> AnnData:
    """Return 700 blood cells × 765 genes as counts; no network is needed.

    These are the cells of ``scanpy.datasets.pbmc68k_reduced()`` (10x Genomics, fresh 68k PBMCs,
    donor A), which ships with scanpy. Its ``raw`` holds r = log1p(10⁴·n/N) to three decimals, with
    n the counts and N the cell's total ``obs["n_counts"]``, so that n = round(expm1(r)·N/10⁴). Two
    things are verified first: that these counts reproduce r, and that they equal the integers that
    follow from each cell's smallest step alone, without N.

    Returns
    -------
    anndata.AnnData
        X and ``layers["counts"]``: float32 CSR [700, 765], integers. obs: ``bulk_labels`` (10 cell
        types; the same as ``cell_type``), ``n_counts`` (total over all measured genes, used as the
        library size), and the other columns of scanpy's file. ``uns["kernomics"]``: notes on the
        data, such as that the genes are a subset of those measured.

    Raises
    ------
    ImportError
        Without scanpy, which the extra ``report`` installs.
    DataError
        If scanpy's file is not the expected one.
    """
    try:
        import scanpy
    except ImportError as error:
        raise ImportError(
            "pbmc68k() reads cells that ship with scanpy, which is not installed; pip install "
            "'kernomics[report]'"
        ) from error
    import anndata

    stored = scanpy.datasets.pbmc68k_reduced()
    raw = stored.raw.X.toarray().astype(np.float64)
    total = stored.obs["n_counts"].to_numpy(dtype=np.float64)
    counts = counts_from_log1p(raw, total)
    obs = stored.obs.copy()
    obs["cell_type"] = obs["bulk_labels"]
    share = counts.sum(axis=1) / total
    sizes = obs["cell_type"].value_counts()
    note = (
        f"The {counts.shape[1]} genes account for {percent(share.min())} to "
        f"{percent(share.max())} of a cell's total counts (obs['n_counts']). The rarest of the "
        f"{sizes.size} classes, {sizes.index[-1]}, has {sizes.iloc[-1]} cells."
    )
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return anndata.AnnData(
        X=matrix,
        obs=obs,
        var=stored.var[["means", "dispersions"]].copy(),
        layers={"counts": matrix.copy()},
        obsm={"X_umap": stored.obsm["X_umap"].copy()},
        uns={
            "kernomics": {
                "dataset": "pbmc68k",
                "source": "scanpy.datasets.pbmc68k_reduced(), from the 10x Genomics fresh 68k "
                "PBMCs",
                "genes_are_subset": True,
                "note": note,
            }
        },
    )


def counts_from_log1p(
    raw: npt.NDArray[np.float64], total: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Recover counts from log1p of counts per 10,000 that were rounded to three decimals."""
    scaled = np.expm1(raw)
    counts = np.rint(scaled * total[:, None] / 1e4)
    error = np.abs(np.log1p(counts * 1e4 / total[:, None]) - raw)
    allowed = 5e-4 + 4 * np.finfo(np.float32).eps * np.maximum(np.abs(raw), 1)
    step = np.where(scaled > 0, scaled, np.inf).min(axis=1, keepdims=True)
    by_step = np.rint(scaled / step)
    for wrong, said in (
        (error > allowed, "do not reproduce raw to three decimals"),
        (by_step != counts, "are not whole multiples of their cell's smallest step"),
    ):
        if wrong.any():
            row, column = (int(place) for place in np.argwhere(wrong)[0])
            raise DataError(
                f"{np.count_nonzero(wrong):,} of {wrong.size:,} counts recovered from raw {said}, "
                f"first {counts[row, column]:g} at row {row}, column {column}; this is not the "
                "pbmc68k_reduced file of scanpy 1.10: install that version"
            )
    return counts
