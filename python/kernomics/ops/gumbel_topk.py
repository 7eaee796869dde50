"""gumbel_topk: choose k genes by perturbed scores, with the gradient of a relaxed mask."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ._common import (
    STREAM_GENE_SCORES,
    as_dtype,
    draw_seed,
    require_float,
    require_ids,
    require_same_device,
    require_seed,
    require_stream,
)
from ._derivatives import apply, call, differentiates, once
from ._gumbel_kernels import RELAXATIONS, checked_scale, checked_temperature
from ._kinds import require_given, require_integers, require_numbers, require_tensors, require_words

Relaxation = Literal["softsort", "neuralsort", "softmax"]


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
    return as_dtype(value, torch.float64)


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
        checked_temperature(tau)
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
    if isinstance(noise, Tensor) or checked_scale(noise) > 0.0:
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
