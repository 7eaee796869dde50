"""AdamW that leaves the rows of a table alone when a step did not touch them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from kernomics.errors import ConfigError
from kernomics.ops._adamw import GRADIENT, adamw_step, fits, slot_of, square_sum

# As torch wraps them, the first call imports its compiler, which takes two seconds.
_add_param_group = unwrap(Optimizer.add_param_group)
_zero_grad = unwrap(Optimizer.zero_grad)
_state_dict = unwrap(Optimizer.state_dict)
_load_state_dict = unwrap(Optimizer.load_state_dict)

Rows = Callable[[], Tensor | None]
"""Returns the rows touched in the current step, int64 [n], or ``None`` for all."""


def _coalesced(gradient: Tensor) -> Tensor:
    """Return a sparse gradient without rows named twice, as it is where its rows ascend."""
    rows = gradient._indices()[0]
    if bool((rows[1:] > rows[:-1]).all()):  # as accumulated by autograd, which says nothing of it
        return gradient._coalesced_(True)
    return gradient.coalesce()


class RowAdamW(Optimizer):
    """AdamW with lazy rows.

    A parameter group may have a key ``"rows"``: a callable that is asked once in every step which
    rows (entries of the first dimension) of the group's parameters the step touched. Only these
    are updated. The others get neither gradient, weight decay nor decay of their moments, and
    stay the same to the bit: plain AdamW would move them on stale momentum. A group without
    ``"rows"`` is updated as :class:`torch.optim.AdamW` does it.

    For each row touched, with t the number of steps in which this row was touched:

    | θ ← θ − η λ θ
    | m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²
    | θ ← θ − η m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε)

    so a row first touched late has its moments corrected as in its own first step. When every
    step touches all rows this is AdamW.

    A parameter group with ``"one_scale": True`` has one second moment for the whole parameter, that
    of its largest gradient: v ← β₂ v + (1 − β₂) maxᵢ gᵢ². The entry with the largest gradient
    then moves by about η and the others in proportion, where Adam moves all alike however small
    their gradients are.

    A gradient may be sparse where there are ``"rows"``: its rows are then those touched. On the CPU
    a step is one sweep over all parameters of a group (csrc/cpu/adamw.cpp), and so is
    `gradient_norm`.

    Parameters
    ----------
    params
        Parameters, or groups of them.
    lr
        Learning rate η.
    betas
        Decay rates β₁, β₂ of the moments.
    eps
        ε, added to the root.
    weight_decay
        λ, decoupled from the gradient.

    Raises
    ------
    ConfigError
        If a figure makes no sense, or ``"rows"`` is given for a parameter without rows.

    Source: I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", 2019.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not lr >= 0 or not eps >= 0 or not weight_decay >= 0:
            raise ConfigError(
                f"lr is {lr}, eps {eps}, weight_decay {weight_decay}: none may be below 0"
            )
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"betas are {betas}: each must be at least 0 and below 1")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "rows": None, "one_scale": False})
        # By the parameter's id, of those without rows: in each step only the gradient is elsewhere.
        self._slots: dict[int, list[int]] = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; see the class for its key ``"rows"``."""
        _add_param_group(self, param_group)
        group = self.param_groups[-1]
        if group["rows"] is not None and any(p.dim() == 0 for p in group["params"]):
            raise ConfigError("a parameter group with 'rows' holds a scalar, which has no rows")
        if group["rows"] is not None and group["one_scale"]:
            raise ConfigError("a parameter group has both 'rows' and 'one_scale': give one of them")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        if not set_to_none:
            _zero_grad(self, set_to_none=False)
            return
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    def forget(self) -> None:
        """Begin anew: what the steps so far left is forgotten, and the parameters stay."""
        self.state.clear()
        self._slots.clear()

    def moments(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Return what the steps so far left of some parameters, to be read or written in place."""
        wanted = {id(param) for param in params}
        return [
            tensor
            for group in self.param_groups
            for param in group["params"]
            if id(param) in wanted
            for tensor in self._moments(
                param, per_row=group["rows"] is not None, one_scale=group["one_scale"]
            ).values()
        ]

    @torch.no_grad()
    def gradient_norm(self) -> float:
        """Return the norm of the gradient of all parameters together."""
        found: dict[torch.dtype, list[Tensor]] = {}
        others = 0.0
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                gradient = param.grad
                if gradient.is_sparse:
                    gradient = _coalesced(gradient).values()
                if fits(gradient):
                    found.setdefault(gradient.dtype, []).append(gradient)
                else:
                    others += float(torch.linalg.vector_norm(gradient)) ** 2
        return math.sqrt(others + sum(square_sum(same) for same in found.values()))

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, factor: float = 1.0
    ) -> float | None:
        """Update the parameters that have a gradient.

        Parameters
        ----------
        closure
            Computes the loss again; for torch's interface.
        factor
            What the gradients are multiplied by, to shorten a long one.

        Returns
        -------
        float or None
            What `closure` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update_group(group, factor)
        return loss

    def _update_group(self, group: dict[str, Any], factor: float) -> None:
        rows = None if group["rows"] is None else group["rows"]()
        if rows is not None and (rows.dtype != torch.int64 or rows.dim() != 1):
            raise ConfigError(
                f"'rows' returned {rows.dtype} of shape {tuple(rows.shape)}: it must return "
                "int64 indices in one dimension, or None for all rows"
            )
        swept: dict[torch.dtype, list[Sequence[int]]] = {}
        alive: list[tuple[Tensor, Tensor, Tensor | None]] = []  # what the slots' addresses are of
        for param in group["params"]:
            gradient = param.grad
            if gradient is None:
                continue
            slot = self._slots.get(id(param))
            if (
                slot is not None
                and gradient.layout is torch.strided
                and gradient.dtype is param.dtype
                and gradient.is_contiguous()
                and slot[0] == param.data_ptr()
            ):
                slot[GRADIENT] = gradient.data_ptr()
                alive.append((param, gradient, None))
                swept.setdefault(param.dtype, []).append(slot)
            else:
                self._update_or_sweep(param, rows, group, factor, swept, alive)
        for dtype, slots in swept.items():
            if not adamw_step(
                slots,
                dtype,
                rate=group["lr"],
                weight_decay=group["weight_decay"],
                betas=group["betas"],
                eps=group["eps"],
                factor=factor,
                one_scale=group["one_scale"],
            ):
                for param, gradient, touched in alive:
                    if param.dtype is dtype:
                        self._update(param, gradient, touched, group, factor)

    def _update_or_sweep(
        self,
        param: Tensor,
        rows: Tensor | None,
        group: dict[str, Any],
        factor: float,
        swept: dict[torch.dtype, list[Sequence[int]]],
        alive: list[tuple[Tensor, Tensor, Tensor | None]],
    ) -> None:
        """Add a parameter to the sweep, or update it, where the kernel does not take it."""
        gradient, touched, per_row = param.grad, rows, group["rows"] is not None
        assert gradient is not None
        sparse = gradient.is_sparse
        if sparse:
            if not per_row:
                raise ConfigError(
                    "RowAdamW takes dense gradients only for a group without 'rows', found a "
                    "sparse one"
                )
            gradient = _coalesced(gradient)
            touched, gradient = gradient.indices()[0], gradient.values()
        state = self._moments(param, per_row=per_row, one_scale=group["one_scale"])
        mean, square, steps = state["exp_avg"], state["exp_avg_sq"], state["step"]
        near = [steps] if touched is None else [steps, touched]
        if not fits(param, gradient, mean, square) or not all(
            t.device.type == "cpu" and t.is_contiguous() for t in near
        ):
            self._update(param, gradient, touched, group, factor)
            return
        slot = slot_of(param, gradient, mean, square, steps, touched, sparse)
        alive.append((param, gradient, touched))
        swept.setdefault(param.dtype, []).append(slot)
        if not per_row:
            self._slots[id(param)] = list(slot)

    def _moments(
        self, param: Tensor, *, per_row: bool, one_scale: bool = False
    ) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[param]
        if not state:
            # torch casts any state but "step" to the parameter's dtype when it is loaded.
            state["step"] = (
                torch.zeros(len(param), dtype=torch.int64, device=param.device)
                if per_row
                else torch.zeros((), dtype=torch.float32)
            )
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = (
                param.new_zeros(())
                if one_scale
                else torch.zeros_like(param, memory_format=torch.preserve_format)
            )
        return state

    def _update(
        self,
        param: Tensor,
        grad: Tensor,
        rows: Tensor | None,
        group: dict[str, Any],
        factor: float,
    ) -> None:
        """Update by torch's operations: on a GPU, and where numbers do not lie in one piece."""
        if factor != 1:
            grad = grad * factor
        if group["rows"] is not None:
            self._update_rows(param, grad, rows, group)
            return
        one_scale = group["one_scale"]
        state = self._moments(param, per_row=False, one_scale=one_scale)
        lr, (beta1, beta2) = group["lr"], group["betas"]
        state["step"] += 1
        t = state["step"].item()
        param.mul_(1 - lr * group["weight_decay"])
        mean = state["exp_avg"].lerp_(grad, 1 - beta1)
        size = grad.abs().amax() if one_scale else grad
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(size, size, value=1 - beta2)
        root = (square.sqrt() / (1 - beta2**t) ** 0.5).add_(group["eps"])
        param.addcdiv_(mean, root, value=-lr / (1 - beta1**t))

    def _update_rows(
        self, param: Tensor, grad: Tensor, rows: Tensor | None, group: dict[str, Any]
    ) -> None:
        state = self._moments(param, per_row=True)
        lr, (beta1, beta2) = group["lr"], group["betas"]
        compact = param.grad is not None and param.grad.is_sparse
        if rows is None:
            rows = torch.arange(len(param), device=param.device)
        if not compact:
            grad = grad.index_select(0, rows)
        mean = state["exp_avg"].index_select(0, rows).lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].index_select(0, rows).mul_(beta2)
        square.addcmul_(grad, grad, value=1 - beta2)
        steps = state["step"].index_select(0, rows) + 1

        # Per row, in float64 as Python computes them for AdamW, then in the parameter's dtype.
        t = steps.double().reshape(-1, *[1] * (param.dim() - 1))
        rate = (-lr / (1 - beta1**t)).to(param.dtype)
        correction = (1 - beta2**t).sqrt().to(param.dtype)
        root = (square.sqrt() / correction).add_(group["eps"])
        value = param.index_select(0, rows).mul_(1 - lr * group["weight_decay"])
        value += rate * mean / root

        # index_copy_, not index_add_: should a row be given twice, both copies are the same.
        param.index_copy_(0, rows, value)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        state["step"].index_copy_(0, rows, steps)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._slots = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the ``"rows"`` callables, which belong to the module."""
        state: dict[str, Any] = _state_dict(self)
        state["param_groups"] = [
            {key: value for key, value in group.items() if key != "rows"}
            for group in state["param_groups"]
        ]
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; the ``"rows"`` callables stay those this optimizer was made with.

        That of a `torch.optim.AdamW` with the same groups is taken too.
        """
        own = [
            {key: value for key, value in group.items() if key not in ("params", "rows")}
            for group in self.param_groups
        ]
        rows = [group["rows"] for group in self.param_groups]
        _load_state_dict(self, state_dict)
        self._slots.clear()
        for group, settings, callable_ in zip(self.param_groups, own, rows, strict=True):
            kept = {key: group.get(key, value) for key, value in settings.items()}
            params = group["params"]
            group.clear()
            group.update(params=params, rows=callable_, **kept)
            for param in params:
                # torch leaves "step" where the file was read, on the CPU.
                if callable_ is not None and param in self.state:
                    self.state[param]["step"] = self.state[param]["step"].to(param.device)
