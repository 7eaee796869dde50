"""Small checks and conversions that every op shares."""

from __future__ import annotations

import torch
from torch import Tensor

# One stream of random words per purpose; the same constants stand in csrc/common/philox.h.
STREAM_GENE_SCORES = 0

LIBRARY = torch.library.Library("kernomics", "DEF")


def suffix(tensor: Tensor) -> str:
    """Return the ending of the kernel's name for a float32 or float64 tensor."""
    return "f64" if tensor.dtype == torch.float64 else "f32"


def address(tensor: Tensor | None) -> int:
    """Return a tensor's address, 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def require_float(tensor: Tensor, name: str) -> None:
    """Raise ``TypeError`` unless the tensor holds floating-point numbers."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} has dtype {tensor.dtype}; a floating-point dtype is needed")


def require_same_device(reference: Tensor, name: str, **others: Tensor | None) -> None:
    """Raise ``ValueError`` unless all tensors are on the reference's device."""
    for other, tensor in others.items():
        if tensor is not None and tensor.device != reference.device:
            raise ValueError(
                f"{other} is on {tensor.device} and {name} on {reference.device}; "
                "move one of them"
            )


def draw_seed(generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw a seed (key, step) from a generator, torch's default one if none is given."""
    where = generator.device if generator is not None else device
    seed = torch.randint(-(2**63), 2**63 - 1, (2,), generator=generator, device=where)
    seed[1] = 0
    return seed.to(device)
