"""Random numbers that are nobody else's: of a cell, of a new module, of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kernomics._arguments import checked, require_rate
from kernomics.errors import ConfigError

STREAM_DEPTH = 2  # one constant per purpose; those of the ops stand in csrc/common/philox.h
STREAM_MASKED_GENES = 3
STREAM_MASKED_PHENOTYPES = 4
STREAM_SHOWN_GENES = 5
STREAM_MASKED_VALUES = 6
STREAM_GHOSTS = 7  # and the genes that feature distillation asks for
STREAM_UNEXPRESSED_GENES = 8
STREAM_STARTS = 9
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
    """The random numbers of one module's training: a generator of its own, where the module is.

    `kernomics.train.fit` begins the draws of a module that has some as ``module.draws``, and keeps
    their state in its checkpoints.

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
        """Begin anew."""
        self.generator = torch.Generator(device).manual_seed(seed % 2**64)
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

    @checked
    def kept(self, x: Tensor, p: float) -> Tensor:
        """Return 1 where a value of x [cells, …] stays, and 0 where it is lost, at the rate p."""
        require_rate(p=p)
        start, n, whole = self._part
        if not whole:
            return torch.empty_like(x).bernoulli_(1 - p, generator=self.generator)
        if n and len(x) != n:
            raise ConfigError(
                f"there are draws for {len(x):,} rows, and {n:,} cells: dropout needs a row for "
                "each cell where several processes share a batch"
            )
        kept = x.new_empty((whole, *x.shape[1:])).bernoulli_(1 - p, generator=self.generator)
        return kept[start : start + n] if n else torch.ones_like(x)

    def state(self) -> Tensor:
        """Return what `restore` takes, uint8 on the CPU."""
        return self.generator.get_state()

    @checked
    def restore(self, state: Tensor) -> None:
        """Go on from a state that a generator on the same kind of device had."""
        if state.dtype != torch.uint8 or state.shape != self.state().shape:
            raise ConfigError(
                f"state is {state.dtype} of shape {tuple(state.shape)}: a state from state() of "
                "draws on the same kind of device is needed"
            )
        self.generator.set_state(state)


class Dropout(nn.Module):
    """torch's dropout, drawn from `Draws`: on the CPU the same numbers as from a like-seeded torch.

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
        return x * self.draws.kept(x, self.p).mul_(1 / (1 - self.p))


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
