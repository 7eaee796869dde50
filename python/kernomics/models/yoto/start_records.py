"""What a training keeps of its starts: each one's panel, how it was judged, the best one's scores.

All of it is in buffers, and so in the checkpoints: of the starts that are over nothing else is
needed, and a training with many starts holds one network as one with a single start does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from kernomics.metrics.uncertainty import N_DRAWS
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
    n, k, n_genes
        Starts, genes of a panel, all genes.
    judge
        Judges the panel that a module has now, given the panel's genes.
    build
        Returns a module as a start begins with it.

    Attributes
    ----------
    optimizer
        What trains, for it begins anew with each start.
    """

    panels: Tensor
    judged: Tensor
    resampled: Tensor
    best_scores: Tensor

    def __init__(
        self,
        n: int,
        k: int,
        n_genes: int,
        judge: Callable[[YOTOModule, Tensor], Verdict],
        build: Callable[[int], YOTOModule],
    ) -> None:
        super().__init__()
        self.n, self.judge, self.build = n, judge, build
        self.optimizer: RowAdamW | None = None
        self.register_buffer("panels", torch.full((n, k), -1))
        self.register_buffer("judged", torch.full((n, 2), math.nan, dtype=torch.float64))
        self.register_buffer("resampled", torch.zeros((n, N_DRAWS), dtype=torch.float64))
        self.register_buffer("best_scores", torch.zeros(n_genes))
        self._news: list[tuple[str, dict[str, Any]]] = []

    @property
    def scores(self) -> Tensor:
        """What decides, by start, NaN for those to come; float64 [n]."""
        return self.judged.nanmean(dim=1)

    @property
    def best(self) -> int:
        """The best start so far; of equals the first."""
        return int(self.scores.nan_to_num(nan=-math.inf).argmax())

    def end(self, start: int, module: YOTOModule, panel: Tensor, scores: Tensor) -> None:
        """Judge the panel of a start and keep it, and its scores if it is the best so far."""
        found = self.judge(module, panel)
        self.panels[start] = panel
        self.judged[start] = torch.tensor([found.own, found.linear], dtype=torch.float64)
        self.resampled[start] = torch.tensor(found.resampled, dtype=torch.float64)
        if self.best == start:
            self.best_scores.copy_(scores)
        told = {"start": start, "score": float(self.scores[start]), "best": self.best}
        for name, value in (("own", found.own), ("linear", found.linear)):
            if not math.isnan(value):
                told[name] = value
        self._news.append(("start", told))

    def begin(self, start: int, module: YOTOModule) -> None:
        """Set the selection of a module, and the optimizer, to where a start begins.

        The order of the cells, the noise (of the seed and the step) and dropout go on, and so
        differ between starts.
        """
        fresh = dict(self.build(start).named_parameters())
        for name, parameter in module.named_parameters():
            if not name.startswith("predictor."):
                parameter.copy_(fresh[name])
        if self.optimizer is not None:
            self.optimizer.forget()

    def news(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what was not told yet."""
        told, self._news = self._news, []
        return told
