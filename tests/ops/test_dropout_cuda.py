"""dropout on CUDA: the CPU's numbers to the bit."""

from __future__ import annotations

import pytest
import torch

from kernomics.ops._dropout import dropout

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("n", [1, 3, 255, 1024, 70_001])
@pytest.mark.parametrize("first", [0, 1, 6, 2**34 - 8, 2**34 - 6])
def test_numbers_are_the_cpus(dtype, rectified, n, first):
    x = torch.randn(n, generator=torch.Generator().manual_seed(n)).to(dtype)
    drawn = (0.3, -(2**62) + 5, 2**32 + 3, first)
    found, slopes = [], []
    for given in (x, x.cuda()):
        given.requires_grad_()
        y = dropout(given, *drawn, rectified=rectified)
        found.append(y.detach().cpu())
        slopes.append(torch.autograd.grad(y.sum(), given)[0].cpu())
    assert torch.equal(*found)
    assert torch.equal(*slopes)


def test_nothing_is_nothing():
    assert dropout(torch.empty(0, 5).cuda(), 0.3, 1, 0, 0, rectified=True).shape == (0, 5)
