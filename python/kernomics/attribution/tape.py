"""A tape of the operations that a function runs, as the dispatcher of torch sees them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kernomics.attribution.decompositions import decomposition_of
from kernomics.errors import ConfigError

Key = tuple[Any, ...]
OF_THE_SHAPE = {
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_empty",
    "new_zeros", "new_ones", "new_full", "new_empty_strided", "is_same_size",
}  # fmt: skip
"""Operations whose outputs do not depend on the numbers of a tensor that they are given."""


class Nesting(NamedTuple):
    """How the flattened arguments of an operation are nested; lists are of one level.

    Attributes
    ----------
    args, kwargs
        Of each argument the length of a list, or −1 of another.
    names
        Those of kwargs.
    """

    args: tuple[int, ...]
    kwargs: tuple[int, ...]
    names: tuple[str, ...]

    def of(self, leaves: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return arguments with these leaves."""
        left = iter(leaves)

        def taken(sizes: Sequence[int]) -> list[Any]:
            return [next(left) if n < 0 else [next(left) for _ in range(n)] for n in sizes]

        args = taken(self.args)
        return args, dict(zip(self.names, taken(self.kwargs), strict=True))


def flattened(args: Iterable[Any], kwargs: dict[str, Any]) -> tuple[list[Any], Nesting]:
    """Return the arguments of an operation one after the other."""
    leaves: list[Any] = []

    def sizes(values: Iterable[Any]) -> tuple[int, ...]:
        found = []
        for x in values:
            if isinstance(x, list | tuple):
                leaves.extend(x)
                found.append(len(x))
            else:
                leaves.append(x)
                found.append(-1)
        return tuple(found)

    return leaves, Nesting(sizes(args), sizes(kwargs.values()), tuple(kwargs))


