"""Genes added to a trained model: what their embeddings start from, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kernomics._arguments import numbers_of, shown, words_of
from kernomics.data.genes import places_of
from kernomics.errors import ConfigError, DataError, closest


def new_rows(
    known: NDArray[Any],
    table: Tensor,
    genes: Sequence[str],
    init: str | Mapping[str, Any] | ArrayLike,
) -> Tensor:
    """Return embeddings for new genes, [n, d].

    Parameters
    ----------
    known
        The genes of the table's rows.
    table
        [V, d].
    genes
        The new ones.
    init
        ``"mean"`` of all embeddings; per new gene a donor, or several, whose mean it takes; or the
        embeddings themselves, [n, d].
    """
    names = [str(gene) for gene in known]
    _require_new(genes, names)
    if isinstance(init, str):
        if init != "mean":
            raise ConfigError(
                f"init is {init!r}: 'mean', a donor per new gene, or embeddings are possible"
            )
        return table.mean(0, keepdim=True).expand(len(genes), -1).clone()
    if isinstance(init, Mapping):
        return torch.stack([table[_donors(gene, init, names)].mean(0) for gene in genes])
    values = numbers_of("init", init)
    if values.shape != (len(genes), table.shape[1]):
        raise DataError(
            f"init has shape {values.shape}: embeddings of {len(genes):,} genes are "
            f"[{len(genes)}, {table.shape[1]}]"
        )
    if not np.isfinite(values).all():
        raise DataError(f"init holds {int((~np.isfinite(values)).sum()):,} values not finite")
    return torch.from_numpy(values).to(table)


def _require_new(genes: Sequence[str], known: Sequence[str]) -> None:
    if not genes:
        raise ConfigError("genes is empty: name those to add")
    there = set(known)
    for seen, gene in enumerate(genes):
        if gene in there:
            twice = gene in genes[:seen]
            n = sum(other in set(known) for other in genes)
            raise ConfigError(
                f"{gene!r} is named twice: name each new gene once"
                if twice
                else f"{n:,} of the {len(genes):,} genes to add are known already, first {gene!r}: "
                "name new ones alone"
            )
        there.add(gene)


def _donors(gene: str, init: Mapping[str, Any], known: Sequence[str]) -> NDArray[np.int64]:
    if gene not in init:
        raise ConfigError(
            f"init names no donor for {gene!r}; {closest(gene, init)}: give one for each new gene, "
            "or init='mean'"
        )
    donors = words_of(f"init[{gene!r}]", init[gene])
    there = set(known)
    unknown = [donor for donor in donors if donor not in there]
    if unknown or not donors:
        first = shown(unknown[0]) if unknown else "none"
        raise ConfigError(
            f"the donor of {gene!r} is not known to the model: {first}; "
            f"{closest(unknown[0] if unknown else gene, known)}"
        )
    return places_of(donors, known)
