"""Finding a model's genes among those of a data set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._arguments import checked
from kernomics._warnings import warn
from kernomics.errors import ConfigError, DataError

Absent: TypeAlias = Literal["zero", "unobserved"]
"""What a gene of a model counts as in data that lack it."""

Names: TypeAlias = Sequence[str] | npt.NDArray[Any]

ABSENT = {"zero": "are taken as 0 counts", "unobserved": "count as not observed, not as 0"}

_ENSEMBL = re.compile(r"ENS[A-Z]{0,6}G\d{11}(\.\d+)?")


@checked
def gene_id_kind(genes: Iterable[object]) -> str:
    """Tell what most of the names are.

    Returns
    -------
    str
        ``"Ensembl ids"`` or ``"gene symbols"``.
    """
    names = [str(gene) for gene in genes]
    n_ensembl = sum(_ENSEMBL.fullmatch(name) is not None for name in names)
    return "Ensembl ids" if 2 * n_ensembl > len(names) else "gene symbols"


def places_of(genes: Names, known: Names) -> npt.NDArray[np.int64]:
    """Return where genes stand among others that hold them all, int64 [k]."""
    place = {gene: i for i, gene in enumerate(known)}
    return np.array([place[gene] for gene in genes], dtype=np.int64)


@checked
def match_genes(
    model_genes: Sequence[str] | npt.NDArray[Any],
    data_genes: Sequence[str] | npt.NDArray[Any],
    min_gene_overlap: float = 0.8,
    *,
    absent: Absent = "zero",
    var: pd.DataFrame | None = None,
) -> npt.NDArray[np.int64]:
    """Find each of a model's genes among the data's genes, by exact name.

    Parameters
    ----------
    model_genes
        Names the model was trained on.
    data_genes
        Names of the data's columns, each once; ones the model does not know are left out.
    min_gene_overlap
        Fraction of the model's genes that must be found, 0 … 1.
    absent
        What the caller takes missing genes for, as the warning says.
    var
        The data's table of genes, one of whose columns may hold the names that are looked for.

    Returns
    -------
    numpy.ndarray
        int64 [len(model_genes)]: the column of each, −1 where the data lack it.

    Raises
    ------
    DataError
        When fewer genes are found; it counts matched, missing and extra genes and names what may
        be the cause (Ensembl ids against symbols, version suffixes, upper and lower case).

    Warns
    -----
    UserWarning
        When some genes are missing, but fewer than that.
    """
    if not 0 <= min_gene_overlap <= 1:
        raise ConfigError(f"min_gene_overlap is a fraction from 0 to 1, not {min_gene_overlap}")
    place = {str(gene): i for i, gene in enumerate(data_genes)}
    columns = np.array([place.get(str(gene), -1) for gene in model_genes], dtype=np.int64)
    n_model, n_matched = columns.size, int(np.count_nonzero(columns >= 0))
    if n_matched == n_model:
        return columns
    missing = [str(gene) for gene, found in zip(model_genes, columns, strict=True) if found < 0]
    first = ", ".join(repr(gene) for gene in missing[:5]) + (", …" if len(missing) > 5 else "")
    found = (
        f"{n_matched:,} of the model's {n_model:,} genes are in the data, {len(missing):,} are "
        f"missing ({first}), {len(place) - n_matched:,} other genes in the data are not used"
    )
    if n_matched < min_gene_overlap * n_model:
        needed = f"at least {min_gene_overlap:.0%} must match (min_gene_overlap)"
        if min_gene_overlap == 1:  # nobody's choice: a panel needs every gene
            needed = "all of them are needed: use data that have them"
        raise DataError(
            f"{found}; {needed}{mismatch_cause(model_genes, data_genes, n_matched, var)}"
        )
    warn(f"{found}; missing genes {ABSENT[absent]}")
    return columns


def column_of_genes(var: pd.DataFrame | None, genes: Names) -> str | None:
    """Return the column of var that holds most of some genes, if any holds half of them."""
    wanted = {str(gene) for gene in genes}
    found = {
        str(name): len(wanted.intersection(map(str, column)))
        for name, column in ({} if var is None else var).items()
        if not pd.api.types.is_numeric_dtype(column.dtype)
    }
    best = max(found, key=found.__getitem__, default=None)
    return best if best is not None and 2 * found[best] >= len(wanted) else None


def id_mismatch(whose: str, asked: Names, known: Names, var: pd.DataFrame | None = None) -> str:
    """Say that names are Ensembl ids where the data hold symbols, or the reverse."""
    kind, there = gene_id_kind(asked), gene_id_kind(known)
    if kind == there or not len(known):
        return ""
    column = column_of_genes(var, asked)
    return (
        f"; {whose} {kind} (such as {str(asked[0])!r}), the data hold {there} (such as "
        f"{str(known[0])!r}): "
        + (
            f"if a column of var holds {kind}, name it with gene_names='…'"
            if column is None
            else f"var[{column!r}] holds {kind}: pass gene_names={column!r}"
        )
    )


def mismatch_cause(
    model_genes: Names, data_genes: Names, n_matched: int, var: pd.DataFrame | None = None
) -> str:
    """Say what would make more genes match, if anything obvious would."""
    if other := id_mismatch("the model knows", model_genes, data_genes, var):
        return other
    column = column_of_genes(var, model_genes) if 2 * n_matched < len(model_genes) else None
    if column is not None:
        return f"; var[{column!r}] holds more of them: pass gene_names={column!r}"
    variants = (
        ("without version suffixes ('.1')", lambda name: name.split(".")[0]),
        ("if upper and lower case were ignored (another species?)", str.upper),
    )
    for said, simplify in variants:
        known = {simplify(str(gene)) for gene in data_genes}
        n = sum(simplify(str(gene)) in known for gene in model_genes)
        if n > n_matched:
            return f"; {n:,} would match {said}"
    return ""
