"""Attribution of many pairs of cells, reduced to scores of the genes as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from kernomics.attribution.blending import Blend
from kernomics.attribution.engines import EMPTY, ENGINES
from kernomics.attribution.gradient_engines import cell_gradients, grad_x_delta
from kernomics.attribution.kernels import as_saved, no_kernel_per_shape
from kernomics.attribution.pair_scores import PairScores
from kernomics.attribution.pairs import Pairs
from kernomics.attribution.shared_pairs import scores_in_order
from kernomics.attribution.sources import Source
from kernomics.errors import ConfigError, DataError, TrainingError, closest

Contrast = Literal["pairs", "empty"]
SCORES = ("forward", "backward", "importance", "effect", "absolute")
UNSQUARED = ("change", "presence")
"""Of which means are given, and no standard deviations."""
PAIRS_AT_A_TIME = 64


@dataclass
class GeneScores:
    """Scores of the genes over all pairs, and in each group of pairs.

    Attributes
    ----------
    table
        One row per gene of the model; the columns are those of `Attribution.table`.
    by_group
        Per score a table, genes × groups: the mean over a group's pairs.
    n_pairs
        Pairs in all.
    completeness
        float [n_pairs]: |Σ scores − (F(I) − F(B))| as a share of the larger of |F(I) − F(B)| and a
        tenth of Σ |scores|: 0 where the scores explain the difference. With ``contrast="empty"`` of
        the case cell and a cell without genes.
    zeros
        Share of a pair's genes with a score of zero, by score, the mean over the pairs.
    """

    table: pd.DataFrame
    by_group: dict[str, pd.DataFrame]
    n_pairs: int
    completeness: NDArray[np.float64]
    zeros: dict[str, float] = field(default_factory=dict)


class _Sums:
    """Sums over pairs per gene, of which memory does not depend on the number of pairs."""

    def __init__(self, n_genes: int, n_groups: int) -> None:
        self.shape = (n_groups, n_genes)
        self.sums = {name: np.zeros(self.shape) for name in (*SCORES, *UNSQUARED)}
        self.squares = {name: np.zeros(n_genes) for name in SCORES}
        self.sizes = {name: np.zeros(n_genes) for name in SCORES}
        self.counts = np.zeros(self.shape, np.int64)
        self.pairs = np.zeros(n_groups, np.int64)
        self.zeros = dict.fromkeys(SCORES, 0.0)
        self.tells_presence = False

    def add(
        self, found: PairScores, groups: NDArray[np.int64], normalise: bool, contrast: Contrast
    ) -> None:
        """Add the scores of some pairs."""
        forward, backward = found.forward.double(), found.backward.double()
        pair, n_pairs = found.blend.pairs, len(groups)
        presence = found.presence
        if normalise:
            if presence is not None:
                presence = presence / _norms(forward, pair, n_pairs)
            forward, backward = (x / _norms(x, pair, n_pairs) for x in (forward, backward))
        scores = {
            "forward": forward,
            "backward": backward,
            "importance": (forward + backward) / 2,
            "effect": (forward - backward) / 2,
            "absolute": (forward.abs() + backward.abs()) / 2,
        }
        if contrast == "empty":  # where both are of the cell's own class
            scores["effect"] = scores["importance"]
        genes = found.blend.gene_ids.cpu().numpy()
        at = groups[pair.cpu().numpy()] * self.shape[1] + genes
        self.pairs += np.bincount(groups, minlength=self.shape[0])
        self.counts += np.bincount(at, minlength=self.counts.size).reshape(self.shape)
        others = {"change": found.change}
        if presence is not None:
            others["presence"], self.tells_presence = presence, True
        for name, values in {**scores, **others}.items():
            numbers = values.double().cpu().numpy()
            bad = np.flatnonzero(~np.isfinite(numbers))
            if len(bad):
                raise TrainingError(
                    f"{len(bad):,} {name} scores are NaN or infinite, first of gene number "
                    f"{genes[bad[0]]:,}: the model's weights or outputs are not finite; train it "
                    "again with a lower learning rate or with max_grad_norm"
                )
            total = np.bincount(at, numbers, minlength=self.counts.size)
            self.sums[name] += total.reshape(self.shape)
            if name in UNSQUARED:
                continue
            self.squares[name] += np.bincount(genes, numbers**2, minlength=self.shape[1])
            self.sizes[name] += np.bincount(genes, np.abs(numbers), minlength=self.shape[1])
            per_pair = torch.bincount(pair, (values == 0).double(), minlength=n_pairs)
            self.zeros[name] += float((per_pair / found.blend.lengths.clamp_min(1)).sum())


def measured_in_both(
    found: PairScores, source: Source, case: NDArray[np.int64], baseline: NDArray[np.int64]
) -> PairScores:
    """Leave out genes that the data set of one of a pair's cells did not measure.

    That one cell lacks them says nothing about the cell.
    """
    view = source.view
    if view.observed is None or view.panel_of_cell is None:
        return found
    mask = view.observed.mask.to(found.blend.gene_ids.device).bool()
    kept = torch.ones_like(found.blend.gene_ids, dtype=torch.bool)
    for rows in (case, baseline):
        panels = torch.from_numpy(view.panel_of_cell[rows]).long().to(kept.device)
        kept &= mask[panels[found.blend.pairs], found.blend.gene_ids]
    if bool(kept.all()):
        return found
    one = found.blend
    lengths = torch.bincount(one.pairs[kept], minlength=len(one.lengths))
    less = Blend(one.gene_ids[kept], one.pairs[kept], lengths, one.first[kept], one.second[kept])
    return PairScores(
        less,
        found.forward[kept],
        found.backward[kept],
        found.change[kept],
        found.outputs,
        None if found.presence is None else found.presence[kept],
    )


def _norms(scores: Tensor, pair: Tensor, n_pairs: int) -> Tensor:
    """Return for each score the L2 norm of its pair's, 1 where that is 0."""
    norms = torch.bincount(pair, scores.square(), minlength=n_pairs).sqrt()
    return torch.where(norms > 0, norms, 1.0)[pair]


