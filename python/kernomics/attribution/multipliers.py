"""DeepLIFT of any function of torch tensors: complete, on the operations that it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import kernomics.attribution.attention_rule
import kernomics.attribution.mask_rules
import kernomics.attribution.rules
import kernomics.attribution.softmax_and_norm_rules  # noqa: F401
from kernomics._arguments import checked
from kernomics._warnings import warn
from kernomics.attribution.decompositions import by_parts
from kernomics.attribution.operation_pair import RULES, Multipliers, Pair, delta, has_rule, infinite
from kernomics.attribution.tape import Step, Tape
from kernomics.errors import ConfigError, KernomicsError

OVERWRITING = ("aten.copy.default", "aten.fill.Tensor", "aten.fill.Scalar", "aten.zero.default")
"""Operations of whose first argument nothing is left."""
HALF = (torch.float16, torch.bfloat16)
ROUNDED = dict.fromkeys(HALF, 1.0)
"""How many ε a number may be off: 100, but 1 in half precision, which is summed in float32."""
MASKED = 0.01
"""Negative numbers that are rounded in steps of about this, or more, are masks."""


class DeepLift(NamedTuple):
    """What each number of the inputs contributes to the difference between two outputs.

    Attributes
    ----------
    contributions
        Per input a tensor like it; over all inputs they add up to ``case − baseline``.
    multipliers
        Per input the contribution of a difference of one.
    case, baseline
        The outputs, [B].
    """

    contributions: tuple[Tensor, ...]
    multipliers: tuple[Tensor, ...]
    case: Tensor
    baseline: Tensor

    def completeness(self) -> Tensor:
        """Return |Σ contributions − (case − baseline)| over the whole batch."""
        total = sum((x.double().sum() for x in self.contributions), torch.zeros(()).double())
        return (total - (self.case.double() - self.baseline.double()).sum()).abs()


@checked
def deeplift(
    function: Callable[..., Tensor],
    case: Sequence[Tensor],
    baseline: Sequence[Tensor],
    output: int | Tensor | None = None,
) -> DeepLift:
    r"""Attribute the difference of a function's outputs to the differences of its inputs.

    The function runs once on each side. The operations that depend on the inputs are recorded, and
    multipliers go back through them by one rule each (`kernomics.attribution.rules`), so that

    .. math:: \sum_i m_i (x_i - \bar x_i) = F(x) - F(\bar x)

    to rounding, for a transformer too: softmax, GELU, LayerNorm and attention are operations like
    any other, and need not be modules. Nothing is hooked or rewritten and no gradient is left on
    the parameters. The rules are those of Shrikumar et al. 2017 (arXiv 1704.02685, rescale) and
    Ancona et al. 2018 (arXiv 1711.06104, §3), completed for products and masks;
    `docs/attribution.md` derives them.

    Parameters
    ----------
    function
        Such as a model in evaluation mode, or ``lambda x, mask: model(inputs_embeds=x,
        attention_mask=mask).logits``. Cells must not influence one another.
    case, baseline
        The inputs on both sides, tensors of equal shapes and dtypes; those of a mask may be bool
        or integers. An entry of a mask that differs between the sides gets a contribution of its
        own.
    output
        Of outputs [B, n]: which column, or int64 [B], one for each cell. None for outputs [B].

    Raises
    ------
    ConfigError
        An operation has no rule, named with the module it runs in; or the two sides do not run the
        same operations; or an output is not finite; or the contributions miss the difference by
        more than rounding, since a part of the function was not seen.
    ConfigError
        The inputs do not match.
    """
    one, two = _inputs("case", case), _inputs("baseline", baseline)
    if not one:
        raise ConfigError("case has no inputs: at least one is needed")
    if len(one) != len(two):
        raise ConfigError(f"case has {len(one)} inputs and baseline {len(two)}: as many are needed")
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
            raise ConfigError(
                f"input {i} is {a.dtype} {tuple(a.shape)} on {a.device} in case and {b.dtype} "
                f"{tuple(b.shape)} on {b.device} in baseline: equal ones are needed"
            )
    with torch.inference_mode(False):
        return _lifted(function, one, two, output)


def _lifted(
    function: Callable[..., Tensor],
    one: list[Tensor],
    two: list[Tensor],
    output: int | Tensor | None,
) -> DeepLift:
    tapes: list[Tape] = []
    outputs: list[Tensor] = []
    with by_parts():
        for side, given in (("case", one), ("baseline", two)):
            # Copies, so that no two inputs share memory and what is changed in place stays here.
            inputs = [x.clone() for x in given]
            tape = Tape(inputs, has_rule, tapes[-1] if tapes else None)
            with torch.no_grad(), tape:
                returned = function(*inputs)
                if not isinstance(returned, Tensor):
                    raise ConfigError(
                        f"the function returned {type(returned).__name__}: one tensor is needed, "
                        "such as its logits"
                    )
                outputs.append(_chosen(returned, output))
            _require_numbers(outputs[-1], side)
            tapes.append(tape)
    if not any(x.numel() for x in outputs):
        raise ConfigError("the function returned no outputs: at least one cell is needed")
    with torch.no_grad(), torch.autocast(outputs[0].device.type, enabled=False):
        multipliers = _back(tapes[0], tapes[1], outputs)
        found, contributions = [], []
        for x, x_bar, m in zip(one, two, multipliers, strict=True):
            change = delta(x, x_bar)
            dtype = x.dtype if x.is_floating_point() else outputs[0].dtype
            found.append(torch.zeros_like(change, dtype=dtype) if m is None else m)
            contributions.append(found[-1] * change)
        result = DeepLift(tuple(contributions), tuple(found), *outputs)
        _require_complete(result, tapes[0], tapes[1])
    return result


def _require_numbers(outputs: Tensor, side: str) -> None:
    if not outputs.is_floating_point():
        raise ConfigError(f"the function returned {outputs.dtype}: floating-point is needed")
    bad = torch.nonzero(~outputs.isfinite()).flatten()
    if len(bad):
        raise ConfigError(
            f"the function returned {len(bad):,} of {len(outputs):,} NaN or infinite outputs for "
            f"{side}, first of cell {int(bad[0])}; does a cell see nothing at all, or overflow?"
        )


def _require_complete(found: DeepLift, one: Tape, two: Tape) -> None:
    """Refuse what is further from the difference than rounding can be."""
    lost = float(found.completeness())
    effect = float((found.case.double() - found.baseline.double()).abs().sum())
    scale = max(effect, 0.1 * sum(float(x.double().abs().sum()) for x in found.contributions))
    if lost <= (1e-6 if found.case.dtype == torch.float64 else 1e-2) * scale:
        return
    # Where next to nothing changes, the outputs differ by rounding alone: each number on the way
    # is off by ε of its size, and that moves the output by its multiplier.
    rounding: dict[torch.dtype, float] = {}
    _back(one, two, [found.case, found.baseline], rounding)
    if lost <= sum(rounding.values()):
        half = [str(x).removeprefix("torch.") for x in rounding if x in HALF]
        if half:
            warn(
                f"the contributions miss the difference of the outputs by {lost / scale:.1%}, as "
                f"the function computes in {half[0]}; take float32 for exact ones"
            )
        return
    raise ConfigError(
        f"the contributions miss the difference of the outputs by {lost:.3g} of {scale:.3g}: a "
        "part of the function was not seen (NumPy, or memory written behind torch's back), or its "
        "numbers are lost to rounding, as where a finite mask such as -1e7 closes all that a query "
        "sees (try float64, or mask with -inf)"
    )


def _inputs(name: str, given: Sequence[Tensor]) -> list[Tensor]:
    for i, x in enumerate(given):
        if x.layout != torch.strided or x.is_complex():
            kind = x.dtype if x.is_complex() else x.layout
            raise ConfigError(f"{name}[{i}] is {kind}: a dense tensor of real numbers is needed")
        if x.is_floating_point() and bool(x.isnan().any()):
            raise ConfigError(f"{name}[{i}] has {int(x.isnan().sum()):,} NaN")
    with torch.inference_mode(False):
        return [x.detach().clone() for x in given]


def _chosen(outputs: Tensor, output: int | Tensor | None) -> Tensor:
    if output is None:
        if outputs.dim() != 1:
            raise ConfigError(
                f"the function returned {tuple(outputs.shape)}: say by output= which column of "
                "[B, n] to attribute, or return [B]"
            )
        return outputs.clone()
    if outputs.dim() != 2:
        raise ConfigError(
            f"the function returned {tuple(outputs.shape)}: [B, n] is needed with output="
        )
    n = outputs.shape[1]
    columns = torch.as_tensor(output, device=outputs.device)
    if columns.dtype == torch.bool or columns.is_floating_point():
        raise ConfigError(f"output is {columns.dtype}: an integer, or int64 [B], is needed")
    if columns.dim() == 0:
        columns = columns.expand(len(outputs))
    if columns.shape != outputs.shape[:1]:
        raise ConfigError(f"output has shape {tuple(columns.shape)}: [{len(outputs)}] is needed")
    bad = columns[(columns < 0) | (columns >= n)]
    if len(bad):
        raise ConfigError(f"output is {int(bad[0])}: 0 to {n - 1} are possible")
    return outputs.gather(1, columns.long()[:, None])[:, 0]


def _back(
    one: Tape,
    two: Tape,
    outputs: Sequence[Tensor],
    rounding: dict[torch.dtype, float] | None = None,
) -> Multipliers:
    """Take multipliers from the outputs back to the inputs.

    Parameters
    ----------
    one, two
        The tapes of both sides.
    outputs
        What is attributed.
    rounding
        Filled with what rounding to each dtype can cost, if given: a share of Σ |multiplier| ·
        |number| of the operations' outputs.
    """
    ends = [tape.id_of(x) for tape, x in zip((one, two), outputs, strict=True)]
    if ends[0] is None and ends[1] is None:
        return [None] * len(one.input_ids)
    _require_same(one.steps, two.steps, ends)
    assert ends[0] is not None
    needed = _needed(one.steps, two.steps, ends[0])
    known: dict[int, Tensor] = {ends[0]: torch.ones_like(outputs[0])}
    for i in reversed(needed):
        step, other = one.steps[i], two.steps[i]
        m: Multipliers = [None if k is None else known.pop(k, None) for k in step.output_ids]
        if all(x is None for x in m):
            continue
        if rounding is not None:
            for g, x, y in zip(m, step.outputs, other.outputs, strict=True):
                if g is not None and isinstance(x, Tensor):
                    dtype = x.dtype if x.is_floating_point() else outputs[0].dtype
                    size = (g.double() * (x.double().abs() + y.double().abs())).abs()
                    share = ROUNDED.get(dtype, 100.0) * torch.finfo(dtype).eps
                    cost = share * float(torch.where(_masks(x) | _masks(y), 0.0, size).sum())
                    rounding[dtype] = rounding.get(dtype, 0.0) + cost
        found = _through(step, other, m)
        for k, x in zip(step.ids, found, strict=True):
            if k is not None and x is not None:
                known[k] = known[k] + x if k in known else x
    return [known.get(k) for k in one.input_ids]


def _masks(x: Tensor) -> Tensor:
    """Tell which numbers are a mask's, whose size says nothing of what rounding may cost."""
    if not x.is_floating_point():
        return torch.zeros_like(x, dtype=torch.bool)
    return infinite(x) | ~x.isfinite() | (x * torch.finfo(x.dtype).eps < -MASKED)


