"""Pairs of cells to compare: a case cell and a baseline cell with the same controlled values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.data import Labels
from kernomics.data.rng import Stream, permutation
from kernomics.data.row_numbers import row_numbers
from kernomics.errors import ConfigError, DataError, closest

BLOCK = 64
"""The smallest block: so many case cells are paired with as many baseline cells."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of cells, block by block.

    Attributes
    ----------
    case, baseline
        int64 [n], rows of the cells.
    group
        int64 [n], the combination of controlled values of each pair, by its place in `groups`.
    groups
        The combinations in words, such as ``"T cell, blood"``; one empty string if nothing is
        controlled.
    block
        int64 [n], ascending: pairs of one block share at most 2 × 127 cells.
    left_out
        How many cells are left out, by reason.
    """

    case: NDArray[np.int64]
    baseline: NDArray[np.int64]
    group: NDArray[np.int64]
    groups: list[str]
    block: NDArray[np.int64]
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.case)

    def blocks(self) -> Iterator[slice]:
        """Yield the pairs of each block."""
        if not len(self):
            return
        ends = np.flatnonzero(np.diff(self.block, append=self.block[-1] + 1)) + 1
        yield from map(slice, [0, *ends[:-1].tolist()], ends.tolist())


def make_pairs(
    target: Labels,
    case: str,
    baseline: str,
    rows: NDArray[np.int64],
    *,
    controlled: Sequence[Labels] = (),
    n_pairs: int | None = None,
    n_baselines: int | None = None,
    seed: int = 0,
) -> Pairs:
    """Pair cells of a case with cells of a baseline that have the same controlled values.

    Each combination of controlled values gets pairs in proportion to its case cells. Within it, the
    numbers of pairs of two cells of the same side differ by at most one for each round of matching.
    A cell's partners are all in its block of 64 to 127 cells of each side (more if it is to have
    more partners), so that a cell of the larger side is read and run through the model once,
    however many pairs it is in.

    Parameters
    ----------
    target
        The phenotype of which `case` and `baseline` are values.
    rows
        int [m], the cells to draw from.
    controlled
        Phenotypes whose values must agree. Cells that lack one are left out, and counted.
    n_pairs
        How many pairs; by default one for each case cell that has a partner.
    n_baselines
        Instead of `n_pairs`, how many baseline cells each case cell is paired with.
    seed
        Seed of the matching.

    Raises
    ------
    ConfigError
        When case and baseline are equal or not values of the target, or both numbers are given.
    DataError
        When one of them has no cells, or none of their cells have the same controlled values; the
        combinations that exist are listed with their counts.

    Warns
    -----
    UserWarning
        When cells are left out, and when fewer pairs exist than asked for.
    """
    rows = row_numbers(rows, len(target.values))
    codes = [_code(target, value, name) for name, value in (("case", case), ("baseline", baseline))]
    if codes[0] == codes[1]:
        raise ConfigError(f"case and baseline are both {case!r}: there is nothing to compare")
    if n_pairs is not None and n_baselines is not None:
        raise ConfigError("n_pairs and n_baselines both say how many pairs; give only one")
    for name, number in (("n_pairs", n_pairs), ("n_baselines", n_baselines)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}: at least 1 is needed")
    if any(label.name == target.name for label in controlled):
        raise ConfigError(f"{target.name!r} is the target and cannot be controlled for too")
    sides = [rows[target.values[rows] == code] for code in codes]
    for value, side in zip((case, baseline), sides, strict=True):
        if not len(side):
            raise DataError(
                f"none of the {len(rows):,} cells has {target.name!r} = {value!r}: nothing to pair"
            )
    left_out: dict[str, int] = {}
    for label in controlled:
        known = [label.labelled[side] for side in sides]
        missing = sum(int((~part).sum()) for part in known)
        if missing:
            left_out[f"{label.name} is missing"] = missing
        sides = [side[part] for side, part in zip(sides, known, strict=True)]
    table = _combinations(sides, controlled)
    shared = table[(table["case"] > 0) & (table["baseline"] > 0)]
    if shared.empty:
        raise DataError(
            f"no cell with {target.name!r} = {case!r} has the same "
            f"{' and '.join(label.name for label in controlled)} as one with {baseline!r}; there "
            f"are {_listed(table)}{_reasons(left_out)}; control for fewer columns"
        )
    lonely = table[(table["case"] > 0) & (table["baseline"] == 0)]
    if len(lonely):
        left_out["case cells without a partner"] = int(lonely["case"].sum())
    if left_out:
        warn(
            "cells are left out: "
            + ", ".join(f"{count:,} ({reason})" for reason, count in left_out.items())
        )
    return _matched(sides, controlled, shared, n_pairs, n_baselines, seed, left_out)


def _matched(
    sides: Sequence[NDArray[np.int64]],
    controlled: Sequence[Labels],
    shared: pd.DataFrame,
    n_pairs: int | None,
    n_baselines: int | None,
    seed: int,
    left_out: dict[str, int],
) -> Pairs:
    n_case = int(shared["case"].sum())
    wanted = n_pairs or n_case * (n_baselines or 1)
    shares = shared["case"].to_numpy() / n_case * wanted
    counts = np.floor(shares).astype(np.int64)
    rest = np.argsort(-(shares - counts), kind="stable")[: wanted - int(counts.sum())]
    counts[rest] += 1
    parts: list[tuple[NDArray[np.int64], ...]] = []
    groups: list[tuple[str, ...]] = []
    n_blocks = 0
    for number, (combination, count) in enumerate(zip(shared.index, counts, strict=True)):
        if not count:
            continue
        own = [_of_combination(side, controlled, combination) for side in sides]
        pairs = _matching(own[0], own[1], int(count), seed, number)
        of_group = np.full(len(pairs[0]), len(groups))
        groups.append(tuple(map(str, combination)))
        parts.append((pairs[0], pairs[1], of_group, pairs[2] + n_blocks))
        n_blocks += int(pairs[2].max()) + 1
    if len(groups) < len(shared):
        warn(
            f"{wanted:,} pairs are divided among {len(shared):,} combinations by their numbers of "
            f"case cells, and {len(shared) - len(groups):,} of these get none; ask for more pairs"
        )
    found = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if len(found[0]) < wanted:
        warn(
            f"{wanted:,} pairs were asked for, but only {len(found[0]):,} different ones exist; "
            "these are used"
        )
    return Pairs(found[0], found[1], found[2], _named(groups, controlled), found[3], left_out)


def _named(groups: Sequence[tuple[str, ...]], controlled: Sequence[Labels]) -> list[str]:
    """Name combinations by their values, and by columns too where two would share a name."""
    names = [", ".join(group) for group in groups]
    if len(set(names)) == len(names):
        return names
    keys = [label.name for label in controlled]
    return [", ".join(f"{k}={v!r}" for k, v in zip(keys, g, strict=True)) for g in groups]


def _matching(
    case: NDArray[np.int64], baseline: NDArray[np.int64], n: int, seed: int, number: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return up to n different pairs, and the block of each, ascending."""
    slots = min(n, max(len(case), len(baseline)))
    lists = []
    for side, cells in enumerate((case, baseline)):
        rounds = -(-slots // len(cells))
        drawn = [
            cells[permutation(len(cells), seed, Stream.PAIRS, (number * 2 + side) * 65536 + i)]
            for i in range(rounds)
        ]
        lists.append(np.concatenate(drawn)[:slots])
    found: list[tuple[NDArray[np.int64], ...]] = []
    # Blocks of about equal size, at least of as many cells as each has partners.
    n_blocks = max(1, slots // max(BLOCK, -(-n // slots)))
    sizes = np.full(n_blocks, slots // n_blocks) + (np.arange(n_blocks) < slots % n_blocks)
    block = np.repeat(np.arange(n_blocks), sizes)
    start, size = np.repeat(np.cumsum(sizes) - sizes, sizes), sizes[block]
    at = np.arange(slots) - start
    seen: set[tuple[int, int]] = set()
    for shift in range(int(sizes.max())):
        missing = n - sum(len(part[0]) for part in found)
        if missing <= 0 or not (shift < size).any():
            break
        partner = start + (at + shift) % size
        new = np.flatnonzero(shift < size)
        pairs = zip(lists[0][new].tolist(), lists[1][partner[new]].tolist(), strict=True)
        kept: list[int] = []
        for index, pair in zip(new.tolist(), pairs, strict=True):
            if pair not in seen and len(kept) < missing:
                seen.add(pair)
                kept.append(index)
        chosen = np.array(kept, dtype=np.int64)
        found.append((lists[0][chosen], lists[1][partner[chosen]], block[chosen]))
    case, baseline, block = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(block, kind="stable")
    return case[order], baseline[order], block[order]


def _code(target: Labels, value: str, name: str) -> int:
    if value not in target.categories:
        raise ConfigError(
            f"{name} is {value!r}, which is not a value of {target.name!r}; "
            f"{closest(value, target.categories)}"
        )
    return target.categories.index(value)


def _combination(label: Labels, rows: NDArray[np.int64]) -> NDArray[np.object_]:
    names: NDArray[np.object_] = np.array(label.categories, dtype=object)[label.values[rows]]
    return names


def _combinations(sides: Sequence[NDArray[np.int64]], controlled: Sequence[Labels]) -> pd.DataFrame:
    """Count the cells of both sides by their controlled values."""
    counts = []
    for side in sides:
        keys = [_combination(label, side) for label in controlled]
        names = list(zip(*keys, strict=True)) if keys else [()] * len(side)
        counts.append(pd.Series(names, dtype=object).value_counts())
    table = pd.concat(counts, axis=1, keys=["case", "baseline"]).fillna(0).astype(int)
    return table.sort_index()


def _of_combination(
    rows: NDArray[np.int64], controlled: Sequence[Labels], combination: tuple[str, ...]
) -> NDArray[np.int64]:
    kept = np.ones(len(rows), dtype=bool)
    for label, value in zip(controlled, combination, strict=True):
        kept &= label.values[rows] == label.categories.index(value)
    return rows[kept]


def _listed(table: pd.DataFrame) -> str:
    shown = [
        f"{', '.join(map(str, name))}: {row['case']:,} case and {row['baseline']:,} baseline cells"
        for name, row in zip(table.index.tolist()[:8], table.to_dict("records"), strict=False)
    ]
    more = f"; and {len(table) - 8} more" if len(table) > 8 else ""
    return "; ".join(shown) + more if shown else "no cells with values in these columns"


def _reasons(left_out: dict[str, int]) -> str:
    if not left_out:
        return ""
    return "; left out: " + ", ".join(f"{n:,} ({reason})" for reason, n in left_out.items())
