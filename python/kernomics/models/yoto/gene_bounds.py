"""Which genes a selection must take, and which it cannot."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.data.genes import id_mismatch
from kernomics.errors import ConfigError, DataError, closest

GENE_SETS: Mapping[str, str] = MappingProxyType(
    {
        "mitochondrial": r"MT-",
        # RPS6KA1 and its like are kinases.
        "ribosomal": r"RP(?:[SL](?!6K)\d|LP\d|SA\d?$)",
        "ribosomal_mitochondrial": r"MRP[SL]\d",
        # HBA1, HBB, HBQ1 or Hba-a1, Hbb-bs; not HBEGF, HBP1, HBS1L.
        "haemoglobin": r"HB(?:[ABDEGMQZ]\d?[AB]?|[AB]-.+)$",
    }
)
"""Regular expressions by name, for human and mouse symbols alike: case does not count."""


@dataclass(frozen=True, eq=False)
class GeneBounds:
    """Genes that are not free to be chosen or left out, by index."""

    forced: NDArray[np.int64]
    forbidden: NDArray[np.int64]  # named as such, excluded by a rule, or in too few training cells
    forbidden_names: tuple[str, ...]  # those named as such
    usable: int  # how many there are to choose from, those forced included
    excluded: Mapping[str, int] = field(default_factory=dict)


def gene_bounds(
    genes: NDArray[Any],
    n_expressing: NDArray[np.int64],
    *,
    n_cells: int,
    n_genes: int,
    min_cells: int,
    forced: str | Sequence[str] = (),
    forbidden: str | Sequence[str] = (),
    exclude_patterns: str | Sequence[str] = (),
    min_detection: float = 0.0,
    max_detection: float = 1.0,
    var: pd.DataFrame | None = None,
    measured: NDArray[np.bool_] | None = None,
) -> GeneBounds:
    """Work out the bounds of a selection; `measured` says which genes every cell has measured."""
    place = {gene: i for i, gene in enumerate(genes)}
    named = {
        what: list(dict.fromkeys(_listed(names)))
        for what, names in (("forced", forced), ("forbidden", forbidden))
    }
    for what, names in named.items():
        absent = [name for name in names if name not in place]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(names)} {what} genes are not in the data, first "
                f"{absent[0]!r}; {closest(absent[0], genes)}"
                f"{id_mismatch('the list has', absent, genes, var)}"
            )
    both = [name for name in named["forced"] if name in named["forbidden"]]
    if both:
        raise ConfigError(
            f"{_genes(both)} both forced and forbidden, first {both[0]!r}; remove each from one "
            "list"
        )
    partly = np.flatnonzero([] if measured is None else ~measured)
    lacking = [name for name in named["forced"] if place[name] in set(partly.tolist())]
    if lacking:
        raise DataError(
            f"{_genes(lacking)} forced, but not measured in every cell, first {lacking[0]!r}: "
            "where a gene was not measured is no count of 0; leave such genes out, or give cells "
            "that have measured them"
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
    rules = {
        "are forbidden": outside,
        f"are detected in fewer than {min_cells} training cells": np.flatnonzero(
            n_expressing < min_cells
        ),
        **({"are not measured in every cell": partly} if len(partly) else {}),
        **_matching(genes, _listed(exclude_patterns), var),
        **_outside_detection(n_expressing / max(n_cells, 1), min_detection, max_detection),
    }
    barred = np.setdiff1d(np.unique(np.concatenate(list(rules.values()))), inside)
    excluded = {rule: len(found) for rule, found in rules.items()}
    usable = len(genes) - len(barred)
    if n_genes > usable:
        told = [f"{count:,} {rule}" for rule, count in excluded.items() if count]
        most, last = ", ".join(told[:-1]), "".join(told[-1:])
        raise ConfigError(
            f"n_genes = {n_genes:,} but only {usable:,} of {len(genes):,} genes are usable"
            + (f": {most} and {last}" if most else f": {last}" if last else "")
            + "; lower n_genes"
            + (" or exclude fewer" if len(rules) > 2 else "")
        )
    return GeneBounds(inside, barred, tuple(sorted(named["forbidden"])), usable, excluded)


def _matching(
    genes: NDArray[Any], patterns: Sequence[str], var: pd.DataFrame | None
) -> dict[str, NDArray[np.int64]]:
    """Find the genes that each pattern matches."""
    sets = {**GENE_SETS, "hemoglobin": GENE_SETS["haemoglobin"]}
    found = {}
    for pattern in dict.fromkeys(patterns):
        try:
            rule = re.compile(sets.get(pattern.lower(), pattern), re.IGNORECASE)
        except re.error as error:
            raise ConfigError(
                f"exclude_patterns: {pattern!r} is no regular expression ({error}); escape "
                r"characters such as + with \, or use one of the sets: " + ", ".join(GENE_SETS)
            ) from None
        hits = np.flatnonzero([rule.match(gene) is not None for gene in genes])
        if not len(hits):
            warn(
                f"exclude_patterns: {pattern!r} matches none of {len(genes):,} genes, first "
                f"{genes[0]!r}; patterns are regular expressions matched from the start of a "
                f"name, and the sets are {', '.join(GENE_SETS)}{_elsewhere(rule, var)}"
            )
        found[f"match {pattern!r}"] = hits
    return found


def _elsewhere(rule: re.Pattern[str], var: pd.DataFrame | None) -> str:
    """Name the column of var in which most names match, such as symbols beside Ensembl ids."""
    counts = {
        str(name): sum(isinstance(one, str) and rule.match(one) is not None for one in column)
        for name, column in ({} if var is None else var).items()
        if not pd.api.types.is_numeric_dtype(column.dtype)
    }
    best = max(counts, key=lambda column: counts[column], default="")
    if not counts.get(best):
        return ""
    return f"; {counts[best]:,} match in var[{best!r}]: pass gene_names={best!r}"


def _outside_detection(
    share: NDArray[np.float64], least: float, most: float
) -> dict[str, NDArray[np.int64]]:
    """Find the genes that too few or too many cells have; the limits themselves are allowed."""
    for name, value in (("min_detection", least), ("max_detection", most)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value!r}: it is a fraction of the cells, from 0 to 1")
    if least > most:
        raise ConfigError(f"min_detection is {least}, above max_detection = {most}: no gene fits")
    found = {}
    if least > 0:
        found[f"are detected in less than {least:.3g} of the cells"] = np.flatnonzero(share < least)
    if most < 1:
        found[f"are detected in more than {most:.3g} of the cells"] = np.flatnonzero(share > most)
    return found


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _genes(names: Sequence[str]) -> str:
    return f"{len(names)} gene is" if len(names) == 1 else f"{len(names)} genes are"
