"""dropout's CUDA kernel, emulated on the host; tests of test_dropout_cuda.py."""

from __future__ import annotations

import pytest
import test_dropout_cuda as gpu

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulated_cuda")]

test_numbers = gpu.test_numbers_are_the_cpus
