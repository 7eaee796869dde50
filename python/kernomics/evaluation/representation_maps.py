"""UMAPs of the same cells from a TxFM's representation and from PCA, and how they agree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kernomics._optional import require_extra
from kernomics.baselines.representations import baseline_representations
from kernomics.data import CellCollection, Labels, Split
from kernomics.evaluation import cell_maps
from kernomics.models import CellEncoder


@dataclass(frozen=True, eq=False)
class RepresentationMaps:
    """The same n cells in two maps; made by `representation_maps`.

    Attributes
    ----------
    points
        UMAP coordinates, float32 [n, 2], without a unit, by ``"TxFM"`` and ``"PCA"``. Those of PCA
        are turned and mirrored, not stretched, to lie as the others do.
    rows
        int64 [n], sorted: the cells shown.
    labels
        By name the labels of the cells shown.
    batch
        The name of the label that is the batch, if any.
    library_size
        float32 [n], each cell's total.
    n_dimensions
        Of each representation, by name.
    part, n_from, seed
        ``"held-out"`` or ``"all"``: the cells that those shown were drawn from, how many these
        were, and the seed of the draw and of the maps.
    neighbours_kept
        Mean share of a cell's 15 nearest neighbours in PCA that are among its 15 nearest in the
        TxFM's representation.
    same_class
        By label and representation the mean share of a labelled cell's labelled neighbours that
        are of its own class.
    """

    points: dict[str, NDArray[np.float32]]
    rows: NDArray[np.int64]
    labels: dict[str, Labels]
    batch: str | None
    library_size: NDArray[np.float32]
    n_dimensions: dict[str, int]
    part: str
    n_from: int
    seed: int
    neighbours_kept: float
    same_class: dict[str, dict[str, float]]

    @property
    def kept_by_chance(self) -> float:
        """`neighbours_kept` of representations that have nothing in common: 15 / (n − 1)."""
        return cell_maps.N_NEIGHBORS / (len(self.rows) - 1)


def representation_maps(
    model: CellEncoder,
    cells: CellCollection,
    split: Split | None = None,
    *,
    n_tokens: int | None = None,
    n_draws: int = 1,
    min_gene_overlap: float = 0.8,
    max_cells: int = 3000,
    seed: int = 0,
) -> RepresentationMaps:
    """Map cells by a TxFM's representation and by PCA.

    PCA is of the log-normalised counts of all genes that every cell has measured, fitted on the
    training cells of the split, or without them on the cells shown, with as many components as the
    model has dimensions. Then in both: 15 neighbours, and UMAP [1]_ started from the first two
    components.
    """
    require_extra("scanpy", purpose="a UMAP")
    rows, part, n_from = cell_maps.shown_cells(cells.n_cells, split, max_cells, seed)
    fitted = split.train if split is not None and len(split.train) else rows
    width = min(model.config.d_model, len(fitted) - 1, cells.n_genes - 1)
    empty = np.empty(0, dtype=np.int64)
    shown = Split(fitted, empty, rows, how="random", by=None, seed=seed)
    spaces = {
        "TxFM": model.get_latent_representation(
            cells, rows=rows, n_tokens=n_tokens, n_draws=n_draws, min_gene_overlap=min_gene_overlap
        ),
        "PCA": baseline_representations(cells, shown, width, seed)["PCA"][1],
    }
    near = {name: cell_maps.neighbours(space) for name, space in spaces.items()}
    points = {name: cell_maps.umap(space, seed) for name, space in spaces.items()}
    points["PCA"] = cell_maps.turned(points["PCA"], points["TxFM"])
    batch = cells.batch_labels
    labels = dict(cells.labels)
    if batch is not None:
        labels.setdefault(batch.name, batch)
    labels = {name: replace(label, values=label.values[rows]) for name, label in labels.items()}
    return RepresentationMaps(
        points={name: found.astype(np.float32) for name, found in points.items()},
        rows=rows,
        labels=labels,
        batch=None if batch is None else batch.name,
        library_size=cells.library[rows],
        n_dimensions={name: space.shape[1] for name, space in spaces.items()},
        part=part,
        n_from=n_from,
        seed=seed,
        neighbours_kept=cell_maps.shared(near["PCA"], near["TxFM"]),
        same_class={
            name: {of: cell_maps.same_class(found, label.values) for of, found in near.items()}
            for name, label in labels.items()
            if label.kind == "categorical"
        },
    )
