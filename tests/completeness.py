"""Whether DeepLIFT is complete, and small numbers to try it on."""

from __future__ import annotations

import torch

from kernomics.attribution import deeplift

BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4}


def error_of(found) -> float:
    """What is lost, as a share of the larger of the effect and a tenth of all contributions."""
    effect = (found.case - found.baseline).double().abs().sum()
    sizes = sum(x.double().abs().sum() for x in found.contributions)
    return float(found.completeness() / max(float(effect), 0.1 * float(sizes), 1e-300))


def require_complete(function, case, baseline, output=None):
    """Both ways, in both precisions."""
    for dtype, bound in BOUNDS.items():
        one, two = ([x.to(dtype) if x.is_floating_point() else x for x in side]
                    for side in (case, baseline))  # fmt: skip
        there, back = deeplift(function, one, two, output), deeplift(function, two, one, output)
        assert error_of(there) <= bound
        sizes = sum(float(x.abs().sum()) for x in there.contributions)
        for x, y in zip(there.contributions, back.contributions, strict=True):
            assert float((x + y).abs().max()) <= bound * max(sizes, 1e-300)
    return there


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


W = numbers(6, 6, seed=90)


def w(x):
    return W.to(x.dtype)
