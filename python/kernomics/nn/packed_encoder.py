"""PackedEncoder: a pre-norm transformer over cells of different lengths, without padding.

The tokens of all cells stand one after the other, [N, d], so that norms, linear layers and
feed-forward layers see no padding at all. Attention alone looks at one cell at a time: cells of
about the same length are gathered into a group, of which an eighth at most is padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from kernomics._arguments import checked, require_least
from kernomics.errors import ConfigError
from kernomics.nn.encoder import EncoderBlock, Recompute
from kernomics.nn.memory_efficient import feed_forward, fold_norm, fold_scale, standardise

PADDING = 1 / 8
"""Share of a group's longest cell that the shortest may lack."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each group of cells stand among all tokens.

    Attributes
    ----------
    shapes
        Per group (cells, longest).
    index
        int64 [M], for each place of all groups, one after the other, its token; a place that is
        padding repeats one.
    place
        int64 [N], the place of each token.
    masks
        Per group bool [cells, 1, 1, longest], False at padding; None where there is none.
    """

    shapes: list[tuple[int, int]]
    index: Tensor
    place: Tensor
    masks: list[Tensor | None]

    def gather(self, tokens: Tensor) -> list[Tensor]:
        """Return the tokens of each group, [cells, longest, d]."""
        places: Tensor = _Gather.apply(tokens, self.index, self.place)  # type: ignore[no-untyped-call]
        sizes = [cells * longest for cells, longest in self.shapes]
        return [
            part.view(*shape, tokens.shape[-1])
            for part, shape in zip(torch.split(places, sizes), self.shapes, strict=True)
        ]

    def scatter(self, groups: Sequence[Tensor]) -> Tensor:
        """Return the tokens [N, d] from each group's, whose padding is dropped."""
        places = torch.cat([group.reshape(-1, group.shape[-1]) for group in groups])
        return places.index_select(0, self.place)


