"""Blood cells of five data sets over their common genes, and the stages of gene-incremental runs.

The specific genes of a stage are the most important ones of a labelled set (Wilcoxon's test, class
by class); the cells of all sets are divided at random, half to the base stage.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kernomics.baselines import specific_genes
from kernomics.data import CellCollection, Stages, concat, gene_stages
from kernomics.data.expression import genes_by_variance

UNLABELLED = ("pbmc_10x_3chemistries", "pbmc_donorA")
LABELLED = {
    "zheng": ("zheng_pbmc_facs", "cell_type", None),
    "pbmc3k": ("pbmc3k", "cell_type", "unassigned"),
    "kang": ("kang_ifnb_harmony", "cell_type_ctrl_only", None),
}
"""Per stage its labelled set, the label, and the class that means that there is none."""
N_SPECIFIC = 150


def read(data: Path) -> tuple[CellCollection, dict[str, CellCollection]]:
    """Return all cells over the genes common to all sets, and the labelled sets over these."""
    found = {
        name: CellCollection.from_anndata(
            data / f"{file}.h5ad", labels_key=key, unlabelled_category=none, in_memory=True
        )
        for name, (file, key, none) in LABELLED.items()
    }
    others = {
        name: CellCollection.from_anndata(data / f"{name}.h5ad", in_memory=True)
        for name in UNLABELLED
    }
    every = {**found, **others}
    common = set.intersection(*(set(map(str, cells.genes)) for cells in every.values()))
    genes = [str(gene) for gene in found["pbmc3k"].genes if str(gene) in common]
    every = {name: cells.with_genes(genes, 1.0) for name, cells in every.items()}
    return concat(every), {name: every[name] for name in found}


def stages(
    cells: CellCollection,
    labelled: dict[str, CellCollection],
    names: tuple[str, ...],
    *,
    n_base: int | None = None,
    seed: int = 0,
) -> Stages:
    """Return a base stage and one for each labelled set named.

    Parameters
    ----------
    cells, labelled
        From `read`.
    names
        The stages after the base, in their order.
    n_base
        Base genes, those whose expression varies most; all common ones by default.
    seed
        Of the cells' division.
    """
    keys = {name: LABELLED[name][1] for name in names}
    found = specific_genes({name: labelled[name] for name in names}, keys, n_genes=N_SPECIFIC)
    base = None
    if n_base is not None:
        specific = {gene for genes in found.lists.values() for gene in genes}
        order = genes_by_variance(cells, np.arange(cells.n_cells))
        base = [str(cells.genes[i]) for i in order if cells.genes[i] not in specific][:n_base]
    return gene_stages(cells, found.lists, base=base, seed=seed)
