"""dropout's CUDA kernels, emulated on the host: tests of test_dropout_cuda.py."""

from __future__ import annotations

import pytest
import test_dropout_cuda as gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from problems.dropout import OPTIONS, SHAPES, draw

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulated_cuda")]

test_numbers = gpu.test_numbers_are_the_cpus
test_nothing = gpu.test_nothing_is_nothing
test_layers = gpu.test_layers_draw_the_cpus_numbers
test_overflow = gpu.test_numbers_that_overflow_are_infinite
test_overflow_on_request = gpu.test_numbers_that_overflow_are_named_on_request


@settings(max_examples=100, deadline=None)
@given(shape=SHAPES.filter(lambda shape: 0 not in shape), options=st.fixed_dictionaries(OPTIONS))
def test_emulated_kernels_equal_the_cpu(shape: tuple[int, ...], options: dict[str, object]) -> None:
    gpu.assert_as_cpu(draw(shape, **options))