def attribute_pairs(
    source: Source,
    pairs: Pairs,
    output: int,
    *,
    other: int | None = None,
    engine: str = "grad_x_delta",
    contrast: Contrast = "pairs",
    normalise: bool = False,
    progress: bool = False,
) -> GeneScores:
    """Attribute pairs of cells and reduce the scores to genes.

    Parameters
    ----------
    source
        The model and its cells.
    pairs
        Which cells to compare.
    output
        The class whose output is attributed, that of the case.
    other
        That of the baseline, for ``contrast="empty"``.
    engine
        ``"grad_x_delta"``, ``"deeplift"`` or ``"integrated_gradients"``; see
        `kernomics.attribution.engines`.
    contrast
        ``"pairs"`` compares the cells of a pair; ``"empty"`` compares each with a cell without
        genes, for its own class; with ``"grad_x_delta"`` and ``"deeplift"``.
    normalise
        Divide a pair's scores by their L2 norm, as the paper does, so that every pair counts alike.
        Ours: not, so that a pair counts by how far the genes move the output.
    progress
        Whether to show a progress bar.

    Raises
    ------
    TrainingError
        When a score is not finite.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine is {engine!r}; {closest(engine, ENGINES)}")
    if contrast not in get_args(Contrast):
        raise ConfigError(f"contrast is {contrast!r}: 'pairs' or 'empty' are possible")
    if contrast == "empty" and (engine not in EMPTY or other is None):
        raise ConfigError(
            f"contrast='empty' goes with engine={' or '.join(map(repr, EMPTY))} and two classes"
        )
    if contrast == "empty" and source.has_all_genes:
        raise ConfigError(
            "contrast='empty' compares with a cell without genes, and a panel needs all of its "
            "genes; choose contrast='pairs'"
        )
    if not len(pairs):
        raise DataError("there are no pairs to attribute")
    sums = _Sums(len(source.genes), len(pairs.groups))
    errors: list[NDArray[np.float64]] = []

    def of_block(block: slice) -> Iterator[PairScores]:
        return _of_block(source, pairs, block, output, other, engine, contrast)

    with (
        as_saved(),
        no_kernel_per_shape(),
        tqdm(total=len(pairs), unit="pair", desc="attribution", disable=not progress) as bar,
    ):
        done = 0
        for found in scores_in_order(source, pairs, of_block):
            n = len(found.outputs)
            part = slice(done, done + n)
            errors.append(_errors(found))
            found = measured_in_both(found, source, pairs.case[part], pairs.baseline[part])
            sums.add(found, pairs.group[part], normalise, contrast)
            done += n
            bar.update(n)
    return _reduced(source, pairs, sums, np.concatenate(errors))


def _of_block(
    source: Source, pairs: Pairs, block: slice, output: int, other: int | None, engine: str,
    contrast: Contrast,
) -> Iterator[PairScores]:  # fmt: skip
    """Attribute the pairs of a block, some at a time, but run its cells once where that does."""
    case, baseline = pairs.case[block], pairs.baseline[block]
    known = None
    if contrast == "pairs" and engine == "grad_x_delta":
        known = cell_gradients(source, np.concatenate([case, baseline]), output)
    for start in range(0, len(case), PAIRS_AT_A_TIME):
        part = slice(start, start + PAIRS_AT_A_TIME)
        if contrast == "empty":
            assert other is not None
            yield EMPTY[engine](source, case[part], baseline[part], output, other)
        elif known is not None:
            yield grad_x_delta(source, case[part], baseline[part], output, known)
        else:
            yield ENGINES[engine](source, case[part], baseline[part], output)


def _errors(found: PairScores) -> NDArray[np.float64]:
    pair, n = found.blend.pairs, len(found.outputs)
    scores = found.forward.double()
    total = torch.bincount(pair, scores, minlength=n)
    sizes = torch.bincount(pair, scores.abs(), minlength=n)
    effect = (found.outputs[:, 0] - found.outputs[:, 1]).double()
    scale = torch.maximum(effect.abs(), 0.1 * sizes).clamp_min(1e-300)
    return ((total - effect).abs() / scale).cpu().numpy()


def _reduced(source: Source, pairs: Pairs, sums: _Sums, errors: NDArray[np.float64]) -> GeneScores:
    n = max(1, int(sums.pairs.sum()))
    counts = sums.counts.sum(0)
    table = pd.DataFrame(index=pd.Index(source.genes.astype(str)))
    for name in SCORES:
        table[name] = sums.sums[name].sum(0) / n
    change = sums.sums["change"].sum(0) / n
    table["signed_by_change"] = table["absolute"] * np.sign(change)
    if sums.tells_presence:
        table["presence"] = sums.sums["presence"].sum(0) / n
    table["expression_change"] = change
    for name in ("forward", "backward", "importance", "effect"):
        mean = table[name].to_numpy()
        table[f"{name}_sd"] = np.sqrt(np.maximum(sums.squares[name] / n - mean**2, 0.0))
    table["n_pairs"] = counts
    by_group = {}
    for name in SCORES:
        means = sums.sums[name] / np.maximum(sums.pairs, 1)[:, None]
        by_group[name] = pd.DataFrame(means.T, index=table.index, columns=pairs.groups)
    zeros = {name: total / n for name, total in sums.zeros.items()}
    return GeneScores(table, by_group, n, errors, zeros)
