"""Pairs of cells, attributed by this process or by several, each some of the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from kernomics.attribution.blending import Blend
from kernomics.attribution.pair_scores import PairScores
from kernomics.attribution.pairs import Pairs
from kernomics.attribution.sources import Source
from kernomics.train.distributed import first_alone
from kernomics.train.shared_work import in_order, sharers

CUT = "cut"


def scores_in_order(
    source: Source, pairs: Pairs, of_block: Callable[[slice], Iterator[PairScores]]
) -> Iterator[PairScores]:
    """Yield what `of_block` gives of each block, in the order of the pairs.

    Where ranks share the work, each attributes every `world`-th block and sends the scores to the
    first one, which goes on alone; the others end here. What is added up is thus the same, and in
    the same order, as in one process.
    """
    one = sharers()
    if not one.many:
        for block in pairs.blocks():
            yield from of_block(block)
        return
    digest = crc32(pairs.case.tobytes() + pairs.baseline.tobytes())
    one.require_same(pairs=len(pairs), digest_of_the_pairs=digest, genes=len(source.genes))
    cut: set[int] = getattr(source, CUT, set())

    def packed(block: slice) -> dict[str, Tensor]:
        found = list(of_block(block))
        rows = np.unique(np.concatenate([pairs.case[block], pairs.baseline[block]]))
        longer = [row for row in rows.tolist() if row in cut]
        return {CUT: torch.tensor(longer, dtype=torch.int64)} | {
            f"{number} {name}": tensor
            for number, scores in enumerate(found)
            for name, tensor in _fields(scores).items()
        }

    for tensors in in_order(one, list(pairs.blocks()), packed):
        cut.update(tensors.pop(CUT).tolist())
        yield from _unpacked(tensors)
    first_alone()


def _fields(scores: PairScores) -> dict[str, Tensor]:
    found = {**scores.blend._asdict(), **scores._asdict()}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def _unpacked(tensors: Mapping[str, Tensor]) -> Iterator[PairScores]:
    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split()
        found.setdefault(int(number), {})[name] = tensor
    for _, fields in sorted(found.items()):
        blend = Blend(*(fields.pop(name) for name in Blend._fields))
        yield PairScores(blend, **fields)