def _needed(steps: Sequence[Step], others: Sequence[Step], end: int) -> list[int]:
    """Return the steps on the way to the output, all of which must have a rule."""
    wanted, found, missing = {end}, [], []
    for i in range(len(steps) - 1, -1, -1):
        step = steps[i]
        if not any(k in wanted for k in step.output_ids):
            continue
        if step.where and not any(_wanted(step, others[i])):
            continue  # of whole numbers that are equal on both sides
        found.append(i)
        wanted.update(k for k in step.ids if k is not None)
        if step.where:
            missing.append(step)
    if missing:
        first = missing[-1]
        if "embedding" in str(first.op):
            raise ConfigError(
                f"{first.op} in {first.where} looks up whole numbers, which cannot be attributed; "
                "give the function the embeddings (inputs_embeds of a Hugging Face model)"
            )
        more = len({str(step.op) for step in missing}) - 1
        raise ConfigError(
            f"DeepLIFT has no rule for {first.op}, which runs in {first.where}"
            + (f", nor for {more} more operations" if more else "")
            + "; write one (kernomics.attribution.rules says how), or choose integrated_gradients"
        )
    return found[::-1]


def _require_same(one: Sequence[Step], two: Sequence[Step], ends: Sequence[int | None]) -> None:
    names = [[str(step.op) for step in steps] for steps in (one, two)]
    if names[0] != names[1] or ends[0] != ends[1]:
        i = next((i for i, (a, b) in enumerate(zip(*names, strict=False)) if a != b), None)
        what = "of different number" if i is None else f"{names[0][i]} and {names[1][i]}"
        raise ConfigError(
            f"case and baseline do not run the same operations ({what}): the function decides by "
            "the values of its inputs, which cannot be attributed"
        )
    for a, b in zip(one, two, strict=True):
        if a.ids != b.ids or a.output_ids != b.output_ids or a.place != b.place:
            raise ConfigError(f"case and baseline go different ways through {a.op}")
        for x, y in zip([*a.leaves, *a.outputs], [*b.leaves, *b.outputs], strict=True):
            if isinstance(x, Tensor) != isinstance(y, Tensor):
                raise ConfigError(f"case and baseline go different ways through {a.op}")
            if isinstance(x, Tensor) and x.shape != y.shape:
                raise ConfigError(
                    f"case and baseline have different shapes in {a.op}, {tuple(x.shape)} and "
                    f"{tuple(y.shape)}"
                )


