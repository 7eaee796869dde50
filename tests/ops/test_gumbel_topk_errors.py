"""Errors of gumbel_topk say what was found, where, how many, the first, and what is needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems.gumbel_topk import SEED
from torch import Tensor

from kernomics.ops import gumbel_topk, relaxed_mask

INF = float("inf")


def with_values(value: float, count: int, row: int = 1) -> Tensor:
    scores = torch.zeros(3, 20)
    scores[row, 4 : 4 + count] = value
    return scores


DATA_ERRORS = [
    (with_values(float("nan"), 2), "scores are NaN for 2 of 20 genes in row 1, first gene 4"),
    (with_values(INF, 6), "6 genes of row 1 are forced (score +inf), more than k = 5"),
    (with_values(-INF, 16), "only 4 of 20 genes of row 1 are usable"),
]


@pytest.mark.usefixtures("raise_data_errors")
@pytest.mark.parametrize(("scores", "message"), DATA_ERRORS, ids=["NaN", "forced", "forbidden"])
@pytest.mark.parametrize("noise", [False, True])
def test_unusable_scores_are_named(
    device: torch.device, scores: Tensor, message: str, noise: bool
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        gumbel_topk(scores.to(device), 5, tau=1.0, noise=noise)
    with pytest.raises(ValueError, match=re.escape(message)):
        relaxed_mask(scores.to(device), 5, tau=1.0)


@pytest.mark.usefixtures("raise_data_errors")
def test_the_first_bad_row_is_named_whatever_the_threads(
    device: torch.device, threads: Callable[[int], None]
) -> None:
    scores = torch.zeros(40, 20, device=device)
    scores[17:, 3] = float("nan")
    for n in (1, 2, 3):
        threads(n)
        with pytest.raises(ValueError, match="1 of 20 genes in row 17, first gene 3"):
            gumbel_topk(scores, 5, tau=1.0)


S = torch.zeros(3, 20)
WRONG = [
    (ValueError, {"k": 0}, "k = 0 genes cannot be chosen of 20; k must lie between 1 and 20"),
    (ValueError, {"k": 21}, "k = 21 genes cannot be chosen of 20"),
    (ValueError, {"k": -1}, "k = -1"),
    (ValueError, {"tau": 0.0}, "tau = 0.0 must be positive and finite"),
    (ValueError, {"tau": -1.0}, "tau = -1.0 must be positive"),
    (ValueError, {"tau": float("nan")}, "tau = nan must be positive"),
    (ValueError, {"tau": INF}, "tau = inf must be positive and finite"),
    (ValueError, {"relaxation": "sort"}, "unknown relaxation 'sort'; choose one of softsort, neur"),
    (ValueError, {"noise": -0.5}, "noise = -0.5 must be a finite scale"),
    (ValueError, {"noise": INF}, "noise = inf must be a finite scale"),
    (ValueError, {"noise": float("nan")}, "noise = nan must be a finite scale"),
    (ValueError, {"reach": 4}, "reach = 4 is below k = 5"),
    (ValueError, {"reach": 9, "relaxation": "softmax"}, "softmax reaches every gene"),
    (ValueError, {"seed": torch.tensor([1])}, "seed is torch.int64 of shape (1,)"),
    (ValueError, {"seed": torch.tensor([1, 2], dtype=torch.int32)}, "seed is torch.int32"),
    (ValueError, {"seed": torch.tensor([1.0, 2.0])}, "seed is torch.float32"),
    (ValueError, {"row_ids": torch.arange(2)}, "row_ids are torch.int64 of shape (2,)"),
    (ValueError, {"row_ids": torch.arange(3, dtype=torch.int32)}, "row_ids are torch.int32"),
    (ValueError, {"stream": -1}, "stream = -1"),
    (ValueError, {"stream": 2**16}, "stream = 65536"),
    (ValueError, {"scores": torch.zeros(2, 3, 20)}, "scores have shape (2, 3, 20); [genes] or"),
    (ValueError, {"scores": torch.tensor(1.0)}, "scores have shape ()"),
    (TypeError, {"scores": S.int()}, "scores has dtype torch.int32; a floating-point dtype"),
    (TypeError, {"scores": S.long()}, "scores has dtype torch.int64; a floating-point dtype"),
    (TypeError, {"scores": S.bool()}, "scores has dtype torch.bool"),
]


@pytest.mark.parametrize(("kind", "change", "message"), WRONG, ids=[w[2][:24] for w in WRONG])
def test_wrong_arguments_are_explained(
    kind: type[Exception], change: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"scores": S, "k": 5, "tau": 1.0, "seed": SEED} | change
    with pytest.raises(kind, match=re.escape(message)):
        gumbel_topk(**arguments)


@pytest.mark.gpu
def test_tensors_on_two_devices_are_named() -> None:
    with pytest.raises(ValueError, match=r"seed is on cpu and scores on cuda:0"):
        gumbel_topk(S.cuda(), 5, tau=1.0, seed=SEED)


@pytest.mark.parametrize("wrong", [-1, 2**48])
def test_row_id_outside_its_48_bits_is_named(wrong: int) -> None:
    ids = torch.tensor([0, wrong])
    with pytest.raises(ValueError, match=rf"row_ids\[1\] is {wrong}, outside"):
        gumbel_topk(torch.zeros(2, 5), 2, tau=1.0, seed=torch.tensor([1, 2]), row_ids=ids)


def test_seed_that_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="seed is a list; an int64 tensor of two is needed"):
        gumbel_topk(torch.zeros(5), 2, tau=1.0, seed=[1, 2])  # type: ignore[arg-type]
