"""Which genes a selection must take, and which it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics.errors import ConfigError, DataError, closest


@dataclass(frozen=True, eq=False)
class GeneBounds:
    """Genes that are not free to be chosen or left out.

    Attributes
    ----------
    forced
        int64, indices of genes always in the panel.
    never
        int64, indices of genes never in it: forbidden, or seen in too few training cells.
    forbidden_names
        The forbidden genes alone.
    usable
        How many genes the panel can be chosen from, the forced ones included.
    """

    forced: NDArray[np.int64]
    never: NDArray[np.int64]
    forbidden_names: tuple[str, ...]
    usable: int


def gene_bounds(
    genes: NDArray[Any],
    n_expressing: NDArray[np.int64],
    *,
    n_genes: int,
    min_cells: int,
    forced: str | Sequence[str] = (),
    forbidden: str | Sequence[str] = (),
) -> GeneBounds:
    """Work out the bounds of a selection.

    Parameters
    ----------
    genes
        Names of all genes, [G].
    n_expressing
        int64 [G], training cells that have the gene.
    n_genes, min_cells
        As in `YOTOConfig`.
    forced, forbidden
        Names of genes always, never in the panel. A forced gene may be rare.

    Raises
    ------
    DataError
        When a name is not among the genes.
    ConfigError
        When a gene is both forced and forbidden, or `n_genes` is less than the forced or more than
        the usable genes.
    """
    place = {gene: i for i, gene in enumerate(genes)}
    named = {
        what: [names] if isinstance(names, str) else list(dict.fromkeys(names))
        for what, names in (("forced", forced), ("forbidden", forbidden))
    }
    for what, names in named.items():
        absent = [name for name in names if name not in place]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(names)} {what} genes are not in the data, first "
                f"{absent[0]!r}; {closest(absent[0], genes)}"
            )
    both = [name for name in named["forced"] if name in named["forbidden"]]
    if both:
        raise ConfigError(
            f"{_genes(both)} both forced and forbidden, first {both[0]!r}; take each out of one "
            "list"
        )
    if len(named["forced"]) > n_genes:
        raise ConfigError(
            f"{_genes(named['forced'])} forced, more than n_genes = {n_genes}; raise n_genes or "
            "force fewer"
        )
    inside, outside = (
        np.sort(np.array([place[name] for name in names], dtype=np.int64))
        for names in named.values()
    )
    rare = np.flatnonzero(n_expressing < min_cells)
    never = np.setdiff1d(np.union1d(rare, outside), inside)
    usable = len(genes) - len(never)
    if n_genes > usable:
        raise ConfigError(
            f"n_genes = {n_genes:,} but only {usable:,} of {len(genes):,} genes are usable: "
            f"{len(outside):,} are forbidden and {len(rare):,} are seen in fewer than {min_cells} "
            "training cells; lower n_genes"
        )
    return GeneBounds(inside, never, tuple(sorted(named["forbidden"])), usable)


def _genes(names: Sequence[str]) -> str:
    return f"{len(names)} gene is" if len(names) == 1 else f"{len(names)} genes are"
