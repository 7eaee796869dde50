"""poisson_nll's CUDA kernels, emulated on the host: the reference's numbers within roundoff.

The bounds are those of test_poisson_nll_cuda.py; the host's 2^x and 1/x are nearer the exact ones
than the special functions for which they allow.
"""

from __future__ import annotations

import itertools

import pytest
import test_poisson_nll_cuda as gpu
import torch
from emulated import Emulator
from problems.common import FLOATS, draw_panels
from problems.poisson_nll import ACTIVATIONS

from kernomics.ops import _poisson_kernels, poisson_nll

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulated_cuda")]

test_rows_at_any_address = gpu.test_rows_may_begin_at_any_address
test_a_few_long_rows = gpu.test_a_few_long_rows_are_cut_in_parts
test_logits_at_or_below_zero = gpu.test_logits_at_or_below_zero_lose_one_and_get_no_gradient
test_nan_logits = gpu.test_nan_logits_give_nan
test_unobserved_genes = gpu.test_what_stands_at_unobserved_genes_does_not_matter
test_bad_rows = gpu.test_bad_rows_give_nan_and_on_request_an_error
test_a_bad_panel_or_library = gpu.test_a_bad_panel_or_library_makes_its_cell_nan
test_backward_twice = gpu.test_backward_twice_gives_the_same_gradient_twice


@pytest.mark.parametrize("layout", sorted(gpu.LAYOUTS))
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_emulated_kernels_equal_the_reference(
    activation: str, dtype: torch.dtype, layout: str
) -> None:
    gpu.test_loss_and_gradient_equal_the_reference(activation, dtype, layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_gradient_is_scaled_into_a_tensor_of_its_own(dtype: torch.dtype) -> None:
    for count, by in itertools.product([1, 7, 8, 1029], [1.0, 2.5]):
        gradient = torch.arange(count, device="cuda").to(dtype)
        above, before = torch.tensor(by, device="cuda"), gradient.cpu().clone()
        found = _poisson_kernels._scaled_on_cuda(gradient, above)
        assert torch.equal(found.cpu(), (before.to(torch.float64) * by).to(dtype))
        assert found.data_ptr() != gradient.data_ptr()
        assert torch.equal(gradient.cpu(), before)


def test_as_many_genes_as_panels_say(emulated_cuda: Emulator) -> None:
    """More cells than the block that counts observed genes has threads."""
    z, target = (t.float() for t in gpu.draw(600, 3, "exp", "counts"))
    panels = draw_panels(600, 3)
    found, expected = (
        poisson_nll(z.to(d), target.to(d), observed=panels.to(d), reduction="genes").cpu()
        for d in ("cuda", "cpu")
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
