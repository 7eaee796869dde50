"""Where to train: the device asked for, if it is there and can compute as asked."""

from __future__ import annotations

import torch

from kernomics.errors import ConfigError
from kernomics.ops import build_info


def usable_device(name: str | torch.device) -> torch.device:
    """Return a device that can be trained on."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device {name!r} does not exist; use 'cpu' or 'cuda'") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ConfigError(f"device {str(name)!r} has no kernels here; use 'cpu' or 'cuda'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise ConfigError(
            f"device {str(name)!r} was asked for, but torch {torch.__version__} sees {count} "
            "GPUs; use device='cpu', or see `kernomics info`"
        )
    if not build_info()["cuda_kernels"]:
        raise ConfigError(
            f"device {str(name)!r} was asked for, but this build has no CUDA kernels; build it "
            "with -Ccmake.define.KERNOMICS_CUDA=ON, or use device='cpu'"
        )
    return device


def require_precision(device: torch.device, precision: str) -> None:
    """Refuse bfloat16 on a GPU that would only emulate it; the CPU computes it."""
    if precision != "bf16" or device.type != "cuda":
        return
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return
    major, minor = torch.cuda.get_device_capability(device)
    raise ConfigError(
        f"precision='bf16' was asked for, but {str(device)!r} has no bfloat16: it is a "
        f"{torch.cuda.get_device_name(device)} of compute capability {major}.{minor}, and 8.0 is "
        "needed; use precision='float32'"
    )
