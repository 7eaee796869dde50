"""`Sharding`: a module's weights, gradients and optimiser state shared out over ranks, by FSDP2.

Each rank holds a part of every parameter, about 1/w of its first dimension, with what the
optimiser keeps of it. torch gathers the whole of a block's parameters before it computes, and adds
up the gradients so that each rank has its part of the sums. The optimizer sees plain tensors, the
parts, and knows nothing of that. Whatever reads the module outside of a step does so while it is
`gathered`, and in the end it is as if it had never been shared out.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from kernomics.errors import ConfigError
from kernomics.train.holding import Holding
from kernomics.train.optim import RowAdamW

if TYPE_CHECKING:
    from kernomics.train.distributed.many import Ranks

BY_ELEMENT = (RowAdamW, Adam, SGD)  # torch's AdamW is an Adam
"""Optimizers that move each number by itself, so that a part needs none of the others."""


class Sharding(Holding):
    """A module that is shared out over ranks.

    Parameters
    ----------
    ranks
        All of them.
    module
        The same on every rank. Its ``shards()`` are the modules that are gathered one by one; the
        rest is gathered for the whole of a step.
    optimizer
        Of the module's parameters, with whatever state it has. From now on it has their parts.
    """

    is_shared = True

    def __init__(self, ranks: Ranks, module: nn.Module, optimizer: Optimizer) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        require_shardable(module, optimizer)
        # A block's CLS row is a view, on which nothing is done in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        self.ranks, self.module, self.optimizer = ranks, module, optimizer
        self.parameters = []  # whose gradients torch adds up
        self.loss_factor = float(ranks.world)  # torch takes means over ranks
        self.mesh: Any = init_device_mesh(next(module.parameters()).device.type, (ranks.world,))
        names = {id(p): name for name, p in module.named_parameters()}
        self.held = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
        state = optimizer.state_dict()

        modules = list(module.modules())
        plain = [_Guise.of(one) for one in modules]
        self.parts: list[Any] = [*module.shards(), module]  # type: ignore[operator]
        for part in self.parts:
            fully_shard(part, mesh=self.mesh)
        register_fsdp_forward_method(module, "training_loss")
        self._guises = [
            (one, before, _Guise.of(one, before))
            for one, before in zip(modules, plain, strict=True)
        ]
        self.shared: dict[str, Any] = dict(module.named_parameters())
        self.own_parts = {
            name: nn.Parameter(p.detach().to_local(), requires_grad=p.requires_grad)
            for name, p in self.shared.items()
        }
        for group in optimizer.param_groups:
            group["params"] = [self.own_parts[names[id(p)]] for p in group["params"]]
        optimizer.state.clear()
        state["state"] = self._mapped(state["state"], self._part_of)
        optimizer.load_state_dict(state)

    # -- a step ----------------------------------------------------------------------------------

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for shared in self.shared.values():
            shared.grad = None
        self.optimizer.zero_grad(set_to_none=True)

    def take_gradients(self) -> None:
        """Give the optimizer's parts their gradients."""
        for name, shared in self.shared.items():
            own = self.own_parts[name]
            own.data = shared.detach().to_local()
            own.grad = None if shared.grad is None else shared.grad.to_local()

    def clip(self, most: float) -> float:
        """Return how long the gradient of all ranks' parts is, and shorten it to `most`."""
        gradients = [own.grad for own in self.own_parts.values() if own.grad is not None]
        squares = sum(float(gradient.double().square().sum()) for gradient in gradients)
        norm = math.sqrt(self.ranks.added(squares))
        for gradient in gradients:
            gradient.mul_(min(1.0, most / (norm + 1e-6)))
        return norm

    @contextlib.contextmanager
    def computing(self) -> Generator[None, None, None]:
        """While a loss and its gradients are computed, say which rank is gone if one is."""
        with self.ranks.torchs_own():
            yield

    # -- outside of a step -----------------------------------------------------------------------

    @contextlib.contextmanager
    def gathered(self) -> Generator[None, None, None]:
        """Let every rank hold the whole module inside the block, to be read and not changed."""
        with self.ranks.torchs_own():
            for part in self.parts:
                part.unshard()
        self._dress(shared=False)
        try:
            yield
        finally:
            self._dress(shared=True)
            for part in self.parts:
                part.reshard()

    def own(self, parameter: Tensor) -> Tensor:
        """Return this rank's part of a parameter."""
        found: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        return found

    def weights(self, *, keep: bool) -> dict[str, Any]:
        """Return the whole ``state_dict()``, on ranks that keep it; all must ask."""
        return self.gather(self.module.state_dict(), keep=keep)

    def gather(self, weights: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
        """Return what a ``state_dict()`` of parts is as a whole, on ranks that keep it."""
        found = {}
        for name, item in weights.items():
            whole = self._whole(item) if name in self.shared else item
            if keep:
                found[name] = whole
        return found

    def share_out(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return this rank's parts of a whole ``state_dict()``; see `gather`."""
        return {
            name: self._joined(self._part_of(item, name), name) if name in self.shared else item
            for name, item in weights.items()
        }

    def optimizer_state(self, *, keep: bool) -> dict[str, Any]:
        """Return the optimizer's whole ``state_dict()``, on ranks that keep it; all must ask."""

        def gathered(part: Tensor, name: str) -> Tensor:
            whole = self._whole(self._joined(part, name))
            return whole if keep else part

        state = self.optimizer.state_dict()
        state["state"] = self._mapped(state["state"], gathered)
        return state

    def release(self) -> None:
        """Leave every rank the whole module, a plain one."""
        whole = self.weights(keep=True)
        self._dress(shared=False)
        for name, shared in self.shared.items():
            home, _, leaf = name.rpartition(".")
            parameter = nn.Parameter(whole.pop(name), requires_grad=shared.requires_grad)
            self.module.get_submodule(home)._parameters[leaf] = parameter

    # -- parts and wholes ------------------------------------------------------------------------

    def _part_of(self, whole: Tensor, name: str) -> Tensor:
        """Return this rank's part of a tensor that is like a parameter, cut as torch cuts it."""
        chunks = whole.chunk(self.ranks.world)
        rank = self.ranks.rank
        return (chunks[rank] if rank < len(chunks) else whole[:0]).clone()

    def _joined(self, part: Tensor, name: str) -> Any:
        """Return the tensor, like a parameter, of which every rank has a part."""
        from torch.distributed.tensor import DTensor

        like = self.shared[name]
        return DTensor.from_local(
            part, self.mesh, like.placements, run_check=False, shape=like.shape,
            stride=like.stride(),
        )  # fmt: skip

    def _whole(self, joined: Any) -> Tensor:
        with self.ranks.torchs_own():
            found: Tensor = joined.full_tensor()
        return found

    def _mapped(
        self, state: Mapping[int, Mapping[str, Any]], change: Callable[[Tensor, str], Tensor]
    ) -> dict[int, dict[str, Any]]:
        """Change what an optimizer keeps of parameters, number by number, but no counters."""
        return {
            i: {
                key: change(item, self.held[i]) if isinstance(item, Tensor) and item.dim() else item
                for key, item in kept.items()
            }
            for i, kept in state.items()
        }

    def _dress(self, *, shared: bool) -> None:
        """Make all modules look as before they were shared out, or after that."""
        for module, before, after in self._guises:
            guise, other = (after, before) if shared else (before, after)
            module.__class__ = guise.kind
            for key in other.added:
                del module.__dict__[key]
            module.__dict__.update(guise.added)
            for name, hooks in guise.hooks.items():
                there = module.__dict__[name]
                there.clear()
                there.update(hooks)


class _Guise(NamedTuple):
    """What torch changes of a module that is shared out, beside its parameters."""

    kind: type
    names: frozenset[str]
    hooks: dict[str, dict[Any, Any]]
    added: dict[str, Any]

    @classmethod
    def of(cls, module: nn.Module, before: _Guise | None = None) -> _Guise:
        """Return how a module looks, with what has been added since before."""
        entries = module.__dict__
        hooks = {name: dict(one) for name, one in entries.items() if "_hooks" in name}
        known = entries if before is None else before.names
        added = {name: one for name, one in entries.items() if name not in known}
        return cls(type(module), frozenset(entries), hooks, added)


def require_shardable(module: nn.Module, optimizer: Optimizer) -> None:
    """Refuse a module, or an optimizer, that cannot work on parts."""
    if not hasattr(module, "shards"):
        raise ConfigError(
            f"shard is set, but a {type(module).__name__} is not made to be shared out over ranks, "
            "as a TxFM is: leave it out"
        )
    if not isinstance(optimizer, BY_ELEMENT):
        raise ConfigError(
            f"shard is set, but {type(optimizer).__name__} may need whole tensors: AdamW, Adam and "
            "SGD work on parts"
        )
    for group in optimizer.param_groups:
        if group.get("rows") is not None or group.get("one_scale"):
            raise ConfigError(
                "shard is set, but a group of parameters has 'rows' or 'one_scale', which need "
                "whole tensors: leave it out"
            )
    scalars = [name for name, p in module.named_parameters() if not p.dim()]
    if scalars:
        raise ConfigError(
            f"shard is set, but {len(scalars)} parameters are single numbers, first "
            f"{scalars[0]!r}: give them the shape [1]"
        )
