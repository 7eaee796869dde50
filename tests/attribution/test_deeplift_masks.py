"""Finite masks that close all that a query sees: −1e9 counts as infinite, and nothing is silent."""

import pytest
import torch
import torch.nn.functional as F
from completeness import error_of, numbers

from kernomics.attribution import deeplift
from kernomics.errors import ConfigError

CASE, BASELINE = ([numbers(2, 2, 6, 4, seed=i + j) for i in range(3)] for j in (0, 10))


def masks(kind):
    """Which keys each query does not see, on both sides."""
    here, there = torch.zeros(2, 2, 1, 6, 6, dtype=torch.bool)
    if kind == "both":
        here[:, :, :2] = there[:, :, :2] = True
    elif kind == "case":
        here[:, :, :2] = True
    elif kind == "some of each":
        here[:, :, :3], there[:, :, 1:4] = True, True
        here[:, :, 4:, :3], there[:, :, 4:, 2:5] = True, True
    elif kind == "by key":  # all of them, of a cell
        here, there = here[:, :, :1].clone(), there[:, :, :1].clone()
        here[..., :2], there[..., 1:4] = True, True
        here[0] = there[0] = True
    return here, there


def attention(fused):
    def function(q, k, v, mask):
        if fused:
            out = F.scaled_dot_product_attention(q, k, v, mask.expand(2, 2, 6, 6))
        else:
            out = (q @ k.mT * 0.5 + mask).softmax(-1) @ v
        return (out * out.sin()).sum((1, 2, 3))

    return function


def lifted(fused, kind, value, dtype=torch.float32):
    sides = [
        [
            *(x.to(dtype) for x in side),
            torch.zeros(mask.shape, dtype=dtype).masked_fill(mask, value),
        ]
        for side, mask in zip((CASE, BASELINE), masks(kind), strict=True)
    ]
    return deeplift(attention(fused), *sides)


KINDS = ["both", "case", "some of each", "by key"]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_masks_of_hugging_face_count_as_infinite(kind, fused):
    lowest = lifted(fused, kind, torch.finfo(torch.float32).min)
    for value in (-1e9, -1e12):
        found = lifted(fused, kind, value)
        assert error_of(found) <= 1e-5
        for one, two in zip(found.contributions, lowest.contributions, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-1e4, -1e9])
def test_in_float64_they_leave_the_logits_and_no_effect_of_their_size(kind, fused, value):
    found = lifted(fused, kind, value, torch.float64)
    assert error_of(found) <= 1e-6
    assert float(found.contributions[3].abs().max()) < 100


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("value", [-1e4, -1e5, -1e6])
def test_what_rounding_leaves_of_the_logits_is_complete(value, fused):
    for kind in KINDS:
        assert error_of(lifted(fused, kind, value)) <= 1e-2


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("value", [-1e7, -3e7])
def test_large_steps_of_the_logits_are_refused_with_a_remedy(value, fused):
    """No rule can follow these, which are neither the logits nor nothing."""
    with pytest.raises(ConfigError, match=r"a finite mask such as -1e7 .* mask with -inf"):
        lifted(fused, "both", value)
    assert error_of(lifted(fused, "case", value)) <= 1e-5


@pytest.mark.parametrize("function", [torch.log_softmax, torch.logsumexp])
def test_logarithms_of_what_is_lost_are_refused(function):
    case, baseline = ([x[0][:, 0].float()] for x in (CASE, BASELINE))
    mask = torch.zeros(2, 6, 1)
    mask[:, 2] = -1e9

    def of(*rows):
        return lambda x: function(x + mask, -1).reshape(2, 6, -1)[:, list(rows)].sin().sum((1, 2))

    with pytest.raises(ConfigError, match=r"2 of 12 rows of .* -1e\+09.* mask with -inf"):
        deeplift(of(1, 2), case, baseline)
    found = deeplift(of(0, 1), case, baseline)
    assert error_of(found) <= 1e-5  # the others alone
