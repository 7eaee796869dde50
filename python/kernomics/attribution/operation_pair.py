"""An operation as it ran on both sides, the book of rules, and differences that may be infinite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernomics.attribution.tape import Step

Multipliers = list[Tensor | None]


@dataclass
class Pair:
    """An operation as it ran for the case and for the baseline.

    Attributes
    ----------
    step
        That of the case.
    case, base
        Its leaves on both sides.
    wanted
        Which leaves want multipliers.
    case_outputs, base_outputs
        What came out.
    """

    step: Step
    case: list[Any]
    base: list[Any]
    wanted: list[bool]
    case_outputs: list[Any]
    base_outputs: list[Any]

    def middle(self, i: int) -> Any:
        """Return x̃ of a leaf; a constant as it is."""
        one, two = self.case[i], self.base[i]
        if not self.wanted[i]:
            return one
        if not one.is_floating_point():  # where True + True is True
            one, two = one.double(), two.double()
        return (one + two) / 2

    def delta(self, i: int) -> Tensor:
        """Return Δ of a leaf."""
        return delta(self.case[i], self.base[i])

    def delta_out(self, i: int = 0) -> Tensor:
        """Return Δ of an output."""
        return delta(self.case_outputs[i], self.base_outputs[i])

    def at(self, *names: str) -> int | None:
        """Return the number of the leaf of an argument; None where it was not given."""
        assert self.step.spec is not None
        args, kwargs = self.step.spec.of(range(len(self.case)))
        order = [argument.name for argument in self.step.op._schema.arguments]
        numbers = dict(zip(order, args, strict=False)) | kwargs
        return next((numbers[name] for name in names if name in numbers), None)

    def none(self) -> Multipliers:
        """Return no multiplier for any leaf."""
        return [None] * len(self.case)


Rule = Callable[[Pair, Multipliers], Multipliers]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of ATen operations, such as ``"aten.mul.Tensor"``."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def has_rule(op: Any) -> bool:
    """Tell whether an operation can be attributed."""
    return str(op) in RULES


def named(names: str, overload: str = "default") -> list[str]:
    """Return the full names of operations."""
    return [f"aten.{name if '.' in name else f'{name}.{overload}'}" for name in names.split()]


INFINITE = 1e29
"""Numbers beyond this count as infinite, since models mask with such; less in half precision."""


def infinite(x: Tensor) -> Tensor:
    """Tell which numbers count as infinite."""
    if not x.is_floating_point():
        return torch.zeros_like(x, dtype=torch.bool)
    return x.abs() > _bound(x.dtype)


def _bound(dtype: torch.dtype) -> float:
    return min(INFINITE, torch.finfo(dtype).max / 4)


def bounded(x: Tensor, bound: float | None = None) -> bool:
    """Tell in one pass that all numbers are below a bound, by default what counts as infinite.

    A root of squares is never less than the largest number. Where it overflows the answer is no,
    and whoever asks looks closer.
    """
    if not x.is_floating_point() or not x.numel():
        return True
    return float(torch.linalg.vector_norm(x)) < (bound or _bound(x.dtype))


def delta(one: Tensor, two: Tensor) -> Tensor:
    """Return one − two, ±1 where that is infinite, and 0 where both are."""
    if not one.is_floating_point():
        return (one.long() - two.long()).double()
    found = (one - two).nan_to_num_(nan=0.0)
    return torch.where(infinite(found), found.sign(), found)


def nearly(dtype: torch.dtype) -> float:
    """Return the Δin below which Δout/Δin is lost in rounding, and a derivative is better."""
    return float(torch.finfo(dtype).eps ** (1 / 3))


def fitting(m: Tensor, like: Tensor) -> Tensor:
    """Sum over what was broadcast."""
    return m.sum_to_size(like.shape)


def own_gradient(pair: Pair, m: Multipliers, at: Sequence[Any]) -> Multipliers:
    """Return the operation's own gradient at some point."""
    dtype = next(g.dtype for g in m if g is not None)
    leaves = []
    for x, wanted in zip(at, pair.wanted, strict=True):
        if isinstance(x, Tensor):  # one of inference mode cannot be kept for a gradient
            x = x.clone() if x.is_inference() else x.detach()
        if wanted:  # a mask is moved as a number is
            x = (x if x.is_floating_point() else _like(x, dtype)).requires_grad_()
        leaves.append(x)
    asked = [x for x, wanted in zip(leaves, pair.wanted, strict=True) if wanted]
    with torch.enable_grad():
        outputs = pair.step.call(leaves)
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    known = [(out, g) for out, g in zip(outputs, m, strict=True) if g is not None]
    grads = iter(
        torch.autograd.grad(
            [out for out, _ in known], asked, [g for _, g in known], allow_unused=True
        )
    )
    return [next(grads) if wanted else None for wanted in pair.wanted]


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return whole numbers as others, with the same strides, so that views of them are possible."""
    found = torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=x.device)
    return found.copy_(x) if 0 not in x.stride() else x.to(dtype)


def one_sided(z: Tensor, z_bar: Tensor) -> Tensor | None:
    """Return ±1 where one side alone is finite; None where both are everywhere."""
    one, two = infinite(z), infinite(z_bar)
    if not bool(one.any()) and not bool(two.any()):
        return None
    return two.to(z.dtype) - one.to(z.dtype)


def ratio(over: Tensor, under: Tensor) -> Tensor:
    """Divide, 0 where the divisor is."""
    return torch.where(under == 0, 0.0, over / torch.where(under == 0, 1.0, under))


def by_quotient(pair: Pair, g: Tensor, i: int) -> Tensor:
    """Return the multipliers of a leaf that alone moves the output: Δout/Δin, 0 where Δin is."""
    return fitting(ratio(g * pair.delta_out(), pair.delta(i)), pair.case[i])


def endless(pair: Pair, *leaves: int) -> Tensor | None:
    """Tell where an output, or one of these leaves, is infinite on a side; None where none is."""
    looked_at = [pair.case_outputs[0], pair.base_outputs[0]]
    looked_at += [x for i in leaves for x in (pair.case[i], pair.base[i]) if isinstance(x, Tensor)]
    if all(bounded(x) for x in looked_at):
        return None
    found = infinite(pair.case_outputs[0]) | infinite(pair.base_outputs[0])
    for i in leaves:
        if isinstance(pair.case[i], Tensor):
            found = found | infinite(pair.case[i]) | infinite(pair.base[i])
    return found if bool(found.any()) else None
