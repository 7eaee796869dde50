"""Two UMAPs of the same cells, from all genes and from the panel's alone, and how well they agree.

A map can look convincing and be wrong, so three shares come with it that do not depend on it: they
count neighbours in the spaces that the maps are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kernomics._arguments import checked
from kernomics._optional import keep_torch_threads, require_extra
from kernomics._warnings import quietly
from kernomics.data import CellCollection, Split
from kernomics.data.gene_columns import counts_of_genes
from kernomics.errors import DataError
from kernomics.evaluation import cell_maps
from kernomics.evaluation.cell_maps import N_NEIGHBORS

N_COMPONENTS = 30


@dataclass(frozen=True, eq=False)
class PanelEmbedding:
    """The same n cells in two maps; made by `panel_embedding`.

    Attributes
    ----------
    all_genes, panel
        UMAP coordinates, float32 [n, 2], without a unit. The panel's are turned and mirrored, not
        stretched, to lie as the others do.
    rows
        int64 [n], sorted: the cells shown.
    codes
        int64 [n], the class of each cell, −1 unlabelled.
    classes, label
        Names of the classes and of their label; empty without a categorical label.
    n_all, n_panel
        Genes behind each map.
    part
        ``"held-out"`` or ``"all"``: the cells that those shown were drawn from, ``n_from`` of them.
    seed
        Of the draw and of the maps.
    neighbours_kept
        Mean share of a cell's 15 nearest neighbours by all genes that are among its 15 nearest by
        the panel.
    same_class
        Mean share of a labelled cell's labelled neighbours that are of its own class, by all genes
        and by the panel; NaN without labels.
    """

    all_genes: NDArray[np.float32]
    panel: NDArray[np.float32]
    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    label: str
    n_all: int
    n_panel: int
    part: str
    n_from: int
    seed: int
    neighbours_kept: float
    same_class: tuple[float, float]

    @property
    def kept_by_chance(self) -> float:
        """`neighbours_kept` of a panel that says nothing: 15 / (n − 1)."""
        return N_NEIGHBORS / (len(self.rows) - 1)


@checked
def panel_embedding(
    cells: CellCollection,
    genes: Sequence[str],
    split: Split | None = None,
    *,
    label: str | None = None,
    max_cells: int = 3000,
    seed: int = 0,
) -> PanelEmbedding:
    """Map cells by all genes and by a panel alone.

    By all genes: counts normalised to the median total, log1p, 30 principal components. By the
    panel: log1p of its counts, which is what its network reads; 30 principal components if it has
    more genes than that. Then in both: 15 neighbours, and UMAP [1]_ started from the first two
    components.

    Parameters
    ----------
    cells
        Where the counts are.
    genes
        The panel.
    split
        If its test part has at least 300 cells, only those are shown.
    label
        A categorical label of the collection; its first one by default.
    max_cells
        Of more cells, so many are drawn at random.
    seed
        The same seed gives the same maps.

    Returns
    -------
    PanelEmbedding
        Maps, classes and shares.

    Raises
    ------
    ImportError
        Without scanpy or scikit-learn (extra ``report``).
    DataError
        With fewer than 50 cells, for a gene that the collection does not have, or a label that it
        does not have or that is continuous.

    References
    ----------
    .. [1] McInnes, Healy, Melville, "UMAP: Uniform Manifold Approximation and Projection for
       Dimension Reduction", 2018.
    """
    scanpy = require_extra("scanpy", purpose="a UMAP")
    rows, part, n_from = cell_maps.shown_cells(cells.n_cells, split, max_cells, seed)
    name, codes, classes = _classes(cells, label)
    codes = codes[rows]
    every = _log_components(scanpy, counts_of_genes(cells, cells.genes.tolist(), rows), seed)
    panel = _panel_space(scanpy, counts_of_genes(cells, genes, rows), seed)
    near = cell_maps.neighbours(every), cell_maps.neighbours(panel)
    maps = cell_maps.umap(every, seed), cell_maps.umap(panel, seed)
    return PanelEmbedding(
        all_genes=maps[0].astype(np.float32),
        panel=cell_maps.turned(maps[1], maps[0]).astype(np.float32),
        rows=rows,
        codes=codes,
        classes=classes,
        label=name,
        n_all=cells.n_genes,
        n_panel=len(genes),
        part=part,
        n_from=n_from,
        seed=seed,
        neighbours_kept=cell_maps.shared(*near),
        same_class=(cell_maps.same_class(near[0], codes), cell_maps.same_class(near[1], codes)),
    )


def _classes(
    cells: CellCollection, label: str | None
) -> tuple[str, NDArray[np.int64], tuple[str, ...]]:
    known = {name: labels for name, labels in cells.labels.items() if labels.categories}
    if label is not None and label not in known:
        raise DataError(f"{label!r} is not a categorical label of this collection: {list(known)}")
    if not known:
        return "", np.full(cells.n_cells, -1, dtype=np.int64), ()
    name = next(iter(known)) if label is None else label
    return name, known[name].values, known[name].categories


# The spaces -----------------------------------------------------------------------------------


def _log_components(scanpy: Any, counts: sparse.csr_matrix, seed: int) -> NDArray[Any]:
    from anndata import AnnData

    adata = AnnData(counts)
    # A cell without counts stays at zero, which is where it belongs.
    with keep_torch_threads(), quietly(message="Some cells have zero counts"):
        scanpy.pp.normalize_total(adata)
    scanpy.pp.log1p(adata)
    return _components(scanpy, adata.X, seed)


def _panel_space(scanpy: Any, counts: sparse.csr_matrix, seed: int) -> NDArray[Any]:
    values = counts.log1p()
    if counts.shape[1] > N_COMPONENTS:
        return _components(scanpy, values, seed)
    return np.asarray(values.toarray())


def _components(scanpy: Any, values: sparse.csr_matrix, seed: int) -> NDArray[Any]:
    n = min(N_COMPONENTS, *(size - 1 for size in values.shape))
    if n < 1:
        return np.asarray(values.toarray())
    return np.asarray(scanpy.pp.pca(values, n_comps=n, random_state=seed % 2**32))
