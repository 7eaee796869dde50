"""Random numbers that are nobody else's: of a cell, of a new module, of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from kernomics._arguments import checked, require_rate, shown
from kernomics.errors import ConfigError
from kernomics.ops import dropout

STREAM_DEPTH = 2  # one constant per purpose; those of the ops stand in csrc/common/philox.h
STREAM_MASKED_GENES = 3
STREAM_MASKED_PHENOTYPES = 4
STREAM_SHOWN_GENES = 5
STREAM_MASKED_VALUES = 6
STREAM_GHOSTS = 7  # and the genes that feature distillation asks for
STREAM_UNEXPRESSED_GENES = 8
STREAM_STARTS = 9
STREAM_OTHERS = 11  # 10 is dropout's, csrc/common/philox.h
_LOW = 0xFFFFFFFF
_DRAWING = (
    *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli),
    *(Tensor.uniform_, Tensor.normal_, Tensor.bernoulli_, Tensor.random_, Tensor.exponential_),
)


class DrawingFrom(TorchFunctionMode):
    """Inside the block this thread's CPU draws come from a generator, not torch's global one.

    For making modules, whose layers draw their first weights by themselves and take no generator.
    The numbers are those of torch's global generator in the same state; that one is left alone,
    since it is the caller's, and other threads share it.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Pass the generator to whatever draws; those of ``nn.init`` ask for one by name."""
        given = dict(kwargs or {})
        if func in _DRAWING or "generator" in given:
            given["generator"] = given.get("generator") or self.generator
        return func(*args, **given)


@checked
def drawing_from(seed: int) -> DrawingFrom:
    """Return a `DrawingFrom` of a new generator with this seed, any integer."""
    return DrawingFrom(torch.Generator().manual_seed(seed % 2**64))


