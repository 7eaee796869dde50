"""From AnnData and h5ad to batches of cells: checks, labels, splits, sampling, gene matching."""

from typing import TYPE_CHECKING

from kernomics._lazy import later

if TYPE_CHECKING:
    from kernomics.data.cells import Cells
    from kernomics.data.collection import CellCollection
    from kernomics.data.inputs import ReadOptions
    from kernomics.data.joint import join
    from kernomics.data.labels import Labels
    from kernomics.data.match import gene_id_kind, match_genes
    from kernomics.data.sampler import Sampler
    from kernomics.data.splits import Split, make_split
    from kernomics.data.subset import select_cells
    from kernomics.data.summaries import GeneSummary

__all__ = [
    "CellCollection",
    "Cells",
    "GeneSummary",
    "Labels",
    "ReadOptions",
    "Sampler",
    "Split",
    "gene_id_kind",
    "join",
    "make_split",
    "match_genes",
    "select_cells",
]

__getattr__ = later(
    __name__,
    {
        "CellCollection": "collection",
        "Cells": "cells",
        "GeneSummary": "summaries",
        "Labels": "labels",
        "ReadOptions": "inputs",
        "Sampler": "sampler",
        "Split": "splits",
        "gene_id_kind": "match",
        "join": "joint",
        "make_split": "splits",
        "match_genes": "match",
        "select_cells": "subset",
    },
)
