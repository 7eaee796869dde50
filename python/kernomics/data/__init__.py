"""From AnnData and h5ad to batches of cells: checks, labels, splits, sampling, gene matching."""

from kernomics.data.cells import Cells
from kernomics.data.collection import CellCollection, GeneSummary
from kernomics.data.joint import join
from kernomics.data.labels import Labels
from kernomics.data.match import gene_id_kind, match_genes
from kernomics.data.sampler import Sampler
from kernomics.data.splits import Split, make_split
from kernomics.data.subset import select_cells

__all__ = [
    "CellCollection",
    "Cells",
    "GeneSummary",
    "Labels",
    "Sampler",
    "Split",
    "gene_id_kind",
    "join",
    "make_split",
    "match_genes",
    "select_cells",
]
