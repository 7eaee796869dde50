"""From AnnData and h5ad to batches of cells: checks, labels, splits, sampling, gene matching."""

from typing import TYPE_CHECKING

from kernomics._lazy import later

if TYPE_CHECKING:
    from kernomics.data.balance import balanced_weights
    from kernomics.data.cells import Cells
    from kernomics.data.collection import CellCollection
    from kernomics.data.concatenate import concat
    from kernomics.data.conversion.convert import Converted, convert
    from kernomics.data.gene_stats import GeneSummary
    from kernomics.data.genes import gene_id_kind, match_genes
    from kernomics.data.label_entropy import ShuffleQuality, shuffle_quality
    from kernomics.data.labels import Labels
    from kernomics.data.loader import Loader
    from kernomics.data.readers.inputs import ReadOptions
    from kernomics.data.readers.own import CellReader
    from kernomics.data.sampler import Sampler
    from kernomics.data.splits import Split, make_split
    from kernomics.data.stages import Stage, Stages, gene_stages
    from kernomics.data.subset import select_cells

__all__ = [
    "CellCollection",
    "CellReader",
    "Cells",
    "Converted",
    "GeneSummary",
    "Labels",
    "Loader",
    "ReadOptions",
    "Sampler",
    "ShuffleQuality",
    "Split",
    "Stage",
    "Stages",
    "balanced_weights",
    "concat",
    "convert",
    "gene_id_kind",
    "gene_stages",
    "make_split",
    "match_genes",
    "select_cells",
    "shuffle_quality",
]

__getattr__ = later(
    __name__,
    {
        "CellCollection": "collection",
        "CellReader": "readers.own",
        "Cells": "cells",
        "Converted": "conversion.convert",
        "GeneSummary": "gene_stats",
        "Labels": "labels",
        "Loader": "loader",
        "ReadOptions": "readers.inputs",
        "Sampler": "sampler",
        "ShuffleQuality": "label_entropy",
        "Split": "splits",
        "Stage": "stages",
        "Stages": "stages",
        "balanced_weights": "balance",
        "gene_id_kind": "genes",
        "gene_stages": "stages",
        "concat": "concatenate",
        "convert": "conversion.convert",
        "make_split": "splits",
        "match_genes": "genes",
        "select_cells": "subset",
        "shuffle_quality": "label_entropy",
    },
)