class Draws:
    """The random numbers of one module's training: how often it has drawn, under a seed.

    `kernomics.train.fit` begins the draws of a module that has some as ``module.draws``, and keeps
    their state in its checkpoints. What is drawn is a pure function of the seed, the number of the
    draw and the place in the whole batch, on any device.

    Parameters
    ----------
    seed
        Any integer.
    """

    @checked
    def __init__(self, seed: int = 0) -> None:
        self.begin(seed, torch.device("cpu"))

    @checked
    def begin(self, seed: int, device: torch.device) -> None:
        """Begin anew; the device makes no difference."""
        self.seed = (seed + 2**63) % 2**64 - 2**63
        self.count = 0
        self.of_part(0, 0, 0)

    @checked
    def of_part(self, start: int, n: int, whole: int) -> None:
        """Draw for the cells `start` to `start + n` of `whole` as if for all of them.

        So that processes that share a batch draw what one process would. With `whole` = 0 what is
        drawn for is all that there is.
        """
        if not 0 <= start <= start + n <= whole:
            raise ConfigError(
                f"start = {start}, n = {n}: they are no part of whole = {whole:,} cells"
            )
        self._part = start, n, whole

    def _next(self, n_rows: int) -> tuple[int, int]:
        """Return the number of a draw for so many rows, and the row of the batch it begins with."""
        start, n, whole = self._part
        if whole and n and n_rows != n:
            raise ConfigError(
                f"there are draws for {n_rows:,} rows, and {n:,} cells: dropout needs a row for "
                "each cell where several processes share a batch"
            )
        self.count += 1
        return self.count - 1, start

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def dropped(self, x: Tensor, p: float, *, rectified: bool = False) -> Tensor:
        """Return x [cells, …] with some values 0, at the rate p, and the others times 1/(1 − p).

        With `rectified` it is max(x, 0) in place of x; see :func:`kernomics.ops.dropout`, which
        checks the arguments.
        """
        if not isinstance(x, Tensor) or not x.dim():
            raise ConfigError(f"x is {shown(x)}: a tensor [cells, …] is needed")
        draw, start = self._next(len(x))
        first = start * (x.numel() // max(1, len(x)))
        seed = torch.from_numpy(np.array((self.seed, draw), np.int64))
        if not x.is_cpu:
            seed = seed.to(x.device, non_blocking=True)
        return dropout(x, p, seed, rectified=rectified, first=first)

    @checked
    def generator(self, device: torch.device | None = None) -> torch.Generator:
        """Return a generator, by default on the CPU, for one draw of another kind."""
        self.count += 1
        made = torch.Generator(device or "cpu")
        return made.manual_seed(seed_of(self.seed, self.count - 1, STREAM_OTHERS))

    def state(self) -> Tensor:
        """Return what `restore` takes, uint8 [8] on the CPU: how often was drawn."""
        return torch.tensor([self.count]).view(torch.uint8)

    @checked
    def restore(self, state: Tensor) -> None:
        """Go on from a state."""
        if state.dtype != torch.uint8 or state.shape != (8,):
            raise ConfigError(
                f"state is {state.dtype} of shape {tuple(state.shape)}: uint8 [8] from state() is "
                "needed; a run that was begun before dropout drew by counters cannot go on: start "
                "it anew"
            )
        self.count = int(state.clone().view(torch.int64))


class Dropout(nn.Module):
    """torch's dropout, drawn from `Draws`.

    Parameters
    ----------
    p
        Share of the values that is set to 0 in training, from 0 to below 1.
    draws
        Where the numbers come from; layers of one module share it.
    """

    @checked
    def __init__(self, p: float, draws: Draws) -> None:
        super().__init__()
        require_rate(p=p)
        self.p, self.draws = p, draws

    def forward(self, x: Tensor) -> Tensor:
        """Return x, of any shape: some values 0, the others times 1 / (1 − p); in evaluation x."""
        if not self.training or not self.p:
            return x
        dropped: Tensor = self.draws.dropped(x, self.p)
        return dropped


class ReluDropout(Dropout):
    """``Dropout`` of max(x, 0), in one sweep."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `Dropout` of max(x, 0); in evaluation max(x, 0)."""
        if self.training and self.p:
            dropped: Tensor = self.draws.dropped(x, self.p, rectified=True)
            return dropped
        return functional.relu(x)


def uniforms(seed: Tensor, row_ids: Tensor, n_columns: int, stream: int) -> Tensor:
    """Return a number in [0, 1) for every (row id, column), float32 [R, n_columns].

    A pure function of them, of the seed, int64 [2] (key, step), and of the stream, below 2¹⁶, which
    says what they are for; row ids are below 2⁴⁸. For a few columns: the ops draw their own. The
    words are those of `kernomics.ops.reference.philox_words`, the number is the word's upper 24
    bits.
    """
    blocks = torch.arange((n_columns + 3) // 4, device=row_ids.device)
    rows = row_ids[:, None]
    words = _words(seed, rows, blocks[None, :].expand(len(row_ids), -1), stream)
    return _uniform(words.reshape(len(row_ids), -1)[:, :n_columns])


def uniforms_at(seed: Tensor, row_ids: Tensor, columns: Tensor, stream: int) -> Tensor:
    """Return four numbers in [0, 1) for each pair of row id and column; see `uniforms`.

    Parameters
    ----------
    seed, row_ids, stream
        As for `uniforms`.
    columns
        int64 [R], such as the number of a gene, below 2³².

    Returns
    -------
    Tensor
        float32 [R, 4]; those that `uniforms` has in columns 4·column to 4·column + 3.
    """
    return _uniform(_words(seed, row_ids, columns.long(), stream))


def seed_of(seed: int, number: int, stream: int) -> int:
    """Return a seed, of 64 bits, of the `number`-th part of something that has the seed `seed`."""
    key = torch.tensor([seed, 0])
    words = _words(key, torch.tensor([[number]]), torch.zeros(1, 1, dtype=torch.int64), stream)
    low, high = words[0, 0, :2].tolist()
    return int(low | high << 32)


def _words(seed: Tensor, rows: Tensor, blocks: Tensor, stream: int) -> Tensor:
    """Return four words for each row and block."""
    c0 = blocks
    c1 = (rows & _LOW).expand_as(c0)
    c2 = ((rows >> 32) + (stream << 16)).expand_as(c0)
    c3 = (seed[1] & _LOW).expand_as(c0)
    k0, k1 = seed[0] & _LOW, (seed[0] >> 32) & _LOW
    for _ in range(10):
        # Products of 64 bits wrap into the sign; shift and mask give their halves all the same.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _LOW) ^ c1 ^ k0,
            p1 & _LOW,
            ((p0 >> 32) & _LOW) ^ c3 ^ k1,
            p0 & _LOW,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return torch.stack([c0, c1, c2, c3], dim=-1)


def _uniform(words: Tensor) -> Tensor:
    return (words >> 8).to(torch.float32) * 2.0**-24
