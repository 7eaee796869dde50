"""The noise of a gene is one number, the same wherever and whenever it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernomics.ops import _native, gumbel_topk, reference

EXTREMES = [0, 1, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1]
F32 = np.float32


def drawn(
    rows: int,
    genes: int,
    seed: Sequence[int] = (7, 3),
    *,
    row_ids: Sequence[int] | None = None,
    stream: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
) -> Tensor:
    """Return the noise that the op adds: its y for scores of zero."""
    scores = torch.zeros(rows, genes, dtype=dtype, device=device)
    ids = None if row_ids is None else torch.tensor(row_ids, device=device)
    seed_tensor = torch.tensor(list(seed), device=device)
    options = (1, torch.tensor(scale, dtype=torch.float64), stream, torch.tensor(1.0), 0, 0, True)
    y: Tensor = torch.ops.kernomics.gumbel_topk(scores, seed_tensor, ids, *options)[2]
    return y.cpu()


def of_words(words: Sequence[int] | NDArray[np.uint32]) -> NDArray[np.float32]:
    words = np.ascontiguousarray(np.asarray(words, dtype=np.uint32))
    noise = np.empty(words.shape, F32)
    _native.cpu().gumbel(words.ctypes.data, words.size, noise.ctypes.data)
    return noise


def assert_accurate(noise: NDArray[np.float32], words: NDArray[np.uint32]) -> None:
    """|Δg| ≤ 2 ulp or 2.4e-7 against float64, whichever is larger (the stated accuracy)."""
    exact = reference.gumbel_from_words(words)
    allowed = np.maximum(2 * np.spacing(np.abs(exact).astype(F32)).astype(np.float64), 2.4e-7)
    worst = (np.abs(noise.astype(np.float64) - exact) / allowed).max()
    assert worst <= 1.0, f"{worst:.2f} times the allowed error"


# ---- the steps of csrc/common/math.h in numpy, rounding after each ------------------------------


def fma(a: NDArray[np.float32], b: NDArray[np.float32] | float, c: object) -> NDArray[np.float32]:
    """Round a·b + c once: the float64 product is exact, and the sum is rounded to odd before the
    cast, so that rounding twice equals rounding once."""
    product = a.astype(np.float64) * np.float64(b)
    addend = np.broadcast_to(np.asarray(c, np.float64), product.shape)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)  # exact: total + error = product + addend
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, odd, total).astype(F32)


def log_reduced(f: NDArray[np.float32], e: NDArray[np.float32]) -> NDArray[np.float32]:
    coefficients = (
        "-0x1.38b590p-4", "0x1.055b6cp-3", "-0x1.0d8540p-3", "0x1.22da1cp-3", "-0x1.547244p-3",
        "0x1.99a008p-3", "-0x1.000226p-2", "0x1.555554p-2", "-0x1p-1",
    )  # fmt: skip
    p = np.full_like(f, float.fromhex(coefficients[0]))
    for c in coefficients[1:]:
        p = fma(p, f, F32(float.fromhex(c)))
    tail = fma(f * f, p, e * F32(-2.12194440e-4))
    return fma(e, F32(0.693359375), f + tail)


def split_float(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    shifted = x.view(np.uint32) + np.uint32(0x3F800000 - 0x3F3504F3)
    e = ((shifted >> np.uint32(23)).astype(np.int32) - 127).astype(F32)
    m = ((shifted & np.uint32(0x007FFFFF)) + np.uint32(0x3F3504F3)).view(F32)
    return m - F32(1), e


def gumbel_by_steps(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    upper = words < np.uint32(2**31)
    q = np.where(upper, words, ~words)
    x = fma(q.astype(np.int32).astype(F32), F32(2.0**-32), F32(2.0**-33))
    f, e = split_float(x)
    small = x < F32(0.292893219)
    f_up = np.where(small, -x, fma(x, F32(-2), F32(1)))
    e_up = np.where(small, F32(0), F32(-1))
    exponential = -log_reduced(np.where(upper, f_up, f), np.where(upper, e_up, e))
    return -log_reduced(*split_float(exponential))


# ---- accuracy -----------------------------------------------------------------------------------


def test_noise_of_the_extreme_words_is_finite_and_spans_the_stated_range() -> None:
    noise = of_words(EXTREMES)
    assert np.isfinite(noise).all()
    assert noise[0] == pytest.approx(22.8739, abs=1e-4)
    assert noise[-1] == pytest.approx(-3.1300, abs=1e-4)
    assert_accurate(noise, np.array(EXTREMES, np.uint32))


def test_noise_falls_as_the_word_grows() -> None:
    words = np.unique(np.linspace(0, 2**32 - 1, 100_003).astype(np.uint32))
    assert (np.diff(of_words(words)) <= 0).all()
    for centre in (2**31, int(0.292893219 * 2**32), 2**32 - 2000, 2000):
        near = (np.arange(-2000, 2000) + centre).astype(np.uint32)
        found = of_words(near).astype(np.float64)
        assert (np.diff(found) <= 2 * np.spacing(np.abs(found[1:]).astype(F32))).all()


def test_noise_is_accurate_at_every_scale_of_the_word() -> None:
    random = np.random.default_rng(1)
    small = (2.0 ** random.uniform(0, 32, 200_000)).astype(np.uint64)
    words = np.concatenate(
        [small, 2**32 - 1 - small, random.integers(0, 2**32, 400_000, np.uint64)]
    )
    words = np.minimum(words, np.uint64(2**32 - 1)).astype(np.uint32)
    assert_accurate(of_words(words), words)


@pytest.mark.slow
def test_noise_is_accurate_for_every_sixteenth_word() -> None:
    for start in range(0, 2**32, 2**26):
        words = np.arange(start + start // 2**26 % 16, start + 2**26, 16, dtype=np.uint32)
        assert_accurate(of_words(words), words)


def test_noise_equals_its_steps_to_the_bit() -> None:
    words = np.random.default_rng(2).integers(0, 2**32, 300_000, np.uint32)
    words = np.concatenate([words, np.array(EXTREMES, np.uint32)])
    assert np.array_equal(of_words(words).view(np.uint32), gumbel_by_steps(words).view(np.uint32))


@pytest.mark.parametrize("genes", [1, 3, 255, 256, 257, 1000, 20_011])
def test_the_op_adds_the_noise_of_its_words_to_the_bit(device: torch.device, genes: int) -> None:
    seed, ids = [-(2**40) - 3, 2**31 + 5], [0, 2**32 - 1, 2**32, 2**48 - 1]
    words = reference.philox_words(seed, ids, genes, stream=5)
    found = drawn(4, genes, seed, row_ids=ids, stream=5, device=device).numpy()
    assert np.array_equal(found.view(np.uint32), gumbel_by_steps(words).view(np.uint32))
    assert_accurate(found, words)
    exact = reference.gumbel_noise(seed, ids, genes, stream=5)
    torch.testing.assert_close(torch.from_numpy(found).double(), exact, rtol=2.4e-7, atol=2.4e-7)


def test_float64_scores_get_the_same_noise(device: torch.device) -> None:
    wide = drawn(3, 1000, device=device, dtype=torch.float64)
    assert torch.equal(wide, drawn(3, 1000, device=device).double())


def test_the_scale_multiplies_the_noise(device: torch.device) -> None:
    assert torch.equal(drawn(2, 500, scale=0.25, device=device), 0.25 * drawn(2, 500))


# ---- addressing ---------------------------------------------------------------------------------


def test_row_ids_default_to_the_rows_positions(device: torch.device) -> None:
    assert torch.equal(drawn(5, 300, device=device), drawn(5, 300, row_ids=range(5)))


def test_noise_does_not_depend_on_the_batch_split_or_the_row_order(device: torch.device) -> None:
    ids = [40, 3, 2**33, 17, 5, 0]
    whole = drawn(6, 700, row_ids=ids, device=device)
    parts = [drawn(len(p), 700, row_ids=p, device=device) for p in (ids[:1], ids[1:4], ids[4:])]
    assert torch.equal(whole, torch.cat(parts))
    order = [5, 2, 0, 4, 1, 3]
    shuffled = drawn(6, 700, row_ids=[ids[i] for i in order], device=device)
    assert torch.equal(shuffled, whole[order])


def test_noise_of_a_gene_does_not_depend_on_how_many_genes_there_are(device: torch.device) -> None:
    assert torch.equal(drawn(3, 20_000, device=device)[:, :777], drawn(3, 777, device=device))


@pytest.mark.parametrize(("rows", "genes"), [(1, 40_003), (2, 40_003), (7, 300)])
def test_noise_does_not_depend_on_the_number_of_threads(
    threads: Callable[[int], None], rows: int, genes: int
) -> None:
    found = []
    for n in (1, 2, 3):
        threads(n)
        found.append(drawn(rows, genes))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_seeds_steps_streams_and_rows_give_other_noise(device: torch.device) -> None:
    base = drawn(1, 400, device=device)
    others = [
        drawn(1, 400, (8, 3), device=device),
        drawn(1, 400, (7 + 2**32, 3), device=device),
        drawn(1, 400, (7, 4), device=device),
        drawn(1, 400, stream=1, device=device),
        drawn(1, 400, stream=2**16 - 1, device=device),
        drawn(1, 400, row_ids=[1], device=device),
        drawn(1, 400, row_ids=[2**32], device=device),
    ]
    for i, other in enumerate(others):
        assert (other == base).float().mean() < 0.01
        for another in others[:i]:
            assert (other == another).float().mean() < 0.01


def test_steps_count_modulo_two_to_the_32(device: torch.device) -> None:
    base = drawn(2, 300, (7, 5), device=device)
    assert torch.equal(base, drawn(2, 300, (7, 5 + 2**32), device=device))
    assert torch.equal(base, drawn(2, 300, (7, 5 - 2**32), device=device))


# ---- distribution -------------------------------------------------------------------------------


def kolmogorov_distance(noise: Tensor) -> float:
    ordered = np.sort(noise.double().numpy().ravel())
    below = np.exp(-np.exp(-ordered))
    n = len(ordered)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - below).max(), (below - steps[:-1]).max()))


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_noise_follows_the_gumbel_distribution(device: torch.device, seed: int) -> None:
    noise = drawn(16, 20_000, (seed, 0), device=device)
    # Kolmogorov-Smirnov at level 1e-6: sqrt(-log(1e-6/2)/2) = 2.69.
    assert kolmogorov_distance(noise) < 2.7 / np.sqrt(noise.numel())
    # Across rows and steps at one gene, where a counter is misused most easily.
    per_gene = torch.cat([drawn(400, 4, (seed, step), device=device) for step in range(5)])
    for gene in range(4):
        assert kolmogorov_distance(per_gene[:, gene]) < 2.7 / np.sqrt(len(per_gene))


def test_neighbouring_genes_rows_and_steps_are_uncorrelated(device: torch.device) -> None:
    noise = drawn(64, 4096, device=device)
    later = drawn(64, 4096, (7, 4), device=device)
    pairs = [
        (noise[:, 1:], noise[:, :-1]), (noise[:, 4:], noise[:, :-4]), (noise[1:], noise[:-1]),
        (noise, later),
    ]  # fmt: skip
    for a, b in pairs:
        r = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(float(r)) < 5 / np.sqrt(a.numel())


def test_generator_draws_the_seed() -> None:
    scores = torch.zeros(2, 300)
    masks = [
        gumbel_topk(scores, 9, tau=1.0, generator=torch.Generator().manual_seed(s))[1]
        for s in (4, 4, 5)
    ]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_one_generator_gives_new_noise_at_every_call() -> None:
    generator, scores = torch.Generator().manual_seed(1), torch.zeros(300)
    first, second = (gumbel_topk(scores, 9, tau=1.0, generator=generator)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_without_a_seed_torchs_own_generator_decides() -> None:
    chosen = []
    for _ in range(2):
        torch.manual_seed(11)
        chosen.append(gumbel_topk(torch.zeros(300), 9, tau=1.0)[0])
    assert torch.equal(chosen[0], chosen[1])
