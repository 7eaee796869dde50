"""Known relationships between genes, read from a user's own files and found among some genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics._arguments import checked
from kernomics.data.genes import gene_id_kind
from kernomics.data.rng import Stream, philox
from kernomics.errors import DataError


@checked
def read_relations(path: str | Path) -> NDArray[Any]:
    """Read pairs of related genes.

    Parameters
    ----------
    path
        A table separated by commas, with the columns ``entity1`` and ``entity2``; others are not
        read. Names stay as they are written (a gene called NA is one).

    Returns
    -------
    numpy.ndarray
        Object array of str [n, 2].

    Raises
    ------
    DataError
        For a file that is no such table, holds no pair, or lacks a name.
    """
    if not Path(path).is_file():
        raise DataError(f"there is no file {str(path)!r}")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a table of pairs: {error}") from error
    missing = [name for name in ("entity1", "entity2") if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} has the columns {list(table.columns)[:5]} and lacks {missing}: its first line "
            "must be 'entity1,entity2'"
        )
    pairs = np.char.strip(table[["entity1", "entity2"]].to_numpy().astype(str)).astype(object)
    if not len(pairs):
        raise DataError(f"{path} contains no pairs of genes")
    unnamed = (pairs == "").any(axis=1)
    if unnamed.any():
        raise DataError(
            f"{int(unnamed.sum()):,} of {len(pairs):,} pairs in {path} lack a name, first in line "
            f"{int(np.flatnonzero(unnamed)[0]) + 2:,}"
        )
    return pairs


@dataclass(frozen=True, eq=False)
class KnownPairs:
    """The pairs of each database that can be scored; made by `match_pairs`."""

    pairs: Mapping[str, NDArray[np.int64]]  # int64 [n, 2]: places, the smaller first; each once
    n_given: Mapping[str, int]  # distinct pairs, those of absent genes too
    n_genes: int  # genes that could be in a pair


def match_pairs(genes: Sequence[str] | NDArray[Any], relations: Mapping[str, Any]) -> KnownPairs:
    """Find known pairs among some genes, without pairs of a gene with itself and repeated ones."""
    names = [str(gene) for gene in genes]
    place = {gene: i for i, gene in enumerate(names)}
    if len(place) < len(names):
        raise DataError(f"{len(names) - len(place):,} of {len(names):,} genes are named twice")
    if not len(relations):
        raise DataError("no database of relationships was given")
    found: dict[str, NDArray[np.int64]] = {}
    n_given: dict[str, int] = {}
    for database, given in relations.items():
        pairs = np.asarray(given, dtype=object)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise DataError(
                f"the relations of {database!r} have shape {pairs.shape}; pairs [n, 2] are needed"
            )
        distinct = {(min(a, b), max(a, b)) for a, b in pairs.astype(str).tolist() if a != b}
        n_given[database] = len(distinct)
        known = [(place[a], place[b]) for a, b in distinct if a in place and b in place]
        if not known:
            raise DataError(_nothing_found(database, distinct, names))
        found[database] = np.unique(np.sort(np.array(known, dtype=np.int64), axis=1), axis=0)
    return KnownPairs(found, n_given, len(names))


def _nothing_found(database: str, pairs: set[tuple[str, str]], names: list[str]) -> str:
    said = (
        f"none of the {len(pairs):,} pairs of different genes in {database!r} has both genes "
        f"among the {len(names):,} given"
    )
    if not pairs or not names:
        return said
    known = sorted({gene for pair in pairs for gene in pair})
    kinds = gene_id_kind(known), gene_id_kind(names)
    if kinds[0] != kinds[1]:
        return (
            f"{said}; the relations name {kinds[0]} (such as {known[0]!r}), the genes are "
            f"{kinds[1]} (such as {names[0]!r}): use the same kind of name for both"
        )
    n_alike = len({name.upper() for name in known} & {name.upper() for name in names})
    if n_alike:
        return f"{said}; {n_alike:,} genes would match if case were ignored (another species?)"
    return f"{said}; relations begin with {known[0]!r}, genes with {names[0]!r}"


def random_pairs(n_genes: int, n_pairs: int, seed: int, draw: int) -> NDArray[np.int64]:
    """Draw pairs of two different genes uniformly, with replacement, int64 [n_pairs, 2].

    A pure function of its arguments: all vectors of the same genes are judged by the same pairs.
    """
    words = philox(seed, Stream.RELATIONSHIP_PAIRS, draw).random_raw(2 * n_pairs)
    first = (words[:n_pairs] % np.uint64(n_genes)).astype(np.int64)
    second = (words[n_pairs:] % np.uint64(n_genes - 1)).astype(np.int64)
    return np.stack([first, second + (second >= first)], axis=1)
