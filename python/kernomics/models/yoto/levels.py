"""Whether cells express a panel at the level of its training cells."""

from __future__ import annotations

import numpy as np

from kernomics.data import CellCollection
from kernomics.data.row_numbers import spread
from kernomics.models.yoto.missing_genes import absent_genes
from kernomics.models.yoto.network import transformed
from kernomics.models.yoto.panel import Panel

CELLS_READ = 4096
FAR = 3.0
"""Times the mean input of the training cells, or as small a part of it, that are told."""
FEW = 1000
"""Counts that must be there before it is told that none is above 1."""
INPUTS = {
    "log1p": "log(1 + count)",
    "binary": "the share of cells that have a gene",
    "lognorm": "log(1 + 10⁴ · count / library)",
}


def level_note(panel: Panel, cells: CellCollection) -> str | None:
    """Say how far the panel's input on some cells is from that on its training cells; or None.

    A panel has seen one depth. Far deeper or shallower cells, or counts of another kind, get
    predictions like any others.

    Parameters
    ----------
    panel
        Trained; one without `input_means` is not compared.
    cells
        Read as for the panel; some 4,000 of them are looked at.
    """
    absent = set(absent_genes(panel.genes, cells))
    here = [i for i, gene in enumerate(panel.genes) if gene not in absent]
    if panel.input_means is None or not here or not len(cells):
        return None
    view = cells.with_genes([panel.genes[i] for i in here], 0.0)
    batch = view.batch(spread(np.arange(len(cells)), CELLS_READ))
    transform = panel.network.transform
    found = float(transformed(batch, transform).dense().mean())
    usual = float(panel.input_means[here].mean())
    if transform != "binary" and batch.values.numel() >= FEW and float(batch.values.max()) <= 1:
        return (
            "no gene of the panel has more than 1 count in any of these cells, as if they told "
            "only whether a gene was there: give the counts that the panel was trained on"
        )
    if not usual or 1 / FAR <= found / usual <= FAR:
        return None
    return (
        f"the panel's mean input ({INPUTS[transform]}) is {found:.3g} in these cells and was "
        f"{usual:.3g} in its training cells: their depth, or the kind of counts, is another, and "
        "what the panel predicts from them may be wrong"
    )
