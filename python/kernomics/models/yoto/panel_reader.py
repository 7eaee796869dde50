"""Reading the cells of a training whose panel becomes fixed on the way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernomics.data import CellCollection, Cells
from kernomics.models.yoto.module import YOTOModule


class PanelReader:
    """Reads batches for a training: of all genes, and once the panel is fixed of its genes alone.

    These few are read into memory in one pass, so that the second part of a training reads
    neither the file nor other genes any more.
    """

    def __init__(self, cells: CellCollection, module: YOTOModule) -> None:
        self.cells, self.module = cells, module
        self.panel: CellCollection | None = None

    def __call__(self, rows: NDArray[np.int64]) -> Cells:
        """Return the cells of some rows."""
        if not self.module.fixed:
            return self.cells.batch(rows)
        if self.panel is None:
            self.panel = self.cells.load_genes(self.module.fixed_panel.cpu().numpy())
        return self.panel.batch(rows)
