"""The batches of a training whose panel becomes fixed on the way."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from kernomics.data import CellCollection, Cells, Loader, Sampler
from kernomics.models.yoto.module import YOTOModule


class PanelLoader:
    """Batches of all genes, and once the panel is fixed of its genes alone.

    These few are read into memory in one pass, so that the second part of a training reads
    neither the file nor other genes any more.
    """

    def __init__(self, cells: CellCollection, sampler: Sampler, module: YOTOModule) -> None:
        self.whole, self.module = Loader(cells, sampler), module
        self.panel: Loader | None = None

    @property
    def n_batches(self) -> int:
        """Batches in an epoch."""
        return self.whole.n_batches

    @property
    def order(self) -> int:
        """The version of the sampler's order."""
        return self.whole.order

    def use_order(self, version: int) -> None:
        """Go on under a version of the order; see `kernomics.data.Loader`."""
        self.whole.use_order(version)
        self.panel = None

    def epoch(self, epoch: int, start: int = 0) -> Generator[Cells, None, None]:
        """Yield the batches of an epoch from `start` on; see `kernomics.data.Loader`."""
        if not self.module.fixed:
            with closing(self.whole.epoch(epoch, start)) as batches:
                while start < self.n_batches and not self.module.fixed:
                    yield next(batches)
                    start += 1
        if start < self.n_batches:
            yield from self._panel().epoch(epoch, start)

    def _panel(self) -> Loader:
        if self.panel is None:
            columns = self.module.fixed_panel.cpu().numpy()
            self.panel = Loader(self.whole.cells.load_genes(columns), self.whole.sampler)
        return self.panel