def _through(step: Step, other: Step, m: Multipliers) -> Multipliers:
    """Return the multipliers of a step's arguments."""
    if step.op == "write":
        return _of_writing(step, m)
    if step.op == "read":
        assert step.place is not None
        assert m[0] is not None
        tensor = step.outputs[0]
        whole = m[0].new_zeros(tensor.untyped_storage().nbytes() // tensor.element_size())
        whole.as_strided(*step.place).copy_(m[0])
        return [whole]
    wanted = _wanted(step, other)
    for i, (x, y, k) in enumerate(zip(step.leaves, other.leaves, step.ids, strict=True)):
        if k is None and (i > 0 or str(step.op) not in OVERWRITING):
            _require_equal(step, x, y)
    if not any(wanted):
        return [None] * len(wanted)
    pair = Pair(step, step.leaves, other.leaves, wanted, step.outputs, other.outputs)
    try:
        found = RULES[str(step.op)](pair, m)
    except (RuntimeError, TypeError, IndexError, ValueError, ArithmeticError) as error:
        if isinstance(error, KernomicsError):
            raise
        raise ConfigError(
            f"the rule of {step.op} cannot take what it is given here ({error}); write one for it "
            "(kernomics.attribution.rules says how), or choose integrated_gradients"
        ) from error
    dtype = next(x.dtype for x in m if x is not None)
    return [
        None if x is None else x.to(leaf.dtype if leaf.is_floating_point() else dtype)
        for x, leaf in zip(found, step.leaves, strict=True)
    ]


def _wanted(step: Step, other: Step) -> list[bool]:
    """Tell which arguments want multipliers: not whole numbers that are equal on both sides."""
    return [
        # What is overwritten is perhaps memory that nobody has written yet.
        k is not None
        and (i > 0 or str(step.op) not in OVERWRITING)
        and (x.is_floating_point() or not torch.equal(x, y))
        for i, (x, y, k) in enumerate(zip(step.leaves, other.leaves, step.ids, strict=True))
    ]


def _require_equal(step: Step, x: Any, y: Any) -> None:
    """Refuse constants that differ."""
    if x is y:
        return
    if not isinstance(x, Tensor):
        if x == y or (x != x and y != y):  # NaN
            return
        raise ConfigError(
            f"{step.op} is given {x} for case and {y} for baseline: the function takes a number "
            "or a choice from the values of its inputs (item(), a branch), which cannot be "
            "attributed"
        )
    if x.layout != torch.strided:
        x, y = x.to_dense(), y.to_dense()
    if torch.equal(x, y) or bool((x.isnan() & y.isnan() | (x == y)).all()):
        return
    raise ConfigError(
        f"{step.op} takes numbers that differ between case and baseline without depending on the "
        "inputs; is the model in training mode (call eval()), or does it draw random numbers, or "
        "compute with the inputs in NumPy?"
    )


def _of_writing(step: Step, m: Multipliers) -> Multipliers:
    assert step.place is not None
    assert m[0] is not None
    written = m[0].as_strided(*step.place).clone()
    if step.ids[1] is None:
        return [written, None]
    rest = m[0].clone()
    rest.as_strided(*step.place).zero_()
    owner: Any = step.leaves[1]
    return [written, rest if owner is None else rest.as_strided(*owner).clone()]