class Place(NamedTuple):
    """Where the numbers of a tensor stand in its storage."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass
class Step:
    """One operation that depends on the inputs.

    Attributes
    ----------
    op
        The ATen operation, or ``"write"`` or ``"read"``: a part of a buffer that is filled, or
        looked at.
    leaves
        Its arguments, flattened.
    spec
        How they are nested.
    ids
        The number of each leaf that is a tensor depending on the inputs; None for others.
    outputs
        Its outputs, flattened; tensors or numbers.
    output_ids
        Their numbers.
    where
        The module it runs in, of an operation without a rule.
    place
        Of ``"write"`` and ``"read"``.
    """

    op: Any
    leaves: list[Any]
    spec: Nesting | None
    ids: list[int | None]
    outputs: list[Any]
    output_ids: list[int | None]
    where: str = ""
    place: Place | None = None

    def call(self, leaves: Sequence[Any]) -> Any:
        """Run the operation with other leaves."""
        assert self.spec is not None
        args, kwargs = self.spec.of(leaves)
        return self.op(*args, **kwargs)


class Tape(TorchDispatchMode):
    """Record what runs inside, as far as it depends on some tensors.

    Tensors are known by where they stand in memory, since a view may come back as another object.
    An operation that writes into a buffer (``out=``, ``x[:, :3] = y``) is recorded as one that
    makes new numbers, which are then written: what is read of the buffer later is read of the last
    writing.

    Parameters
    ----------
    inputs
        The tensors.
    has_rule
        Tells of an operation whether it can be attributed; of one that cannot the module is noted.
    earlier
        A tape of before, whose tensors are copied when this function writes over them, as into a
        buffer that outlives the function.

    Attributes
    ----------
    steps
        In the order they ran.
    n_values
        Numbers given to tensors.
    """

    supports_higher_order_operators = True  # so that they come here, and are refused by name

    def __init__(
        self,
        inputs: Sequence[Tensor],
        has_rule: Callable[[Any], bool],
        earlier: Tape | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.earlier = earlier
        self.steps: list[Step] = []
        self.n_values = 0
        self.has_rule = has_rule
        self._ids: dict[Key, int] = {}
        self._owners: dict[int, tuple[Place, int]] = {}
        self._written: dict[int, int] = {}
        self._users: dict[int, list[tuple[list[Any], int]]] = {}
        self._alive: list[Tensor] = []
        self.input_ids = [self._add(x) for x in inputs]

    def id_of(self, tensor: Tensor) -> int | None:
        """Return a tensor's number; None if it does not depend on the inputs."""
        storage = _storage(tensor)
        if storage not in self._owners:
            return None
        found = self._ids.get(_key(tensor))
        if found is not None:
            return found
        if storage in self._written:
            return self._read(tensor)
        if tensor.numel() == 0:
            return None
        raise ConfigError(
            f"a tensor of shape {tuple(tensor.shape)} shares memory with one that depends on the "
            "inputs, and no operation was seen that makes it (detach_ or set_ perhaps); use a view "
            "or a copy instead"
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and note it."""
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            raise ConfigError(
                f"{func} in {modules_running()} runs functions as an operation (torch.cond, "
                "flex_attention), which DeepLIFT cannot look into; call them without it"
            )
        written = _written(func)
        if not written and not self._depends(args) and not self._depends(kwargs.values()):
            return func(*args, **kwargs)
        by_parts = None if self.has_rule(_functional(func)) else decomposition_of(func)
        if by_parts is not None:
            with self:
                return by_parts(*args, **kwargs)
        leaves, spec = flattened(args, kwargs)
        given = [args[i] if isinstance(i, int) else kwargs.get(i) for i in written]
        changed = [x for x in flattened(given, {})[0] if isinstance(x, Tensor)]
        _require_no_statistics(func, args)
        for x in changed:
            self._keep(x)
        ids = [self.id_of(x) if isinstance(x, Tensor) else None for x in leaves]
        if all(i is None for i in ids) or func.overloadpacket.__name__ in OF_THE_SHAPE:
            return func(*args, **kwargs)
        op = _functional(func)
        where = "" if self.has_rule(op) else modules_running()
        if any(name in kwargs for name in written):  # what stood in out= does not matter
            numbers = {id(x): i for x, i in zip(leaves, ids, strict=True)}
            leaves, spec = flattened(args, {k: x for k, x in kwargs.items() if k not in written})
            ids = [numbers[id(x)] for x in leaves]
        memory = {_storage(x) for x in changed}
        kept = [x.clone() if isinstance(x, Tensor) and _storage(x) in memory else x for x in leaves]
        result = func(*args, **kwargs)
        outputs = list(result) if isinstance(result, list | tuple) else [result]
        if any(isinstance(x, Tensor) and not _strided(x) for x in outputs):
            raise ConfigError(
                f"{func} in {modules_running()} makes a sparse tensor of what depends on the "
                "inputs, which cannot be attributed; a dense one is needed"
            )
        step = Step(op, kept, spec, ids, outputs, [], where)
        if changed:
            step.outputs = [x.clone() for x in changed]
            step.output_ids = [self._new(x) for x in step.outputs]
            self._note(step)
            for x, number in zip(changed, step.output_ids, strict=True):
                assert number is not None
                self._write(x, number)
            return result
        step.output_ids = [self._add(x) if isinstance(x, Tensor) else None for x in step.outputs]
        if not any(i is not None and i in ids for i in step.output_ids):
            self._note(step)  # else a view of all of its argument, which changes nothing
        return result

    def _depends(self, values: Iterable[Any]) -> bool:
        """Tell whether any tensor stands in memory that depends on the inputs."""
        for x in values:
            if isinstance(x, Tensor):
                if _storage(x) in self._owners:
                    return True
            elif isinstance(x, list | tuple) and self._depends(x):
                return True
        return False

    def _note(self, step: Step) -> None:
        """Add a step, and remember what memory it looks at."""
        self.steps.append(step)
        for values in (step.leaves, step.outputs):
            for i, x in enumerate(values):
                if isinstance(x, Tensor):
                    self._users.setdefault(_storage(x), []).append((values, i))

    def _keep(self, tensor: Tensor) -> None:
        """Copy what steps look at in memory that is about to be changed."""
        for values, i in self._users.pop(_storage(tensor), ()):
            values[i] = values[i].clone()
        if self.earlier is not None:
            self.earlier._keep(tensor)

    def _new(self, tensor: Tensor) -> int:
        self._alive.append(tensor)
        self.n_values += 1
        return self.n_values - 1

    def _add(self, tensor: Tensor) -> int:
        known = self._ids.get(_key(tensor))
        if known is not None:
            return known  # the same numbers in the same place: a view of all of them
        number = self._new(tensor)
        self._ids[_key(tensor)] = number
        self._owners.setdefault(_storage(tensor), (_place(tensor), number))
        return number

    def _write(self, tensor: Tensor, number: int) -> None:
        """Note that numbers now stand in a part of a buffer."""
        storage = _storage(tensor)
        ids: list[int | None] = [number, None]
        leaves: list[Any] = [tensor, None]
        if storage in self._written:
            ids[1] = self._written[storage]
        elif storage in self._owners:
            leaves[1], ids[1] = self._owners[storage]
        whole = self.n_values
        self.n_values += 1
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        self.steps.append(Step("write", leaves, None, ids, [size], [whole], place=_place(tensor)))
        self._written[storage] = whole
        self._owners.setdefault(storage, (_place(tensor), whole))
        self._alive.append(tensor)
        self._ids = {key: i for key, i in self._ids.items() if key[0] != storage}

    def _read(self, tensor: Tensor) -> int:
        number = self._new(tensor)
        whole = self._written[_storage(tensor)]
        self.steps.append(
            Step("read", [None], None, [whole], [tensor], [number], place=_place(tensor))
        )
        self._ids[_key(tensor)] = number
        return number


def modules_running() -> str:
    """Name the innermost module whose forward is running, such as ``blocks.0.norm (LayerNorm)``."""
    found: list[nn.Module] = []
    frame: Any = sys._getframe(1)
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and (not found or found[-1] is not module):
            found.append(module)
        frame = frame.f_back
    if not found:
        return "no module"
    names = {id(module): name for name, module in found[-1].named_modules()}
    inner = found[0]
    kind, name = type(inner).__name__, names.get(id(inner), "")
    return f"{name} ({kind})" if name else kind


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata) if _strided(tensor) else 0


def _strided(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided


def _key(tensor: Tensor) -> Key:
    return (
        _storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(),
        tensor.dtype,
    )  # fmt: skip


def _place(tensor: Tensor) -> Place:
    return Place(tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))


@cache
def _functional(func: Any) -> Any:
    """Return the operation that makes what one that writes into an argument writes."""
    if not func._schema.is_mutable:
        return func
    family = getattr(torch.ops.aten, func.overloadpacket.__name__.removesuffix("_"), None)
    for name in () if family is None else family.overloads():
        found = getattr(family, name)
        if not found._schema.is_mutable and _signature(found) == _signature(func):
            return found
    return func


def _signature(func: Any) -> list[tuple[str, str]]:
    """Return the arguments of an operation and their types, but for ``out=``."""
    return [
        (x.name, str(x.type))
        for x in func._schema.arguments
        if not (x.kwarg_only and x.alias_info is not None and x.alias_info.is_write)
    ]


def _require_no_statistics(func: Any, args: Sequence[Any]) -> None:
    """Refuse a normalisation that would write its running statistics, before it does."""
    if "batch_norm" not in func.overloadpacket.__name__ or len(args) < 6:
        return
    if args[5] is True and isinstance(args[3], Tensor):
        raise ConfigError(
            f"{func} in {modules_running()} is in training mode, in which cells influence one "
            "another and the running statistics change; call eval()"
        )


@cache
def _written(func: Any) -> tuple[int | str, ...]:
    """Return the arguments that an operation writes into, by position or by name."""
    found: list[int | str] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(argument.name if argument.kwarg_only else i)
    return tuple(found)
