"""Loads the compiled extension modules and says what was built.

Torch is imported first, so that the OpenMP runtime of torch's wheel is the one that is used.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

# A kernel's parameters by name, as the structs in csrc/common name them; tensors as addresses.
# The kernels raise TypeError for a name that is missing or unknown.
Parameters = dict[str, int | float]

_BUILD_HELP = (
    "build it with `pip install . -Ccmake.define.KERNOMICS_CUDA=ON` (needs nvcc 12.8 or newer), "
    "or move the tensors to the CPU"
)


def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"kernomics.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"kernomics.{name}":
            return None
        raise


def _force_isa(module: ModuleType | None) -> None:
    """Use the instruction set that the environment variable KERNOMICS_ISA names, if any."""
    wanted = os.environ.get("KERNOMICS_ISA", "")
    if module is None or wanted == "":
        return
    found = module.isas()
    if wanted not in found:
        raise ValueError(
            f"KERNOMICS_ISA is {wanted!r}, but of avx512, avx2 and portable this processor and "
            f"build have {', '.join(found)}: set one of these, or unset it for the best"
        )
    module.use_isa(wanted)


_cpu = _load("_cpu")
_force_isa(_cpu)
_cuda: ModuleType | None = None


def cpu() -> Any:
    """Return the module of CPU kernels.

    Raises
    ------
    ImportError
        If the extension was not built.
    """
    if _cpu is None:
        raise ImportError(
            "kernomics._cpu is missing: the package was not built; run `pip install .` in its "
            "source folder"
        )
    return _cpu


def cuda() -> Any:
    """Return the module of CUDA kernels.

    Raises
    ------
    RuntimeError
        If this build has none; the message tells how to make one.
    """
    global _cuda
    if _cuda is None:
        _cuda = _load("_cuda")
    if _cuda is None:
        raise RuntimeError(
            f"a CUDA tensor was given, but this build has no CUDA kernels: {_BUILD_HELP}"
        )
    return _cuda


def launch(kernel: str, parameters: Parameters, room: Tensor | None = None) -> None:
    """Run a CUDA kernel on the current stream.

    Parameters
    ----------
    kernel
        Its name.
    parameters
        All but the scratch and the stream.
    room
        Any tensor on the device, for a kernel that takes scratch; the sizes in `parameters` and
        which addresses are 0 decide how much.
    """
    kernels = cuda()
    scratch = None
    if room is not None:
        size = getattr(kernels, f"{kernel}_scratch")(parameters)
        scratch = room.new_empty(size, dtype=torch.uint8)
    parameters["scratch"] = 0 if scratch is None else scratch.data_ptr()
    parameters["cuda_stream"] = torch.cuda.current_stream().cuda_stream
    getattr(kernels, kernel)(parameters)


def checks_enabled() -> bool:
    """Tell whether data errors on CUDA are looked for at the price of a synchronisation."""
    return os.environ.get("KERNOMICS_CHECK", "0") not in ("", "0")


def build_info() -> dict[str, Any]:
    """Describe the compiled extensions and the machine.

    Returns
    -------
    dict
        Version, compiler, the instruction set that the CPU kernels use (``isa``: ``"avx512"``,
        ``"avx2"`` or ``"portable"``; the best there is, or the one that the environment variable
        ``KERNOMICS_ISA`` names), CUDA architectures built for (empty without ``_cuda``), torch's
        version, threads, and the CUDA devices that torch sees.
    """
    module = _load("_cuda")
    devices = []
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "version": cpu().__version__,
        "compiler": cpu().compiler,
        "isa": cpu().isa(),
        "cuda_kernels": module is not None,
        "cuda_compiler": getattr(module, "compiler", None),
        "cuda_architectures": list(getattr(module, "architectures", ())),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cuda_devices": devices,
    }
