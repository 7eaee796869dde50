"""Which genes each cell's data set observed, one table for many batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ._kinds import device_of, integers_of, require_integers, require_lists


@dataclass(frozen=True, eq=False)
class ObservedGenes:
    """P panels of observed genes, and which of them each cell of a batch has.

    Build one with :meth:`from_lists`, then give it every batch's cells with :meth:`with_panel_id`,
    which copies nothing.

    Attributes
    ----------
    panel_id
        int32 [B], the panel of each cell.
    indptr
        int64 [P + 1]: panel p's genes are ``genes[indptr[p]:indptr[p + 1]]``.
    genes
        int32, ascending in each panel.
    mask
        uint8 [P, G], 1 where a panel holds a gene.
    counts
        int64 [P], genes in each panel.
    largest, smallest
        Genes in the largest and the smallest panel: numbers, so that nobody needs to ask a device.
    """

    panel_id: Tensor
    indptr: Tensor
    genes: Tensor
    mask: Tensor
    counts: Tensor
    largest: int
    smallest: int

    @property
    def n_genes(self) -> int:
        """G."""
        return self.mask.shape[1]

    @classmethod
    def from_lists(
        cls,
        panels: Sequence[Tensor | npt.ArrayLike],
        n_genes: int,
        panel_id: Tensor | npt.ArrayLike = (),
    ) -> ObservedGenes:
        """Build the table, on the CPU, from each panel's genes.

        Parameters
        ----------
        panels
            Per panel its genes' indices, in any order, each at most once.
        n_genes
            G, the size of the vocabulary that the indices refer to.
        panel_id
            [B], the panel of each cell of a first batch, if there is one already.

        Raises
        ------
        ValueError
            No panels, a gene outside the vocabulary, or one that a panel holds twice.
        """
        require_lists("panels", panels)
        require_integers(n_genes=n_genes)
        if n_genes < 0:
            raise ValueError(f"n_genes is {n_genes}; it is how many genes there are")
        if not panels:
            raise ValueError("no panels are given; name at least one list of genes")
        lists = [np.sort(integers_of(f"panels[{p}]", panel)) for p, panel in enumerate(panels)]
        for p, genes in enumerate(lists):
            outside = genes[(genes < 0) | (genes >= n_genes)]
            if len(outside):
                raise ValueError(
                    f"panel {p} holds {len(outside):,} genes outside the {n_genes:,} of the "
                    f"vocabulary, first {outside[0]:,}; use indices below n_genes, from 0"
                )
            twice = genes[1:][genes[1:] == genes[:-1]]
            if len(twice):
                raise ValueError(
                    f"panel {p} repeats {len(twice):,} of its {len(genes):,} genes, first gene "
                    f"{twice[0]:,}; give each gene once"
                )
        counts = np.array([len(genes) for genes in lists], dtype=np.int64)
        mask = np.zeros((len(lists), n_genes), dtype=np.uint8)
        for row, genes in zip(mask, lists, strict=True):
            row[genes] = 1
        return cls(
            panel_id=_ids(panel_id),
            indptr=torch.from_numpy(np.concatenate([[0], counts.cumsum()])),
            genes=torch.from_numpy(np.concatenate(lists).astype(np.int32)),
            mask=torch.from_numpy(mask),
            counts=torch.from_numpy(counts),
            largest=int(counts.max()),
            smallest=int(counts.min()),
        )

    def with_panel_id(self, panel_id: Tensor | npt.ArrayLike) -> ObservedGenes:
        """Return the same table for other cells, those of panels ``panel_id`` [B]."""
        return replace(self, panel_id=_ids(panel_id).to(self.mask.device))

    def select_genes(self, columns: Tensor | npt.ArrayLike) -> ObservedGenes:
        """Return the panels over other genes: new gene i is old gene ``columns[i]``, −1 for none.

        The table is built anew, on the CPU.
        """
        wanted = integers_of("columns", columns)
        wrong = np.flatnonzero((wanted < -1) | (wanted >= self.n_genes))
        if wrong.size:
            raise ValueError(
                f"columns names {wrong.size:,} genes outside the {self.n_genes:,} of the "
                f"vocabulary, first {wanted[wrong[0]]:,}; use −1 to {self.n_genes - 1:,}"
            )
        held = self.mask.cpu().numpy().astype(bool)[:, wanted] & (wanted >= 0)
        lists = [np.flatnonzero(row) for row in held]
        panels = ObservedGenes.from_lists(lists, len(wanted), self.panel_id.cpu())
        return panels.to(self.mask.device)

    def map(self, move: Callable[[Tensor], Tensor]) -> ObservedGenes:
        """Return the table with `move` applied to every tensor."""
        return ObservedGenes(
            move(self.panel_id), move(self.indptr), move(self.genes), move(self.mask),
            move(self.counts), self.largest, self.smallest,
        )  # fmt: skip

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ObservedGenes:
        """Return the table with every tensor on `device`."""
        device = device_of(device)

        def move(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=non_blocking)

        return self.map(move)


def _ids(panel_id: Tensor | npt.ArrayLike) -> Tensor:
    """Return the panels of cells as int32; the ops look whether there are such panels."""
    if isinstance(panel_id, Tensor) and panel_id.dtype == torch.int32:
        return panel_id
    if not np.size(panel_id):
        return torch.empty(0, dtype=torch.int32)
    return torch.from_numpy(integers_of("panel_id", panel_id).astype(np.int32))
