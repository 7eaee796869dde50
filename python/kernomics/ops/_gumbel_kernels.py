"""The ops of gumbel_topk, and the calls of their kernels on the CPU and on CUDA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _native
from ._common import LIBRARY, SCALAR_KINDS, Report, address
from ._derivatives import register

# From 1/EXTREME to EXTREME a temperature has an inverse that float32 holds, and so much noise added
# to the largest float32 rounds to it.
EXTREME = 1e28
RELAXATIONS: dict[str, int] = {"softsort": 0, "neuralsort": 1, "softmax": 2}

# tau and noise_scale are numbers on the CPU, as tensors so that a compiled graph takes any value.
LIBRARY.define(
    "gumbel_topk(Tensor scores, Tensor? seed, Tensor? row_ids, SymInt k, Tensor? noise_scale, "
    "int stream, Tensor tau, int relaxation, SymInt reach, bool keep_y) "
    "-> (Tensor indices, Tensor mask, Tensor y, Tensor grad_indices)"
)
LIBRARY.define(
    "gumbel_topk_backward(Tensor grad_mask, Tensor y, Tensor indices, Tensor tau, int relaxation)"
    " -> Tensor"
)
LIBRARY.define("relaxed_mask(Tensor y, Tensor indices, Tensor tau, int relaxation) -> Tensor")


def _outputs(scores: Tensor, k: int, reach: int, keep_y: bool) -> tuple[Tensor, ...]:
    rows, genes = scores.shape
    indices = scores.new_empty((rows, k), dtype=torch.int64)
    mask = scores.new_empty((rows, genes))
    y = scores.new_empty((rows, genes) if keep_y else (0, 0))
    grad_indices = scores.new_empty((rows, reach), dtype=torch.int64)
    return indices, mask, y, grad_indices


def _raise_fault(report: Report, k: int, genes: int) -> None:
    fault, row, first, count, _, _ = report
    if fault == 1:
        raise ValueError(
            f"scores are NaN for {count:,} of {genes:,} genes in row {row}, first gene {first}; "
            "a training run with a NaN loss usually precedes this"
        )
    if fault == 2:
        raise ValueError(
            f"{count:,} genes of row {row} are forced (score +inf), more than k = {k:,}; "
            "raise k or force fewer genes"
        )
    if fault == 4:
        raise ValueError(
            f"row_ids[{row}] is {count}, outside [0, 2**48); give each row its index in the data"
        )
    raise ValueError(
        f"only {count:,} of {genes:,} genes of row {row} are usable (the others have score -inf), "
        f"fewer than k = {k:,}; lower k or forbid fewer genes"
    )


def checked_temperature(tau: Tensor | float) -> float:
    """Return τ as a number, checked: a compiled graph may come with any."""
    tau = float(tau)
    if not 0.0 < tau < float("inf"):
        raise ValueError(f"tau = {tau} must be positive and finite")
    if not 1.0 <= tau * EXTREME <= EXTREME**2:
        raise ValueError(
            f"tau = {tau} is beyond what float32 divides by; use a tau from {1 / EXTREME:g} to "
            f"{EXTREME:g}"
        )
    return tau


def checked_scale(noise: Tensor | float | None) -> float:
    """Return the noise's scale as a number, checked."""
    scale = 0.0 if noise is None else float(noise)
    if not 0.0 <= scale < float("inf"):
        raise ValueError(f"noise = {scale} must be a finite scale, at least 0")
    if scale > EXTREME:
        raise ValueError(
            f"noise = {scale} would take scores beyond float32; use a scale of at most {EXTREME:g}"
        )
    return scale


def _rows_in_place(scores: Tensor) -> Tensor:
    return scores if scores.stride(1) == 1 else scores.contiguous()


def _forward_parameters(
    outputs: tuple[Tensor, ...],
    faults: Tensor | None,
    scores: Tensor,
    seed: Tensor | None,
    row_ids: Tensor | None,
    k: int,
    noise_scale: Tensor | None,
    stream: int,
    tau: Tensor,
    relaxation: int,
    reach: int,
    keep_y: bool,
) -> _native.Parameters:
    """Return GumbelTopk in csrc/common/gumbel_topk.h from the op's arguments."""
    indices, mask, y, grad_indices = outputs
    rows, genes = scores.shape
    return {
        "kind": SCALAR_KINDS[scores.dtype],
        "scores": scores.data_ptr(),
        "row_stride": scores.stride(0),
        "rows": rows,
        "genes": genes,
        "k": k,
        "noise_scale": checked_scale(noise_scale),
        "seed": address(seed),
        "row_ids": address(row_ids),
        "stream": stream,
        "tau": checked_temperature(tau),
        "relaxation": relaxation,
        "reach": reach,
        "y": y.data_ptr() if keep_y else 0,
        "mask": mask.data_ptr(),
        "indices": indices.data_ptr(),
        "grad_indices": grad_indices.data_ptr(),
        "faults": address(faults),
    }


