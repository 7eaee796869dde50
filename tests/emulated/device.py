"""Lets torch take CPU tensors for CUDA tensors, whose ops then run the emulated kernels.

Within `Emulator.in_place` whatever is moved to "cuda", or made there, becomes an `Emulated` tensor,
and so does all that is computed from it. An op of kernomics that gets one runs what is registered
for CUDA.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kernomics.ops import _native, _poisson_kernels

CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
HOST = torch.device("cpu")
UNSET = (Tensor.new_empty, torch.empty_like)
GARBAGE = {torch.uint8: 0xA7, torch.int32: -77, torch.int64: -77}


class Emulated(Tensor):
    """A tensor that passes for one on CUDA."""

    @property
    def is_cuda(self) -> bool:
        return True


def _emulated(x: Any) -> Any:
    # torch makes no subclass of sparse tensors; their parts meet others that are.
    return x.as_subclass(Emulated) if isinstance(x, Tensor) and not x.is_sparse_csr else x


def _plain(x: Tensor) -> Tensor:
    return x.as_subclass(Tensor) if isinstance(x, Emulated) else x


def _device(x: Any) -> str | None:
    """Return the kind of device that an argument names."""
    return str(x).partition(":")[0] if isinstance(x, str | torch.device) else None


def _is_cuda(x: Any) -> bool:
    return _device(x) == "cuda"


class _Moves(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], "cuda")
        if func is Tensor.cpu:
            func, args = Tensor.to, (args[0], "cpu")
        if func is Tensor.to_sparse_csr:
            args = (_plain(args[0]), *args[1:])
        devices = set(map(_device, (*args[1:], *kwargs.values())))
        if "cuda" in devices:
            args = tuple(HOST if _is_cuda(a) else a for a in args)
            kwargs = {name: HOST if _is_cuda(value) else value for name, value in kwargs.items()}
        out = func(*args, **kwargs)
        if "cuda" in devices:
            moved = func is Tensor.to and not isinstance(args[0], Emulated)
            return _emulated(out.clone() if moved else out)
        if func is Tensor.to and "cpu" in devices:
            return _plain(out)
        return out


class _Unset(TorchFunctionMode):
    """Within an op: what is not set on a device holds anything."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in UNSET:
            out.fill_(float("nan") if out.is_floating_point() else GARBAGE[out.dtype])
        return out


class _Kernels(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "kernomics" or not any(isinstance(a, Emulated) for a in args):
            return func(*args, **kwargs)
        with _Unset():
            return func.redispatch(CUDA, *map(_emulated, args), **kwargs)


class Emulator:
    """The emulated kernels, and in which order they run."""

    def __init__(self, kernels: ModuleType, library: ctypes.CDLL) -> None:
        self.kernels, self._library = kernels, library

    def schedule(self, seed: int) -> None:
        """Resume threads, and run blocks, in turn for 0 and else in an order of the seed's."""
        self._library.emulator_schedule(ctypes.c_uint(seed))

    @property
    def launches(self) -> int:
        """How many kernels have been launched."""
        return int(self._library.emulator_launches())

    def run_faulty(self, name: str) -> tuple[str, list[int]]:
        """Run a kernel of faulty.cu; return what the emulator says of it, and what it wrote."""
        out = (ctypes.c_int * 64)()
        run = self._library.emulator_run_faulty
        run.restype = ctypes.c_char_p
        return run(name.encode(), out).decode(), list(out)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the emulated kernels in the place of the real ones, and this device in CUDA's."""
        stream = SimpleNamespace(cuda_stream=0)
        with ExitStack() as stack:
            for owner, name, value in (
                (_native, "_cuda", self.kernels),
                (_poisson_kernels, "Tensor", Emulated),  # it asks for exactly this type
                (_poisson_kernels, "_WIDE_PRODUCTS", False),  # which torch has on CUDA alone
                (torch.cuda, "device", lambda _: nullcontext()),
                (torch.cuda, "current_stream", lambda: stream),
            ):
                stack.enter_context(mock.patch.object(owner, name, value))
            stack.enter_context(_Moves())
            stack.enter_context(_Kernels())
            yield
