"""Which genes are specific to which labelled set, for the stages of gene-incremental learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from kernomics._arguments import checked, words_of
from kernomics.baselines.de import DEBaseline
from kernomics.baselines.l1 import L1Baseline
from kernomics.baselines.protocol import Baseline
from kernomics.data import CellCollection
from kernomics.data.expression import as_csr
from kernomics.data.row_numbers import parts
from kernomics.errors import ConfigError, DataError, closest

N_GENES = 150
SURE, MOST = 20, 100
"""Ranks, counted from 0: below the first a gene is surely wanted, above the second hardly."""


@dataclass(frozen=True)
class SpecificGenes:
    """Genes shared out among sets.

    Attributes
    ----------
    lists
        Per set its genes, from the most important: what `kernomics.data.gene_stages` takes.
    removed
        Genes that several sets want too much or all too little: they become base genes.
    """

    lists: dict[str, list[str]]
    removed: list[str]


@checked
def specific_genes(
    sets: Mapping[str, CellCollection],
    labels_key: str | Mapping[str, str],
    *,
    n_genes: int = N_GENES,
    by: Literal["DE", "L1"] = "DE",
    genes: Sequence[str] | None = None,
    seed: int = 0,
) -> SpecificGenes:
    """Take the most important genes of labelled sets, each gene for one set at most.

    Parameters
    ----------
    sets
        Labelled cells by the name of the stage that their genes shall make up.
    labels_key
        The label whose classes the genes tell apart; per set where they differ.
    n_genes
        How many each set wants; it gets fewer where it shares some.
    by
        How genes are ranked: by Wilcoxon's test, class by class in turn (`de_panel`), or by an
        L1-regularised regression (`l1_panel`).
    genes
        The vocabulary; by default what all sets have.
    seed
        Of the ranking, where that draws.

    Returns
    -------
    SpecificGenes
        By the rules of `share_out`.

    Raises
    ------
    DataError
        If a set has no such label, or too few of the vocabulary's genes.
    """
    if not sets:
        raise DataError("sets names no labelled cells: give a collection for each stage")
    for name, cells in sets.items():
        if not isinstance(cells, CellCollection):
            raise DataError(
                f"sets[{name!r}] is a {type(cells).__name__}: read it with "
                "CellCollection.from_anndata(…, labels_key=…)"
            )
    common = set.intersection(*({str(gene) for gene in cells.genes} for cells in sets.values()))
    wanted = common if genes is None else set(words_of("genes", genes))
    rankings = {}
    for name, cells in sets.items():
        key = labels_key if isinstance(labels_key, str) else labels_key.get(name)
        if key is None or key not in cells.labels:
            raise DataError(
                f"set {name!r} has no label {key!r}; {closest(str(key), cells.labels)}: read it "
                "with CellCollection.from_anndata(…, labels_key=…)"
            )
        rankings[name] = _ranked(name, cells, key, wanted, n_genes, by, seed)
    return share_out(rankings)


@checked
def share_out(
    rankings: Mapping[str, Sequence[str]], *, sure: int = SURE, most: int = MOST
) -> SpecificGenes:
    """Share genes out among rankings by GIL's rules (arXiv 2511.13762).

    A gene in one ranking alone is that one's. Of a gene in several, counted from 0: if its best
    rank is above `most`, or its rank is below `sure` in two or more, it is removed from all; if it
    is below `sure` in exactly one, it is that one's; else it is the first ranking's in which its
    rank is from `sure` to `most`.

    Parameters
    ----------
    rankings
        Per set its genes, best first.
    sure, most
        The ranks that decide.
    """
    if not 0 <= sure <= most:
        raise ConfigError(f"sure is {sure} and most {most}: 0 ≤ sure ≤ most is needed")
    ranks: dict[str, dict[str, int]] = {}
    for name, ranked in rankings.items():
        for rank, gene in enumerate(words_of(f"rankings[{name!r}]", ranked)):
            if name in ranks.setdefault(gene, {}):
                raise DataError(
                    f"rankings[{name!r}] names {gene!r} twice, at {ranks[gene][name]} and {rank}; "
                    "name each once"
                )
            ranks[gene][name] = rank
    lists: dict[str, list[str]] = {name: [] for name in rankings}
    removed = []
    for gene, found in ranks.items():
        home = _home(found, sure, most)
        if home is None:
            removed.append(gene)
        else:
            lists[home].append(gene)
    for name, mine in lists.items():
        mine.sort(key=lambda gene, name=name: ranks[gene][name])  # type: ignore[misc]
    return SpecificGenes(lists, removed)


def _home(found: Mapping[str, int], sure: int, most: int) -> str | None:
    """Return whose a gene is, by its rank in each set that wants it."""
    if len(found) == 1:
        return next(iter(found))
    surely = [name for name, rank in found.items() if rank < sure]
    if min(found.values()) > most or len(surely) >= 2:
        return None
    return surely[0] if surely else next(n for n, rank in found.items() if rank <= most)


def _ranked(
    name: str,
    cells: CellCollection,
    key: str,
    wanted: set[str],
    n_genes: int,
    by: str,
    seed: int,
) -> list[str]:
    columns = np.flatnonzero(np.isin(cells.genes.astype(str), list(wanted)))
    if not 1 <= n_genes <= len(columns):
        raise DataError(
            f"{n_genes:,} genes of set {name!r} are wanted, and {len(columns):,} of its "
            f"{cells.n_genes:,} genes are in the vocabulary, first of the vocabulary "
            f"{min(wanted, default='none')!r}: name genes that the set has, or want fewer"
        )
    label = cells.labels[key]
    if label.kind != "categorical":
        raise DataError(f"label {key!r} of set {name!r} holds numbers: classes are needed")
    rows = np.flatnonzero(label.labelled)
    blocks = [as_csr(cells.batch(rows[part]).select_genes(columns)) for part in parts(len(rows))]
    counts = sparse.vstack(blocks, format="csr")
    baseline: Baseline = DEBaseline() if by == "DE" else L1Baseline()
    found = baseline.select(counts, label.values[rows], n_genes, seed=seed)
    return [str(cells.genes[columns[i]]) for i in found]