class _Gather(torch.autograd.Function):
    """Rows by number, each wanted once but for padding, whose gradient is zero."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, index: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return tokens.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> Any:
        (place,) = ctx.saved_tensors
        return delta.index_select(0, place), None, None


class Packing:
    """How the tokens of B cells stand: first `n_first` of each cell, then the rest of each.

    Parameters
    ----------
    n_first
        Tokens that every cell has, such as those of its phenotypes.
    lengths
        int64 [B] on the CPU, further tokens of each cell; 0 is possible.
    device
        Where the tokens are.
    """

    def __init__(self, n_first: int, lengths: Tensor, device: torch.device) -> None:
        self.n_first, self.n_cells, self.device = n_first, len(lengths), device
        totals = lengths.numpy() + n_first
        order = np.argsort(-totals, kind="stable")
        self.groups: list[npt.NDArray[np.int64]] = []
        ordered, start = totals[order].tolist(), 0
        while start < self.n_cells:
            least = ordered[start] * (1 - PADDING)
            stop = start
            while stop < self.n_cells and ordered[stop] >= least:
                stop += 1
            self.groups.append(order[start:stop])
            start = stop
        self.layout = self.layout_of(lengths)

    def layout_of(self, lengths: Tensor) -> Layout:
        """Return the layout, by the same groups, of tokens of which each cell has another number.

        Parameters
        ----------
        lengths
            int64 [B] on the CPU, tokens beyond the first ones; their order is cell by cell.
        """
        first, own = self.n_first, lengths.numpy()  # many small steps, which torch makes slower
        totals = own + first
        starts = self.n_cells * first + own.cumsum() - own
        last = max(0, int(totals.sum()) - 1)
        shapes, index, masks, places, tokens, done = [], [], [], [], [], 0
        for cells in self.groups:
            length = totals[cells][:, None]
            column = np.arange(length.max())
            inside = column < length
            at = starts[cells][:, None] + np.minimum(column, length - 1) - first
            at = np.where(column < first, cells[:, None] * first + column, at)
            # A cell without a token of its own, in a group of such that have some, repeats any.
            at = np.where(inside, at, at.clip(0, last))
            shapes.append((len(cells), len(column)))
            index.append(at.ravel())
            full = bool(inside.all())
            masks.append(None if full else torch.from_numpy(inside).to(self.device)[:, None, None])
            places.append(done + np.flatnonzero(inside))
            tokens.append(at[inside])
            done += inside.size
        place = np.empty(int(totals.sum()), dtype=np.int64)
        place[np.concatenate(tokens)] = np.concatenate(places)
        taken = torch.from_numpy(np.concatenate(index))
        return Layout(shapes, taken.to(self.device), torch.from_numpy(place).to(self.device), masks)


class PackedEncoder(nn.Module):
    """A stack of `EncoderBlock` over packed cells.

    The last block computes the rows that are wanted alone.

    Parameters
    ----------
    d_model, n_layers, n_heads, layer_scale, recompute
        As for `kernomics.nn.Encoder`.
    """

    @checked
    def __init__(
        self,
        d_model: int,
        n_layers: int,
        n_heads: int,
        *,
        layer_scale: float = 0.1,
        recompute: Recompute = "nothing",
    ) -> None:
        super().__init__()
        require_least(1, d_model=d_model, n_layers=n_layers, n_heads=n_heads)
        if d_model % n_heads:
            raise ConfigError(
                f"d_model is {d_model} and n_heads {n_heads}: the heads must divide the width"
            )
        self.blocks = nn.ModuleList(
            EncoderBlock(d_model, n_heads, layer_scale) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.recompute = recompute

    def forward(
        self,
        tokens: Tensor,
        packing: Packing,
        wanted: Tensor,
        wanted_lengths: Tensor,
        bias: Tensor | None = None,
        adapt: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return some tokens after the last block, normalised, [W, d].

        Parameters
        ----------
        tokens
            [N, d], those of `packing`.
        packing
            Where each cell's tokens stand.
        wanted
            int64 [W], which are wanted: the first ones of every cell, then others cell by cell.
        wanted_lengths
            int64 [B] on the CPU, how many others of each cell.
        bias
            [N], what is added to the logits of the attention to each token; 0 by default.
        adapt
            What takes the place of the tokens after a block, from its number, counted from 1, and
            the tokens: all [N, d], after the last block those wanted [W, d].
        """
        x, last = tokens, len(self.blocks) - 1
        layout, queries = packing.layout, packing.layout_of(wanted_lengths)
        # A mask of another dtype is read wrongly by some of torch's attentions.
        masks = _masks(layout, None if bias is None else bias.to(tokens.dtype))
        for i, block in enumerate(self.blocks):
            chosen = (wanted, queries) if i == last else None
            if self.recompute == "blocks" and torch.is_grad_enabled():
                x = checkpoint(
                    self._block, block, x, layout, masks, chosen,
                    use_reentrant=False, preserve_rng_state=False,
                )  # fmt: skip
            else:
                x = self._block(block, x, layout, masks, chosen)
            if adapt is not None:
                x = adapt(i + 1, x)
        return self.norm(x)  # type: ignore[no-any-return]

    def _block(
        self,
        block: nn.Module,
        x: Tensor,
        layout: Layout,
        masks: Sequence[Tensor | None],
        chosen: tuple[Tensor, Layout] | None,
    ) -> Tensor:
        """Do what `EncoderBlock` does, cell by cell, of all tokens or of those chosen."""
        assert isinstance(block, EncoderBlock)
        width, heads = x.shape[1], block.n_heads
        normed = standardise(x, block.norm_1.eps)
        weight, bias = fold_norm(block.norm_1, block.qkv)
        rows = layout
        if chosen is None:
            packed = F.linear(normed, weight, bias)
            parts = [group.chunk(3, dim=-1) for group in layout.gather(packed)]
        else:
            wanted, rows = chosen
            x = x.index_select(0, wanted)
            own = F.linear(normed.index_select(0, wanted), weight[:width], bias[:width])
            others = F.linear(normed, weight[width:], bias[width:])
            parts = [
                (q, *kv.chunk(2, dim=-1))
                for q, kv in zip(rows.gather(own), layout.gather(others), strict=True)
            ]
        mixed = []
        for (q, k, v), mask in zip(parts, masks, strict=True):
            q, k, v = (t.view(len(t), -1, heads, width // heads).transpose(1, 2) for t in (q, k, v))
            found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            mixed.append(found.transpose(1, 2).reshape(len(found), -1, width))
        attended = F.linear(rows.scatter(mixed), *fold_scale(block.project, block.scale_1))
        x = x + attended
        out: Tensor = x + feed_forward(
            standardise(x, block.norm_2.eps),
            *fold_norm(block.norm_2, block.widen),
            *fold_scale(block.narrow, block.scale_2),
            again=self.recompute == "feed_forward",
        )
        return out


def _masks(layout: Layout, bias: Tensor | None) -> list[Tensor | None]:
    if bias is None:
        return layout.masks
    found: list[Tensor | None] = []
    for group, mask in zip(layout.gather(bias[:, None]), layout.masks, strict=True):
        added = group[:, None, None, :, 0]
        found.append(added if mask is None else added.masked_fill(~mask, -torch.inf))
    return found