def _forward_cpu(scores: Tensor, *options: Any) -> tuple[Tensor, ...]:
    scores = _rows_in_place(scores)
    outputs = _room(scores, *options)
    parameters = _forward_parameters(outputs, None, scores, *options)
    parameters["threads"] = torch.get_num_threads()
    report = _native.cpu().gumbel_topk_forward(parameters)
    if report[0]:
        _raise_fault(Report(*report), outputs[0].shape[1], scores.shape[1])
    return outputs


def _forward_cuda(scores: Tensor, *options: Any) -> tuple[Tensor, ...]:
    *others, keep_y = options
    scores = _rows_in_place(scores)
    with torch.cuda.device(scores.device):
        check = _native.checks_enabled()  # needs y to find the first NaN
        options = (*others, keep_y or check)
        indices, mask, y, grad_indices = outputs = _room(scores, *options)
        faults = scores.new_empty((scores.shape[0], 2), dtype=torch.int32)
        parameters = _forward_parameters(outputs, faults, scores, *options)
        _native.launch("gumbel_topk_forward", parameters, room=scores)
        if check:
            _raise_faults_of_cuda(faults, y, others[1], indices.shape[1])
    return indices, mask, y if keep_y else y.new_empty((0, 0)), grad_indices


def _raise_faults_of_cuda(faults: Tensor, y: Tensor, row_ids: Tensor | None, k: int) -> None:
    bad = faults[:, 0].nonzero()
    if not len(bad):
        return
    row = int(bad[0])
    fault, count = (int(x) for x in faults[row])
    if fault == 4 and row_ids is not None:  # more than the report's 32 bits hold
        count = int(row_ids[row])
    first = int(y[row].isnan().int().argmax())
    _raise_fault(Report(fault, row, first, count, 0.0, len(bad)), k, y.shape[1])


def _room(scores: Tensor, *options: Any) -> tuple[Tensor, ...]:
    """Return room for what the op's arguments ask for."""
    _seed, _row_ids, k, *_, reach, keep_y = options
    return _outputs(scores, k, reach, keep_y)


def _from_kept(
    kernel: str, y: Tensor, indices: Tensor, u: Tensor | None, tau: Tensor, relaxation: int
) -> Tensor:
    """Run a kernel that reads the kept y and indices, on either device."""
    out = torch.empty_like(y)
    rows, genes = y.shape
    u = None if u is None else u.contiguous()
    parameters: _native.Parameters = {
        "kind": SCALAR_KINDS[y.dtype],
        "y": y.data_ptr(),
        "indices": indices.data_ptr(),
        "u": address(u),
        "rows": rows,
        "genes": genes,
        "k": indices.shape[1],
        "tau": checked_temperature(tau),
        "relaxation": relaxation,
        "out": out.data_ptr(),
    }
    if not y.is_cuda:
        parameters["threads"] = torch.get_num_threads()
        getattr(_native.cpu(), kernel)(parameters)
        return out
    with torch.cuda.device(y.device):
        _native.launch(kernel, parameters, room=y)
    return out


def _backward(
    grad_mask: Tensor, y: Tensor, indices: Tensor, tau: Tensor, relaxation: int
) -> Tensor:
    return _from_kept("gumbel_topk_backward", y, indices, grad_mask, tau, relaxation)


def _relaxed(y: Tensor, indices: Tensor, tau: Tensor, relaxation: int) -> Tensor:
    return _from_kept("gumbel_topk_relaxed", y, indices, None, tau, relaxation)


def _like_y(y: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(y)


def _like_y_backward(_grad_mask: Tensor, y: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(y)


register("gumbel_topk", "gumbel_topk", _forward_cpu, _forward_cuda, _room)
register("gumbel_topk_backward", "gumbel_topk", _backward, _backward, _like_y_backward)
register("relaxed_mask", "relaxed_mask", _relaxed, _relaxed, _like_y)
