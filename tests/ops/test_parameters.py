"""Kernels take their parameters by name: one that is missing, unknown or of another type raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from emulated import Emulator
from torch import Tensor

from kernomics.nn.gene_attention import attend_to_genes
from kernomics.ops import (
    _native,
    dropout,
    embed_tokens,
    gumbel_topk,
    linear_poisson_nll,
    masked_linear,
    poisson_nll,
    relaxed_mask,
    sample_tokens,
)
from kernomics.ops._poisson_kernels import scaled
from kernomics.train import RowAdamW

Parameters = dict[str, Any]


class Recorder:
    """Passes calls on to a module of kernels and keeps the parameters of the last of each."""

    def __init__(self, module: Any) -> None:
        self._module, self.calls = module, {}

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)

        def call(*arguments: Any) -> Any:
            if len(arguments) == 1 and isinstance(arguments[0], dict):
                self.calls[name] = dict(arguments[0])
            return function(*arguments)

        return call


def run_all(device: str) -> None:
    """Call every kernel at least once."""
    scores = torch.randn(2, 30, device=device, requires_grad=True)
    _, mask, _ = gumbel_topk(scores, 4, tau=0.5, reach=9)
    mask.sum().backward()
    relaxed_mask(scores.detach(), 4, tau=0.5)
    x = torch.eye(3, device=device)
    weight = torch.randn(3, 2, device=device, requires_grad=True)
    masked_linear(x, weight[:, 0], torch.arange(3, device=device), weight).sum().backward()
    rows = torch.eye(3).to_sparse_csr()
    counts = Rows(*(t.to(device) for t in (rows.crow_indices(), rows.col_indices(), rows.values())))
    sample_tokens(counts, None, cell_ids=None, seed=None)
    dropout(weight, 0.5, torch.tensor([1, 2], device=device)).sum().backward()
    ids = torch.tensor([[0, 2]], device=device)
    values = torch.ones(1, 2, device=device)
    embed_tokens(ids, values, weight).sum().backward()
    logits = torch.randn(3, 3, device=device, requires_grad=True)
    poisson_nll(logits, counts).backward()
    linear_poisson_nll(weight, weight, None, x)
    scaled(torch.ones(3, device=device), torch.tensor(2.0, device=device))
    if device == "cpu":  # torch's operations elsewhere
        a, table, cls = (torch.randn(n, 4, requires_grad=True) for n in (2, 3, 1))
        attend_to_genes(a, table, cls[0], ids, values, None, 1e-5).sum().backward()
        optimizer = RowAdamW([table])
        optimizer.gradient_norm()
        optimizer.step()


class Rows:
    """Compressed sparse rows [3, 3]."""

    shape = (3, 3)

    def __init__(self, indptr: Tensor, indices: Tensor, values: Tensor) -> None:
        self.indptr, self.indices, self.values = indptr, indices, values


def assert_by_name(module: Any, kernel: str, given: Parameters) -> None:
    run: Callable[[Parameters], Any] = getattr(module, kernel)
    for name, value in given.items():
        missing = {key: value for key, value in given.items() if key != name}
        with pytest.raises(TypeError, match=f"'{name}' is missing"):
            run(missing)
        with pytest.raises(TypeError, match=r"is not one of its parameters|is missing"):
            run({**missing, name + "s": value})
        with pytest.raises(TypeError, match=f"'{name}' is of type str"):
            run({**given, name: "7"})
        other = 1 if isinstance(value, bool | float) else True
        with pytest.raises(TypeError, match=f"'{name}' is of type {type(other).__name__}; "):
            run({**given, name: other})
    with pytest.raises(TypeError, match="'beyond' is not one of its parameters"):
        run({**given, "beyond": 0})
    kinds = [name for name in given if name in ("kind", "values_kind", "weight_kind")]
    for name in ("rows", "cells", "genes"):
        if name in given:
            with pytest.raises(TypeError, match=f"'{name}' is out of range"):
                run({**given, name: 2**63})
    if module is _native.cpu() and kinds:
        with pytest.raises(TypeError, match="is no kind of number"):
            run({**given, **dict.fromkeys(kinds, 9)})


def test_kernels_take_every_name_and_no_other_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, module = Recorder(_native.cpu()), _native.cpu()
    with monkeypatch.context() as patch:
        patch.setattr(_native, "_cpu", recorder)
        run_all("cpu")
    expected = {
        "gumbel_topk_forward", "gumbel_topk_backward", "gumbel_topk_relaxed", "sample_tokens",
        "masked_linear_forward", "masked_linear_backward", "embed_tokens_forward",
        "embed_tokens_backward", "poisson_prepare", "poisson_sweep", "gene_means_forward",
        "gene_means_backward", "adamw_step", "square_sum", "dropout", "dropout_backward",
    }  # fmt: skip
    assert set(recorder.calls) == expected
    for kernel, given in recorder.calls.items():
        assert_by_name(module, kernel, given)


def test_kernels_take_every_name_and_no_other_on_cuda(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(emulator.kernels)
    with emulator.in_place():
        monkeypatch.setattr(_native, "_cuda", recorder)
        run_all("cuda")
        monkeypatch.undo()
    assert {"poisson_finish", "poisson_scale", "sample_tokens_scratch", "dropout_backward"} < set(
        recorder.calls
    )
    for kernel, given in recorder.calls.items():
        assert_by_name(emulator.kernels, kernel, given)
