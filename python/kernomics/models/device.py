"""Where to train: the device asked for, if it is there."""

from __future__ import annotations

import torch

from kernomics.errors import ConfigError
from kernomics.ops import build_info


def usable_device(name: str | torch.device) -> torch.device:
    """Return a device that can be trained on.

    Parameters
    ----------
    name
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises
    ------
    ConfigError
        When torch does not know or see it, or this build has no kernels for it.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} does not exist; use 'cpu' or 'cuda'") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ConfigError(f"device {str(name)!r} has no kernels here; use 'cpu' or 'cuda'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise ConfigError(
            f"device {str(name)!r} was asked for, but torch {torch.__version__} sees {count} GPUs; "
            "use device='cpu', or look at `kernomics info`"
        )
    if not build_info()["cuda_kernels"]:
        raise ConfigError(
            f"device {str(name)!r} was asked for, but this build has no CUDA kernels; build it "
            "with -Ccmake.define.KERNOMICS_CUDA=ON, or use device='cpu'"
        )
    return device
