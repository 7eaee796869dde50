"""Dividing whole groups of cells into three parts, with classes to train on and to tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kernomics._warnings import warn
from kernomics.data.labels import Labels
from kernomics.data.rng import Stream, permutation
from kernomics.errors import DataError

GROUP_ORDERS = 16
"""Random orders of the groups tried; the one nearest to the fractions wins."""


def grouped(
    groups: Labels, keep: Sequence[Labels], fractions: tuple[float, float, float], seed: int
) -> tuple[npt.NDArray[np.int64], str]:
    """Give each group to a part, int64 [n_cells], and say what was done for `keep`."""
    missing = np.flatnonzero(~groups.labelled)
    if missing.size:
        raise DataError(
            f"{missing.size:,} of {len(groups):,} cells have no group in {groups.name!r}, first "
            f"in row {missing[0]:,}; assign them a group or drop them"
        )
    n_parts = sum(fraction > 0 for fraction in fractions)
    if groups.n_classes < n_parts:
        raise DataError(
            f"{groups.n_classes} groups in {groups.name!r} ({', '.join(groups.categories)}) cannot "
            f"fill {n_parts} parts; use a column with more groups, or "
            "in Python a fraction of 0"
        )
    cells = np.bincount(groups.values, minlength=groups.n_classes)
    target = np.array(fractions) * len(groups)
    orders = [
        permutation(groups.n_classes, seed, Stream.SPLIT, 1 + attempt)
        for attempt in range(GROUP_ORDERS)
    ]
    held = _classes_of_groups(groups, keep)
    fills = [_fill(order, cells, target) for order in orders]
    found, note = _nearest(fills, target), ""
    lost = _lost(held, found)
    if lost.any():
        again = _keeping(orders, cells, target, held)
        if again is None:  # then as few as these orders allow
            fewest = min(int(_lost(held, parts).sum()) for parts, _ in fills)
            some = [fill for fill in fills if _lost(held, fill[0]).sum() == fewest]
            found = _nearest(some, target)
            lost = _lost(held, found)
        else:
            found = again
        note = _note(groups, keep, lost, again is not None)
    found, more = _telling_apart(found, orders, cells, target, held, groups, keep)
    note = "; ".join(said for said in (note, more) if said)
    if note:
        warn(note)
    return np.asarray(found[groups.values]), note


Filled = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""The part of each group, int64 [n_groups], and the cells in each part, float64 [3]."""


def _classes_of_groups(groups: Labels, keep: Sequence[Labels]) -> npt.NDArray[np.bool_]:
    """Which classes, of all labels one after the other, each group has: bool [n_groups, C]."""
    held = np.zeros((groups.n_classes, sum(label.n_classes for label in keep)), bool)
    start = 0
    for label in keep:
        known = label.labelled
        held[groups.values[known], start + label.values[known]] = True
        start += label.n_classes
    return held


