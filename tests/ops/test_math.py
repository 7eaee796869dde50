"""The shared float32 functions of csrc/common/math.h are as accurate as they say.

Their bits are asserted through the noise (test_gumbel_noise.py) and the drawn genes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernomics.ops import _native, reference

F32 = np.float32


def of_kernel(name: str, x: NDArray[np.generic]) -> NDArray[np.float32]:
    x = np.ascontiguousarray(x)
    out = np.empty(x.shape, F32)
    getattr(_native.cpu(), name)(x.ctypes.data, x.size, out.ctypes.data)
    return out


def worst_ulp(found: NDArray[np.float32], exact: NDArray[np.float64]) -> float:
    ulp = np.spacing(np.abs(exact).astype(F32)).astype(np.float64)
    return float((np.abs(found.astype(np.float64) - exact) / ulp).max())


def words_of_every_scale() -> NDArray[np.uint32]:
    random = np.random.default_rng(1)
    small = (2.0 ** random.uniform(0, 32, 200_000)).astype(np.uint64)
    edges = np.concatenate([np.arange(-2000, 2000) + c for c in (2**31, int(0.292893219 * 2**32))])
    words = np.concatenate([small, 2**32 - 1 - small, edges.astype(np.uint64)])
    return np.unique(np.minimum(words, np.uint64(2**32 - 1)).astype(np.uint32))


def test_exponential_numbers_are_within_2_ulp() -> None:
    words = words_of_every_scale()
    exact = reference.exponential_from_words(words)
    assert worst_ulp(of_kernel("exponential", words), exact) <= 2


def test_exponential_numbers_span_the_stated_range() -> None:
    found = of_kernel("exponential", np.array([0, 2**32 - 1], np.uint32))
    np.testing.assert_allclose(found, [2.0**-33, 33 * np.log(2)], rtol=1e-6)


def test_log1p_is_within_2_ulp_at_every_scale() -> None:
    random = np.random.default_rng(2)
    scales = 2.0 ** random.uniform(-126, 126, 400_000)
    near = np.concatenate([2.0**e * (1 + 2 * random.random(20_000)) - 1 for e in range(8)])
    x = np.concatenate([scales, near, np.arange(50_000.0), random.random(100_000)]).astype(F32)
    x = x[x < 2.0**126]
    assert worst_ulp(of_kernel("log1p", x), np.log1p(x.astype(np.float64))) <= 2


def test_log1p_of_the_ends() -> None:
    x = np.array([0.0, 1e-45, np.nan], F32)
    found = of_kernel("log1p", x)
    assert found[:2].tolist() == x[:2].tolist()
    assert np.isnan(found[2])
