"""What the questions about a panel share: finding its genes and reading their counts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from kernomics.data import CellCollection, gene_id_kind
from kernomics.data.expression import as_csr, measured_everywhere
from kernomics.data.genes import id_mismatch
from kernomics.data.row_numbers import parts
from kernomics.errors import DataError

NAMES_SHOWN = 5


def find_genes(
    genes: str | Sequence[str], cells: CellCollection, *, allow_missing: bool = False
) -> tuple[list[str], list[str]]:
    """Look a list of genes up by exact name: those that all cells have, and the others."""
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    if not names:
        raise DataError("the list of genes is empty; name at least one")
    repeated = [name for i, name in enumerate(names) if name in names[:i]]
    if repeated:
        raise DataError(
            f"{len(repeated)} of {len(names)} genes in the list repeat an earlier one, first "
            f"{repeated[0]!r}; name each gene once"
        )
    there = set(cells.genes.tolist())
    everywhere = set(cells.genes[measured_everywhere(cells)].tolist())
    missing = [name for name in names if name not in there]
    partly = [name for name in names if name in there and name not in everywhere]
    found = [name for name in names if name in everywhere]
    if partly and not (allow_missing and found):
        raise DataError(
            f"{len(partly)} of {len(names)} genes are not measured in every cell, first "
            f"{partly[0]!r}, and where a gene was not measured is no count of 0; leave them out"
            + (", or continue with the other genes: allow_missing=True" if found else "")
        )
    if missing and not (allow_missing and found):
        remedy = "correct the names"
        if found:
            remedy += ", or continue with the other genes: allow_missing=True"
        raise DataError(
            f"{len(missing)} of {len(names)} genes are not in the data: "
            f"{describe_missing(missing, cells.genes, cells.var)}; {remedy}"
        )
    return found, [name for name in names if name not in everywhere]


def describe_missing(
    missing: Sequence[str], known: NDArray[Any], var: pd.DataFrame | None = None
) -> str:
    """List genes that were not found, with the names nearest to each."""
    kinds = gene_id_kind(missing), gene_id_kind(known)
    if kinds[0] != kinds[1]:
        listed = ", ".join(repr(name) for name in missing[:NAMES_SHOWN])
        return f"{listed}{_more(missing)}{id_mismatch('the list has', missing, known, var)}"
    by_upper = {str(name).upper(): str(name) for name in known}
    said = [f"{name!r} ({_nearest(name, by_upper)})" for name in missing[:NAMES_SHOWN]]
    return ", ".join(said) + _more(missing)


def _nearest(name: str, by_upper: Mapping[str, str]) -> str:
    """Name up to three genes like this one, whatever its case; a shared beginning settles ties."""
    upper = name.upper()
    near = difflib.get_close_matches(upper, by_upper, n=12, cutoff=0.5)

    def likeness(other: str) -> tuple[float, int]:
        ratio = difflib.SequenceMatcher(None, other, upper).ratio()
        alike = [a == b for a, b in zip(other, upper, strict=False)]
        return ratio, [*alike, False].index(False)

    best = sorted(near, key=likeness, reverse=True)[: 1 if upper in by_upper else 3]
    if not best:
        return "nothing similar"
    return "closest: " + ", ".join(repr(by_upper[one]) for one in best)


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""


def count_blocks(cells: CellCollection, rows: NDArray[np.int64]) -> Iterator[sparse.csr_matrix]:
    """Read cells block by block, each CSR float32 [b, n_genes]."""
    for part in parts(len(rows)):
        yield as_csr(cells.batch(rows[part]))


def counts_of(cells: CellCollection, rows: NDArray[np.int64]) -> sparse.csr_matrix:
    """Read the counts of all genes, CSR float32 [len(rows), n_genes]."""
    if not len(rows):
        return sparse.csr_matrix((0, cells.n_genes), dtype=np.float32)
    return sparse.vstack(list(count_blocks(cells, rows)), format="csr")


def counts_of_genes(
    cells: CellCollection, genes: Sequence[str], rows: NDArray[np.int64]
) -> sparse.csr_matrix:
    """Read the counts of some genes alone, CSR float32 [len(rows), len(genes)]."""
    view = cells.with_genes(genes, min_gene_overlap=1.0)
    return sparse.vstack(list(count_blocks(view, rows)), format="csr")