def _nearest(fills: Sequence[Filled], target: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the division, of several, whose parts are nearest to the sizes wanted."""
    return min(fills, key=lambda filled: float(np.abs(filled[1] - target).sum()))[0]


def _lost(
    held: npt.NDArray[np.bool_], part_of_group: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Which classes are in some group, and in none to train on: bool [C]."""
    return np.asarray(held.any(axis=0) & ~held[part_of_group == 0].any(axis=0))


def _fill(
    order: npt.NDArray[np.int64],
    cells: npt.NDArray[np.int64],
    target: npt.NDArray[np.float64],
    held: npt.NDArray[np.bool_] | None = None,
    first: Sequence[tuple[int, int]] = (),
) -> Filled:
    """Give each group in turn to the part that lacks most, the last ones to parts still empty."""
    part_of_group = np.full(order.size, -1, dtype=np.int64)
    filled = np.zeros(3)
    left = None if held is None else held.sum(axis=0)  # groups of each class not held out

    def put(group: int, part: int) -> None:
        part_of_group[group] = part
        filled[part] += cells[group]
        if part and held is not None and left is not None:
            left[held[group]] -= 1

    for group, part in first:
        put(group, part)
    waiting_groups = [int(group) for group in order if part_of_group[group] < 0]
    for place, group in enumerate(waiting_groups):
        lacking = np.where(target > 0, target - filled, -np.inf)
        waiting = (filled == 0) & (target > 0)
        if waiting.sum() == len(waiting_groups) - place:
            lacking = np.where(waiting, lacking, -np.inf)
        if held is not None and left is not None and (left[held[group]] < 2).any():
            lacking[1:] = -np.inf  # its class would be lost
            lacking[0] = 0.0
        put(group, int(np.argmax(lacking)))
    return part_of_group, filled


def _keeping(
    orders: Sequence[npt.NDArray[np.int64]],
    cells: npt.NDArray[np.int64],
    target: npt.NDArray[np.float64],
    held: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64] | None:
    """Divide so that no class is lost, as near to the sizes as the orders allow; None if none does.

    Each order is filled as it comes, and once more with the first groups in it that can be held
    out together, so that a division is found wherever there is one.
    """
    wanted = np.flatnonzero(target > 0)
    found = []
    for order in orders:
        seeds = _can_be_held_out(order, held, int((wanted > 0).sum()))
        if seeds is None:
            return None
        parts = [int(part) for part in wanted if part > 0]
        for first in ((), tuple(zip(seeds, parts, strict=True))):
            filled = _fill(order, cells, target, held, first)
            if (filled[1][wanted] > 0).all():
                found.append(filled)
    return _nearest(found, target) if found else None


def _can_be_held_out(
    order: npt.NDArray[np.int64], held: npt.NDArray[np.bool_], n: int
) -> list[int] | None:
    """Return the first n groups, at most two, that leave all classes when both are held out."""
    left = held.sum(axis=0)
    alone = [int(g) for g in order if (left[held[g]] > 1).all()]
    if n == 0:
        return []
    if n == 1:
        return alone[:1] or None
    for place, one in enumerate(alone):
        rest = np.array(alone[place + 1 :], dtype=np.int64)
        after = left - held[one]
        fits = ~((after < 2) & held[rest]).any(axis=1)
        if fits.any():
            return [one, int(rest[np.argmax(fits)])]
    return None


def _note(groups: Labels, keep: Sequence[Labels], lost: npt.NDArray[np.bool_], mended: bool) -> str:
    names = [f"{name!r} of {label.name!r}" for label in keep for name in label.categories]
    without = [name for name, gone in zip(names, lost, strict=True) if gone]
    listed = f"{', '.join(without[:5])}{', …' if len(without) > 5 else ''}"
    classes = "1 class" if len(without) == 1 else f"{len(without)} classes"
    by = groups.name or "groups"
    if mended:
        return (
            f"the split by {by!r} first drawn would leave {classes} without training cells "
            f"({listed}), so other groups are held out, which leaves every class some"
        )
    return (
        f"every split by {by!r} leaves some class without training cells, this one {classes}: "
        f"{listed}; these classes occur in too few groups: merge or drop them"
    )


# -- classes to tell apart in the cells held out -------------------------------------------------


def _telling_apart(
    found: npt.NDArray[np.int64],
    orders: Sequence[npt.NDArray[np.int64]],
    cells: npt.NDArray[np.int64],
    target: npt.NDArray[np.float64],
    held: npt.NDArray[np.bool_],
    groups: Labels,
    keep: Sequence[Labels],
) -> tuple[npt.NDArray[np.int64], str]:
    """Divide again where the last part has cells of one class alone, and say so.

    In each order the first groups that add a class to it, until there are two of each label, are
    held out, and the others filled up as ever. No division that loses a class to train on is taken.
    """
    part = int(np.flatnonzero(target > 0)[-1])
    of_label = np.repeat(np.arange(len(keep)), [label.n_classes for label in keep])
    two = [i for i in range(len(keep)) if held[:, of_label == i].any(axis=0).sum() > 1]

    def alone(part_of_group: npt.NDArray[np.int64]) -> list[int]:
        there = held[part_of_group == part].any(axis=0)
        return [i for i in two if there[of_label == i].sum() < 2]

    single = alone(found)
    if part == 0 or not single:
        return found, ""
    n_lost, tried = int(_lost(held, found).sum()), []
    for order in orders:
        first = _of_two_classes(order, held, [of_label == i for i in two])
        filled = _fill(order, cells, target, held, [(group, part) for group in first])
        enough = (filled[1][target > 0] > 0).all()
        if enough and not alone(filled[0]) and _lost(held, filled[0]).sum() <= n_lost:
            tried.append(filled)
    names = ", ".join(repr(keep[i].name) for i in single)
    by = repr(groups.name or "groups")
    if tried:
        return _nearest(tried, target), (
            f"the split by {by} first drawn would hold out one class alone of {names}, so other "
            "groups are held out, which have two"
        )
    return found, (
        f"no split by {by} was found that holds out two classes of {names} and leaves each some to "
        "train on: balanced accuracy and AUPRC of the cells held out say nothing; more groups of "
        "each class are needed, or another column of groups"
    )


def _of_two_classes(
    order: npt.NDArray[np.int64],
    held: npt.NDArray[np.bool_],
    labels: Sequence[npt.NDArray[np.bool_]],
) -> list[int]:
    """Return the first groups that have two classes of each label and leave some of every class."""
    left, there, chosen = held.sum(axis=0), np.zeros(held.shape[1], bool), []
    for group in map(int, order):
        lacking = [own for own in labels if there[own].sum() < 2]
        if not lacking:
            break
        new = held[group] & ~there
        if (left[held[group]] > 1).all() and any(new[own].any() for own in lacking):
            chosen.append(group)
            there |= held[group]
            left -= held[group]
    return chosen
