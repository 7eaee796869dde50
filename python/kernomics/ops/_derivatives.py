"""How ops are registered, and what is said where one has no derivative: never a silent zero."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._common import LIBRARY

# What `call` may run without torch's dispatcher: the implementation on the CPU, and the types of
# arguments that an op's schema takes as they are.
_ON_CPU: dict[Any, Callable[..., Any]] = {}
_TENSORS = frozenset((Tensor, torch.nn.Parameter))
_PLAIN = frozenset((type(None), bool, int, float, str))


def register(
    name: str,
    function: str,
    cpu: Callable[..., Any],
    cuda: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    gradient: bool = True,
) -> None:
    """Register an op's implementations, and an error where it is differentiated by itself.

    Parameters
    ----------
    name
        The op, defined in `LIBRARY` already.
    function
        The public function that calls it.
    cpu, cuda, fake
        What it does on either device, and for torch's compiler.
    gradient
        Whether the public function has one.
    """
    detach = "detach the inputs"
    otherwise = f"call kernomics.ops.{function}, which has a gradient" if gradient else detach
    backward = "use backward" if gradient else detach
    LIBRARY.impl(name, cpu, "CPU")
    LIBRARY.impl(name, cuda, "CUDA")
    torch.library.register_fake(f"kernomics::{name}", fake, lib=LIBRARY)
    packet = getattr(torch.ops.kernomics, name)
    op = packet.default
    _ON_CPU[packet] = cpu

    def check(keys: Any, *arguments: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            raise NotImplementedError(
                f"torch.ops.kernomics.{name}, called by itself or by an exported graph, passes on "
                f"no gradient, and an input requires one; call it under torch.no_grad(), or "
                f"{otherwise}, or use {_reference(function)}"
            )
        if getattr(forward_ad, "_current_level", 0) >= 0 and _has_tangent(arguments):
            raise NotImplementedError(
                f"{function} has no forward-mode derivative (torch.func.jvp, "
                f"torch.autograd.forward_ad); {backward}, or {_reference(function)}"
            )
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keys & torch._C._after_autograd_keyset, *arguments)

    LIBRARY.impl(name, check, "Autograd", with_keyset=True)


def _reference(function: str) -> str:
    return f"kernomics.ops.reference.{function}, plain torch that every derivative can be taken of"


def _has_tangent(arguments: tuple[Any, ...]) -> bool:
    tensors = (a for a in arguments if isinstance(a, Tensor) and a.is_floating_point())
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def _unobserved(arguments: tuple[Any, ...]) -> bool:
    """Tell whether torch's dispatcher would do no more than run the CPU implementation.

    So it is with tensors in the CPU's memory, of torch's own classes and without a lazy sign or
    zero, while no mode, profiler or tracer looks at what runs.
    """
    if (
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._autograd._profiler_enabled()
        or torch._C._get_tracing_state() is not None
    ):
        return False
    for argument in arguments:
        kind = type(argument)
        if kind in _PLAIN:
            continue
        if kind not in _TENSORS or not argument.is_cpu or argument.layout != torch.strided:
            return False
        if argument.is_neg() or argument._is_zerotensor():
            return False
    return True


def call(op: Callable[..., Any], *arguments: Any) -> Any:
    """Call an op, without the check (some 10 µs) where nothing asks for a derivative.

    Where nobody looks it goes straight to the CPU implementation: the dispatcher takes 1 µs for
    each argument, to unpack and pack it again, which is most of a call on a tiny input.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return op(*arguments)
    if getattr(forward_ad, "_current_level", 0) >= 0:
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return _ON_CPU[op](*arguments) if _unobserved(arguments) else op(*arguments)


def differentiates(*tensors: Tensor | None) -> bool:
    """Tell whether a call needs a gradient for one of the tensors."""
    if not torch.is_grad_enabled():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def apply(function: str, rule: type[torch.autograd.Function], *arguments: Any) -> Any:
    """Apply the gradient rule of a public function.

    Raises
    ------
    NotImplementedError
        Within a transform of ``torch.func``, which the rules do not know.
    """
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            f"{function} has no derivative by torch.func (grad, vjp, jvp, hessian, vmap of a "
            "gradient); use backward or torch.autograd.grad, for each example in turn, or "
            f"{_reference(function)}"
        )
    return rule.apply(*arguments)


def wants_graph() -> bool:
    """Tell whether backward runs with ``create_graph=True``: its result is differentiated again."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _Once(torch.autograd.Function):
    """Pass gradients on; backward names the function that cannot be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, function: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(
            f"{ctx.function} has no second derivative (create_graph, hessian, gradient penalty); "
            f"use {_reference(ctx.function)}"
        )


def once(function: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a backward be differentiated no further, as torch's ``once_differentiable`` means to.

    That one gives zeros where the gradient depends on the inputs but what comes from above does
    not. Here the error hangs on all saved tensors too, so a rule saves the inputs that its
    gradients depend on.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(backward)
        def run(ctx: Any, *above: Any) -> Any:
            if not wants_graph():
                return backward(ctx, *above)
            with torch.no_grad():
                found = backward(ctx, *above)
            every = found if isinstance(found, tuple) else (found,)
            present = [gradient for gradient in every if gradient is not None]
            inputs = [t for t in (*above, *ctx.saved_tensors) if t is not None and t.requires_grad]
            if not inputs:
                return found
            passed = iter(_Once.apply(function, len(present), *present, *inputs))
            return tuple(None if gradient is None else next(passed) for gradient in every)

        return run

    return decorate
