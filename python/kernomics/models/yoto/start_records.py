"""What a training keeps of its starts: each one's panel, how it was judged, the best one's scores.

All of it is in buffers, and so in the checkpoints. Of a start that is over nothing else is needed,
and without halving a training with many starts holds one network as one with a single start does;
with it those that go on wait for their turn with all that their steps left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from kernomics.metrics.uncertainty import N_DRAWS
from kernomics.models.yoto.schedule import Leg
from kernomics.train import RowAdamW

if TYPE_CHECKING:
    from kernomics.models.yoto.module import YOTOModule

Judge = Literal["own", "linear", "both"]
"""Who chooses among the panels of several starts; see `YOTOConfig`."""


@dataclass(frozen=True)
class Verdict:
    """How a panel was judged: means over tasks of macro-F1 or R².

    Attributes
    ----------
    own, linear
        By the selection's network and by a regression; NaN where it was not asked.
    resampled
        What decides, the mean of those asked, on resamples of the cells judged on; the same
        resamples for every panel.
    """

    own: float
    linear: float
    resampled: list[float]


class StartRecords(nn.Module):
    """The starts of one training.

    Parameters
    ----------
    legs
        Who selects when.
    k, n_genes
        Genes of a panel, all genes.
    judge
        Judges the panel that a module has now, given the panel's genes.
    build
        Returns a module as a start begins with it.

    Attributes
    ----------
    panels
        int64 [n, k], each start's genes where it was judged last.
    judged
        float64 [levels, n, 2], by its network and by a regression at the end of each of its legs.
    resampled
        float64 [levels, n, N_DRAWS], what decides, on resamples.
    waiting
        float32 [slots, values], the parameters of starts that go on and what the optimizer has of
        them; [0, 0] while there are none.
    waits
        int64 [slots], which start each of them is, −1 for none.
    optimizer
        What trains, for it begins anew with each start.
    """

    panels: Tensor
    judged: Tensor
    resampled: Tensor
    best_scores: Tensor
    waiting: Tensor
    waits: Tensor

    def __init__(
        self,
        legs: Sequence[Leg],
        k: int,
        n_genes: int,
        judge: Callable[[YOTOModule, Tensor], Verdict],
        build: Callable[[int], YOTOModule],
    ) -> None:
        super().__init__()
        self.legs, self.judge, self.build = tuple(legs), judge, build
        self.optimizer: RowAdamW | None = None
        levels = [sum(leg.level == level for leg in legs) for level in range(legs[-1].level + 1)]
        self.n, self.counts = levels[0], levels
        n, depth = levels[0], len(levels)
        self.register_buffer("panels", torch.full((n, k), -1))
        self.register_buffer("judged", torch.full((depth, n, 2), math.nan, dtype=torch.float64))
        self.register_buffer("resampled", torch.zeros((depth, n, N_DRAWS), dtype=torch.float64))
        self.register_buffer("best_scores", torch.zeros(n_genes))
        self.register_buffer("waits", torch.full((levels[1] if depth > 1 else 0,), -1))
        self.register_buffer("waiting", torch.zeros(0, 0))
        self._news: list[tuple[str, dict[str, Any]]] = []

    @property
    def scores(self) -> Tensor:
        """What decides, by level and start, NaN where there is none; float64 [levels, n]."""
        return self.judged.nanmean(dim=2)

    @property
    def best(self) -> int:
        """The best start at the end; of equals the first."""
        return int(self.scores[-1].nan_to_num(nan=-math.inf).argmax())

    @property
    def last_levels(self) -> list[int]:
        """The level in which each start was judged last."""
        there: list[int] = (~self.scores.isnan()).sum(dim=0).tolist()
        return [max(0, n - 1) for n in there]

    def entrants(self, level: int) -> list[int]:
        """Return the starts of a level, the best of the one before, by number."""
        if level == 0:
            return list(range(self.n))
        scores = self.scores[level - 1].nan_to_num(nan=-math.inf)
        kept = scores.argsort(descending=True, stable=True)[: self.counts[level]]
        return sorted(kept.tolist())

    def end(self, number: int, module: YOTOModule, panel: Tensor, scores: Tensor) -> None:
        """Judge the panel at the end of a leg; keep what is needed of the start."""
        leg = self.legs[number]
        start, found = self.entrants(leg.level)[leg.turn], self.judge(module, panel)
        self.panels[start] = panel
        at = (leg.level, start)
        self.judged[at] = torch.tensor([found.own, found.linear], dtype=torch.float64)
        self.resampled[at] = torch.tensor(found.resampled, dtype=torch.float64)
        told: dict[str, Any] = {"start": start, "score": float(self.scores[at])}
        if leg.level + 1 < len(self.counts):
            told["after"] = leg.end / self.legs[-1].end
            self._wait(leg.level, start, module)
        else:
            if self.best == start:
                self.best_scores.copy_(scores)
            told["best"] = self.best
        if number + 1 == len(self.legs):
            self.waiting = self.waiting.new_zeros(0, 0)
        for name, value in (("own", found.own), ("linear", found.linear)):
            if not math.isnan(value):
                told[name] = value
        self._news.append(("start", told))

    def begin(self, number: int, module: YOTOModule) -> None:
        """Set the selection of a module, and the optimizer, to where a leg begins.

        The order of the cells, the noise (of the seed and the step) and dropout go on, and so
        differ between starts.
        """
        leg = self.legs[number]
        start = self.entrants(leg.level)[leg.turn]
        if leg.level:
            self._go_on(start, module)
            return
        fresh = dict(self.build(start).named_parameters())
        for name, parameter in selecting(module).items():
            parameter.copy_(fresh[name])
        if self.optimizer is not None:
            self.optimizer.forget()

    def _wait(self, level: int, start: int, module: YOTOModule) -> None:
        """Keep a start if it may go on, in the place of one that is worse or over."""
        held = [t.reshape(-1).to(self.panels.device, torch.float32) for t in self._state(module)]
        state = torch.cat(held)
        if not self.waiting.numel():
            self.waiting = state.new_zeros(len(self.waits), len(state))
        places = self.waits.tolist()
        if start in places:
            self.waiting[places.index(start)] = state
            return
        scores = self.scores[level].nan_to_num(nan=-math.inf).tolist()
        # An empty place is the worst of all; of equals the later start gives way.
        worst = min(
            range(len(places)), key=lambda i: (places[i] >= 0, scores[places[i]], -places[i])
        )
        if places[worst] < 0 or scores[start] > scores[places[worst]]:
            self.waits[worst], self.waiting[worst] = start, state

    def _go_on(self, start: int, module: YOTOModule) -> None:
        """Set the selection of a module, and the optimizer, to where a start was left."""
        state = self.waiting[self.waits.tolist().index(start)]
        held = self._state(module)
        sizes = [tensor.numel() for tensor in held]
        for tensor, kept in zip(held, torch.split(state, sizes), strict=True):
            tensor.copy_(kept.reshape(tensor.shape))

    def _state(self, module: YOTOModule) -> list[Tensor]:
        """Return what a start is, to be read or written."""
        parameters = list(selecting(module).values())
        return [*parameters, *(self.optimizer.moments(parameters) if self.optimizer else ())]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Make room for starts that wait, which a new training has none for."""
        kept = state.get(f"{prefix}waiting")
        if kept is not None:
            self.waiting = self.waiting.new_zeros(kept.shape)
        super()._load_from_state_dict(state, prefix, *rest)

    def news(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what was not told yet."""
        told, self._news = self._news, []
        return told


def selecting(module: YOTOModule) -> dict[str, nn.Parameter]:
    """Return the parameters that a selection has, by name."""
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if not name.startswith("predictor.")
    }
