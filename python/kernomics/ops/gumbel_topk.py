"""gumbel_topk: choose k genes by perturbed scores, with the gradient of a relaxed mask."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import _native
from ._common import (
    LIBRARY,
    STREAM_GENE_SCORES,
    address,
    draw_seed,
    require_float,
    require_ids,
    require_same_device,
    require_seed,
    require_stream,
    suffix,
)
from ._derivatives import apply, call, differentiates, once, register
from ._kinds import require_given, require_integers, require_numbers, require_tensors, require_words

Relaxation = Literal["softsort", "neuralsort", "softmax"]
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


def _raise_fault(fault: int, row: int, count: int, first: int, k: int, genes: int) -> None:
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


def _temperature(tau: Tensor | float) -> float:
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


def _scale(noise: Tensor | float | None) -> float:
    """Return the noise's scale as a number, checked."""
    scale = 0.0 if noise is None else float(noise)
    if not 0.0 <= scale < float("inf"):
        raise ValueError(f"noise = {scale} must be a finite scale, at least 0")
    if scale > EXTREME:
        raise ValueError(
            f"noise = {scale} would take scores beyond float32; use a scale of at most {EXTREME:g}"
        )
    return scale


def _forward_cpu(
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
) -> tuple[Tensor, ...]:
    rows, genes = scores.shape
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    indices, mask, y, grad_indices = _outputs(scores, k, reach, keep_y)
    kernel = getattr(_native.cpu(), "gumbel_topk_forward_" + suffix(scores))
    fault, row, count, first = kernel(
        scores.data_ptr(), scores.stride(0), rows, genes, k, _scale(noise_scale), address(seed),
        address(row_ids), stream, _temperature(tau), relaxation, reach,
        y.data_ptr() if keep_y else 0,
        mask.data_ptr(), indices.data_ptr(), grad_indices.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    if fault:
        _raise_fault(fault, row, count, first, k, genes)
    return indices, mask, y, grad_indices


def _forward_cuda(
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
) -> tuple[Tensor, ...]:
    rows, genes = scores.shape
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    kernels = _native.cuda()
    with torch.cuda.device(scores.device):
        check = _native.checks_enabled()  # needs y to find the first NaN
        indices, mask, y, grad_indices = _outputs(scores, k, reach, keep_y or check)
        faults = scores.new_empty((rows, 2), dtype=torch.int32)
        scratch = _scratch("forward", scores, k, relaxation, reach, keep_y or check)
        getattr(kernels, "gumbel_topk_forward_" + suffix(scores))(
            scores.data_ptr(), scores.stride(0), rows, genes, k, _scale(noise_scale),
            address(seed), address(row_ids), stream, _temperature(tau), relaxation, reach,
            y.data_ptr() if keep_y or check else 0, mask.data_ptr(), indices.data_ptr(),
            grad_indices.data_ptr(), faults.data_ptr(), scratch.data_ptr(),
            torch.cuda.current_stream().cuda_stream,
        )  # fmt: skip
        if check:
            bad = faults[:, 0].nonzero()
            if len(bad):
                row = int(bad[0])
                fault, count = (int(x) for x in faults[row])
                if fault == 4 and row_ids is not None:  # more than the report's 32 bits hold
                    count = int(row_ids[row])
                _raise_fault(fault, row, count, int(y[row].isnan().int().argmax()), k, genes)
    return indices, mask, y if keep_y else y.new_empty((0, 0)), grad_indices


def _scratch(kernel: str, y: Tensor, *options: int) -> Tensor:
    """Allocate what a kernel asks for; the sizes depend on the shape and the options alone."""
    size = getattr(_native.cuda(), f"gumbel_topk_{kernel}_scratch_{suffix(y)}")(*y.shape, *options)
    return y.new_empty(size, dtype=torch.uint8)


def _forward_fake(
    scores: Tensor, seed: Tensor | None, row_ids: Tensor | None, k: int, *options: Any
) -> tuple[Tensor, ...]:
    return _outputs(scores, k, *options[-2:])


def _from_kept(
    kernel: str, y: Tensor, indices: Tensor, u: Tensor | None, tau: Tensor, relaxation: int
) -> Tensor:
    """Run a kernel that reads the kept y and indices, on either device."""
    rows, genes = y.shape
    k, out = indices.shape[1], torch.empty_like(y)
    u = None if u is None else u.contiguous()
    arguments = (
        y.data_ptr(), indices.data_ptr(), *(() if u is None else (u.data_ptr(),)), rows, genes, k,
        _temperature(tau), relaxation, out.data_ptr(),
    )  # fmt: skip
    name = f"gumbel_topk_{kernel}_{suffix(y)}"
    if not y.is_cuda:
        getattr(_native.cpu(), name)(*arguments, torch.get_num_threads())
        return out
    with torch.cuda.device(y.device):
        scratch = _scratch("relaxed", y, k, relaxation)
        stream = torch.cuda.current_stream().cuda_stream
        getattr(_native.cuda(), name)(*arguments, scratch.data_ptr(), stream)
    return out


def _backward(
    grad_mask: Tensor, y: Tensor, indices: Tensor, tau: Tensor, relaxation: int
) -> Tensor:
    return _from_kept("backward", y, indices, grad_mask, tau, relaxation)


def _relaxed(y: Tensor, indices: Tensor, tau: Tensor, relaxation: int) -> Tensor:
    return _from_kept("relaxed", y, indices, None, tau, relaxation)


def _like_y(y: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(y)


def _like_y_backward(_grad_mask: Tensor, y: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(y)


register("gumbel_topk", "gumbel_topk", _forward_cpu, _forward_cuda, _forward_fake)
register("gumbel_topk_backward", "gumbel_topk", _backward, _backward, _like_y_backward)
register("relaxed_mask", "relaxed_mask", _relaxed, _relaxed, _like_y)


class _GumbelTopk(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        seed: Tensor | None,
        row_ids: Tensor | None,
        k: int,
        noise_scale: Tensor | None,
        stream: int,
        tau: Tensor,
        relaxation: int,
        reach: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        indices, mask, y, grad_indices = call(
            torch.ops.kernomics.gumbel_topk,
            scores,
            seed,
            row_ids,
            k,
            noise_scale,
            stream,
            tau,
            relaxation,
            reach,
            True,
        )
        ctx.save_for_backward(y, indices, tau, scores)  # the scores for `once` alone
        ctx.relaxation = relaxation
        ctx.mark_non_differentiable(indices, grad_indices)
        return indices, mask, grad_indices

    @staticmethod
    @once("gumbel_topk")
    def backward(ctx: Any, _indices: None, grad_mask: Tensor, _grad_indices: None) -> Any:
        y, indices, tau, _ = ctx.saved_tensors
        grad = call(
            torch.ops.kernomics.gumbel_topk_backward, grad_mask, y, indices, tau, ctx.relaxation
        )
        return grad, None, None, None, None, None, None, None, None


class _RelaxedMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, k: int, tau: Tensor, relaxation: int) -> Tensor:
        indices, gamma = _chosen_and_relaxed(y, k, tau, relaxation)
        ctx.save_for_backward(y, indices, tau)
        ctx.relaxation = relaxation
        return gamma

    @staticmethod
    @once("relaxed_mask")
    def backward(ctx: Any, grad: Tensor) -> Any:
        y, indices, tau = ctx.saved_tensors
        grad = call(torch.ops.kernomics.gumbel_topk_backward, grad, y, indices, tau, ctx.relaxation)
        return grad, None, None, None


def _chosen_and_relaxed(y: Tensor, k: int, tau: Tensor, relaxation: int) -> tuple[Tensor, Tensor]:
    indices = call(
        torch.ops.kernomics.gumbel_topk,
        y.detach(),
        None,
        None,
        k,
        None,
        STREAM_GENE_SCORES,
        tau,
        relaxation,
        0,
        False,
    )[0]
    return indices, call(torch.ops.kernomics.relaxed_mask, y, indices, tau, relaxation)


def _number(name: str, value: float | Tensor, function: str) -> Tensor:
    """Return a temperature or scale as a float64 tensor on the CPU.

    The op itself looks at a tensor's value, where it runs: a compiled graph cannot.
    """
    if not isinstance(value, Tensor):
        if torch.compiler.is_compiling():  # a product takes any float, `scalar_tensor` a constant
            return value * torch.ones((), dtype=torch.float64, device="cpu")
        return torch.scalar_tensor(value, dtype=torch.float64, device="cpu")
    if value.shape != () or not value.is_floating_point():
        raise ValueError(
            f"{name} is {value.dtype} of shape {tuple(value.shape)}; a number or a floating-point "
            "tensor of shape [] is needed"
        )
    if value.device.type != "cpu":
        raise ValueError(
            f"{name} is on {value.device}, where reading it would wait for the device; keep it on "
            "the CPU"
        )
    if torch.is_grad_enabled() and value.requires_grad:
        raise ValueError(
            f"{name} requires a gradient, and {function} gives it none; pass {name}.detach()"
        )
    return value.to(torch.float64)


def _check(scores: Tensor, k: int, tau: float | Tensor, relaxation: str) -> Tensor:
    """Check what both public functions share; return the scores as rows in a computing dtype."""
    require_float(scores, "scores")
    if scores.dim() not in (1, 2):
        raise ValueError(
            f"scores have shape {tuple(scores.shape)}; [genes] or [rows, genes] is needed"
        )
    genes = scores.shape[-1]
    if not 1 <= k <= genes:
        raise ValueError(
            f"k = {k:,} genes cannot be chosen of {genes:,}; k must lie between 1 and {genes:,}"
        )
    if genes >= 2**31:
        raise ValueError(f"scores have {genes:,} genes; fewer than 2³¹ are possible")
    if not isinstance(tau, Tensor):
        _temperature(tau)
    if relaxation not in RELAXATIONS:
        raise ValueError(
            f"unknown relaxation {relaxation!r}; choose one of {', '.join(RELAXATIONS)}"
        )
    rows = scores.reshape(-1, genes) if scores.dim() == 1 else scores
    return rows if rows.dtype in (torch.float32, torch.float64) else rows.float()


@overload
def gumbel_topk(
    scores: Tensor,
    k: int,
    *,
    tau: float | Tensor,
    relaxation: Relaxation = ...,
    noise: bool | float | Tensor = ...,
    seed: Tensor | None = ...,
    row_ids: Tensor | None = ...,
    stream: int = ...,
    generator: torch.Generator | None = ...,
    reach: None = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def gumbel_topk(
    scores: Tensor,
    k: int,
    *,
    tau: float | Tensor,
    relaxation: Relaxation = ...,
    noise: bool | float | Tensor = ...,
    seed: Tensor | None = ...,
    row_ids: Tensor | None = ...,
    stream: int = ...,
    generator: torch.Generator | None = ...,
    reach: int,
) -> tuple[Tensor, Tensor, Tensor]: ...
def gumbel_topk(
    scores: Tensor,
    k: int,
    *,
    tau: float | Tensor,
    relaxation: Relaxation = "softsort",
    noise: bool | float | Tensor = True,
    seed: Tensor | None = None,
    row_ids: Tensor | None = None,
    stream: int = STREAM_GENE_SCORES,
    generator: torch.Generator | None = None,
    reach: int | None = None,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    r"""Choose k genes per row by Gumbel-perturbed scores; a hard mask with a relaxed gradient.

    With y = scores + noise·g, g standard Gumbel, S holds the k genes with the largest y (ties to
    the smaller index); choosing so draws an ordered subset from the Plackett-Luce distribution
    (YOTO, arXiv 2512.17678). The mask is exactly 1 on S and 0 elsewhere. Backward passes the
    mask's gradient through the Jacobian of a relaxed mask Γ(y):

    - ``softsort``: :math:`Γ_j = Σ_{i≤k} \mathrm{softmax}_j(-|y_{(i)} - y_j| / τ)`, computed in
      O(genes + k log k) time without a k × genes matrix.
    - ``neuralsort``: :math:`Γ_j = Σ_{i≤k} \mathrm{softmax}_j(((n+1-2i) y_j - Σ_l |y_j-y_l|)/τ)`,
      worst case O(k·genes) time, O(genes) memory; what YOTO's authors used before.
    - ``softmax``: :math:`Γ = k\,\mathrm{softmax}(y / τ)`.

    Their temperatures are on different scales: with 10,000 genes and k = 64, NeuralSort at τ = 1
    reaches about 100 genes with its gradient, SoftSort about 9,650 at τ = 1 and 267 at τ = 0.1.

    Parameters
    ----------
    scores
        [genes] or [rows, genes]; float32 and float64 are computed in, others widened to float32.
        A gene with +inf is forced, one with −inf forbidden; both have gradient 0 and leave the
        relaxed problem, in which k becomes k minus the number of forced genes.
    k
        Genes to choose, forced ones included, from 1 to genes.
    tau
        Temperature τ of the relaxation, from 1e-28 to 1e28; used in backward alone. A number, or a
        floating-point tensor of shape [] on the CPU; a compiled function takes any value of either.
    relaxation
        Which Γ backward uses.
    noise
        False or 0: none. True: Gumbel(0, 1). A number, or a tensor as `tau`: its scale, at most
        1e28.
    seed
        int64 [2], (key, step), on the scores' device. The noise of a gene depends on seed, row id,
        stream and gene alone: not on batch split, threads or device. Drawn from ``generator``
        when not given.
    row_ids
        int64 [rows], each in [0, 2⁴⁸); 0 … rows − 1 when not given.
    stream
        Which of the 65,536 independent streams of random words to use.
    generator
        Where a missing seed is drawn from; torch's default generator when not given.
    reach
        If given, also return the genes that the gradient reaches, at most so many (at least k).
        SoftSort and NeuralSort only.

    Returns
    -------
    indices : int64 [rows, k]
        The chosen genes, ascending.
    mask : [rows, genes]
        Exactly 0 or 1, differentiable, float64 for float64 scores, else float32.
    grad_indices : int64 [rows, reach]
        With ``reach``: the chosen genes and all with Γ ≥ 2⁻²⁴, ascending, padded with −1; when
        there are more than ``reach``, those with the largest y. For
        :func:`~kernomics.ops.masked_linear`.

    Raises
    ------
    ValueError
        NaN scores, k, τ or noise out of range, 2³¹ genes or more, more forced genes than k, fewer
        usable genes than k, an unknown relaxation or stream. On CUDA what depends on the scores is
        checked when the environment variable ``KERNOMICS_CHECK`` is 1; without it such a row gets
        a NaN mask.
    MemoryError
        No memory for the kernel's scratch.
    """
    require_given(scores=scores)
    require_tensors(row_ids=row_ids)
    require_integers(k=k, stream=stream, reach=k if reach is None else reach)
    require_words(relaxation=relaxation)
    require_numbers(tau=tau, noise=float(noise) if isinstance(noise, bool) else noise)
    rows = _check(scores, k, tau, relaxation)
    scale: Tensor | None = None
    if isinstance(noise, Tensor) or _scale(noise) > 0.0:
        scale = _number("noise", noise, "gumbel_topk")
    require_stream(stream)
    if reach is not None and relaxation == "softmax":
        raise ValueError("softmax reaches every gene; leave reach out or use another relaxation")
    if reach is not None and reach < k:
        raise ValueError(f"reach = {reach:,} is below k = {k:,}; the chosen genes must fit")
    if scale is not None:
        if seed is None:
            seed = draw_seed(generator, scores.device)
        seed = require_seed(seed)
        row_ids = None if row_ids is None else require_ids(row_ids, "row_ids", rows.shape[0])
    else:
        seed = row_ids = None
    require_same_device(scores, "scores", seed=seed, row_ids=row_ids)
    temperature = _number("tau", tau, "gumbel_topk")
    options = (k, scale, stream, temperature, RELAXATIONS[relaxation], reach or 0)
    if differentiates(rows):
        indices, mask, grad_indices = apply(
            "gumbel_topk", _GumbelTopk, rows, seed, row_ids, *options
        )
    else:
        indices, mask, _, grad_indices = call(
            torch.ops.kernomics.gumbel_topk, rows, seed, row_ids, *options, False
        )
    if scores.dim() == 1:
        indices, mask, grad_indices = indices[0], mask[0], grad_indices[0]
    return (indices, mask) if reach is None else (indices, mask, grad_indices)


def relaxed_mask(
    scores: Tensor, k: int, *, tau: float | Tensor, relaxation: Relaxation = "softsort"
) -> Tensor:
    """Compute the relaxed top-k mask Γ that :func:`gumbel_topk` differentiates.

    Parameters
    ----------
    scores
        [genes] or [rows, genes]; +inf forces a gene (Γ = 1), −inf forbids it (Γ = 0).
    k, tau, relaxation
        As in :func:`gumbel_topk`.

    Returns
    -------
    Tensor
        Γ, of the scores' shape, differentiable; its rows sum to k.

    Raises
    ------
    ValueError
        As in :func:`gumbel_topk`.
    """
    require_given(scores=scores)
    require_integers(k=k)
    require_words(relaxation=relaxation)
    require_numbers(tau=tau)
    rows = _check(scores, k, tau, relaxation).contiguous()
    options = k, _number("tau", tau, "relaxed_mask"), RELAXATIONS[relaxation]
    gamma: Tensor
    if differentiates(rows):
        gamma = apply("relaxed_mask", _RelaxedMask, rows, *options)
    else:
        _, gamma = _chosen_and_relaxed(rows, *options)
    return gamma[0] if scores.dim() == 1 else gamma
