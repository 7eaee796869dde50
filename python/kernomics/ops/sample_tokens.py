"""sample_tokens: draw K genes of each cell, with their values, straight from sparse counts."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import _native
from ._common import (
    LIBRARY,
    SCALAR_KINDS,
    STREAM_TOKENS,
    Report,
    SparseRows,
    address,
    as_dtype,
    as_float,
    csr_parts,
    raise_csr_fault,
    require_float,
    require_ids,
    require_same_device,
    require_seed,
    require_stream,
)
from ._derivatives import call, register
from ._kinds import (
    require_integers,
    require_numbers,
    require_observed,
    require_rows,
    require_tensors,
    require_truths,
    require_words,
)
from .observed import ObservedGenes

Candidates = Literal["observed", "expressed"]
Transform = Literal["log1p", "counts"]

# CSR of shape [B, genes]. A target_sum of 0 divides by no library.
LIBRARY.define(
    "sample_tokens(Tensor values, Tensor indptr, Tensor columns, SymInt genes, Tensor? cell_ids, "
    "Tensor? seed, int stream, SymInt n_tokens, Tensor? library, Tensor? panel_id, "
    "Tensor? panel_mask, Tensor? panel_counts, Tensor? weights, bool expressed, bool log1p, "
    "float target_sum, bool ragged) -> (Tensor gene_ids, Tensor tokens, Tensor offsets)"
)


def _outputs(
    values: Tensor, indptr: Tensor, n_tokens: int, ragged: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows = indptr.shape[0] - 1
    shape = (rows * n_tokens,) if ragged else (rows, n_tokens)
    return (
        values.new_empty(shape, dtype=torch.int32),
        values.new_empty(shape),
        values.new_empty((rows + 1 if ragged else 0,), dtype=torch.int64),
    )


def _raise_fault(report: Report, genes: int, panels: int) -> None:
    fault, row, position, value, number, count = report
    hint = "the shape of counts must cover every gene"
    raise_csr_fault(report, "counts", genes, hint)
    rows = f"in {count:,} rows, first row {row:,}"
    if fault == 4:
        raise ValueError(
            f"cell_ids lie outside [0, 2**48) {rows}: {value}; give each cell its index in the data"
        )
    if fault == 5:
        raise ValueError(
            f"observed.panel_id is none of the {panels:,} panels {rows}: {value}; use ids from 0 "
            f"to {panels - 1:,}"
        )
    if fault == 6:
        raise ValueError(
            f"library is negative, NaN or infinite {rows}: {number:g}; pass each cell's total count"
        )
    if fault == 7:
        raise ValueError(
            f"counts are negative, NaN or infinite {rows}: entry {position:,} is {number:g}; pass "
            "counts, not scaled or centred values (transform='counts' passes on any number)"
        )
    raise ValueError(
        f"weights are neither 0 nor from 1e-36 to 1e27 for {count:,} of {genes:,} genes, first "
        f"gene {row:,} with {number:g}; 0 excludes a gene, and only their ratios matter"
    )


def _parameters(
    outputs: tuple[Tensor, Tensor, Tensor],
    values: Tensor,
    indptr: Tensor,
    columns: Tensor,
    genes: int,
    cell_ids: Tensor | None,
    seed: Tensor | None,
    stream: int,
    n_tokens: int,
    library: Tensor | None,
    panel_id: Tensor | None,
    panel_mask: Tensor | None,
    panel_counts: Tensor | None,
    weights: Tensor | None,
    expressed: bool,
    log1p: bool,
    target_sum: float,
    ragged: bool,
) -> _native.Parameters:
    """Return SampleTokens in csrc/common/sample_tokens.h from the op's arguments."""
    gene_ids, tokens, offsets = outputs
    return {
        "kind": SCALAR_KINDS[values.dtype],
        "values": values.data_ptr(),
        "indptr": indptr.data_ptr(),
        "columns": columns.data_ptr(),
        "wide_columns": columns.dtype == torch.int64,
        "stored": values.shape[0],
        "rows": indptr.shape[0] - 1,
        "genes": genes,
        "seed": address(seed),
        "cell_ids": address(cell_ids),
        "stream": stream,
        "n_tokens": n_tokens,
        "library": address(library),
        "panel_id": address(panel_id),
        "panel_mask": address(panel_mask),
        "panel_counts": address(panel_counts),
        "panels": 0 if panel_mask is None else panel_mask.shape[0],
        "weights": address(weights),
        "expressed": expressed,
        "log1p": log1p,
        "target_sum": target_sum,
        "gene_ids": gene_ids.data_ptr(),
        "tokens": tokens.data_ptr(),
        "offsets": offsets.data_ptr() if ragged else 0,
    }


def _room(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return room for what the op's arguments ask for."""
    values, indptr, n_tokens, ragged = (arguments[i] for i in (0, 1, 7, 16))
    return _outputs(values, indptr, n_tokens, ragged)


def _forward_cpu(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _room(*arguments)
    parameters = _parameters(outputs, *arguments)
    parameters["threads"] = torch.get_num_threads()
    report = _native.cpu().sample_tokens(parameters)
    if report[0]:
        _raise_fault(Report(*report), int(parameters["genes"]), int(parameters["panels"]))
    return outputs


def _forward_cuda(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    if _native.checks_enabled():  # the CPU's kernel, on copies, finds faults and names them
        _forward_cpu(*(a.cpu() if isinstance(a, Tensor) else a for a in arguments))
    values = arguments[0]
    with torch.cuda.device(values.device):
        outputs = _room(*arguments)
        _native.launch("sample_tokens", _parameters(outputs, *arguments), room=values)
    return outputs


register("sample_tokens", "sample_tokens", _forward_cpu, _forward_cuda, _room, gradient=False)


def _check_options(
    candidates: str, transform: str, target_sum: float | None, n_tokens: int | None, stream: int
) -> None:
    for name, value, known in (
        ("candidates", candidates, ("observed", "expressed")),
        ("transform", transform, ("log1p", "counts")),
    ):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    if target_sum is not None and not 0.0 < target_sum < float("inf"):
        raise ValueError(
            f"target_sum = {target_sum} must be positive and finite; None divides by no library"
        )
    if n_tokens is not None and n_tokens < 1:
        raise ValueError(
            f"n_tokens = {n_tokens} must be at least 1; None takes every candidate gene"
        )
    require_stream(stream)


def _check_panels(observed: ObservedGenes, cells: int, genes: int) -> None:
    if observed.mask.dim() != 2 or observed.n_genes != genes:
        raise ValueError(
            f"observed has a mask of shape {tuple(observed.mask.shape)} and counts have {genes:,} "
            f"genes; [panels, {genes}] is needed"
        )
    parts = {
        "panel_id": (observed.panel_id, torch.int32, (cells,)),
        "mask": (observed.mask, torch.uint8, tuple(observed.mask.shape)),
        "counts": (observed.counts, torch.int64, (observed.mask.shape[0],)),
    }
    for name, (tensor, dtype, shape) in parts.items():
        if tensor.dtype != dtype or tensor.shape != shape:
            raise ValueError(
                f"observed.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; {dtype} "
                f"{list(shape)} is needed; build it with ObservedGenes.from_lists, and use "
                "with_panel_id for every batch"
            )


def _check_vectors(library: Tensor | None, weights: Tensor | None, cells: int, genes: int) -> None:
    for name, tensor, size in (("library", library, cells), ("weights", weights, genes)):
        if tensor is None:
            continue
        require_float(tensor, name)
        if tensor.shape != (size,):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; [{size}] is needed")


def _single(weights: Tensor) -> Tensor:
    """Return weights in float32, where none but 0 becomes 0: that would exclude a gene."""
    single = weights.float().contiguous()
    if weights.dtype != torch.float64:
        return single
    smallest = torch.finfo(torch.float32).smallest_normal  # refused by the kernel
    return single.masked_fill((single == 0) & (weights != 0), smallest)


def _most_candidates(
    indptr: Tensor, genes: int, observed: ObservedGenes | None, expressed: bool
) -> int:
    most = genes if observed is None else observed.largest
    if expressed:
        most = min(most, int(indptr.diff().max()) if indptr.shape[0] > 1 else 0)
    return most


@overload
def sample_tokens(
    counts: Tensor | SparseRows,
    n_tokens: int | None,
    *,
    cell_ids: Tensor | None,
    seed: Tensor | None,
    library: Tensor | None = ...,
    observed: ObservedGenes | None = ...,
    candidates: Candidates = ...,
    weights: Tensor | None = ...,
    target_sum: float | None = ...,
    transform: Transform = ...,
    ragged: Literal[False] = ...,
    stream: int = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def sample_tokens(
    counts: Tensor | SparseRows,
    n_tokens: int | None,
    *,
    cell_ids: Tensor | None,
    seed: Tensor | None,
    library: Tensor | None = ...,
    observed: ObservedGenes | None = ...,
    candidates: Candidates = ...,
    weights: Tensor | None = ...,
    target_sum: float | None = ...,
    transform: Transform = ...,
    ragged: Literal[True],
    stream: int = ...,
) -> tuple[Tensor, Tensor, Tensor]: ...
def sample_tokens(
    counts: Tensor | SparseRows,
    n_tokens: int | None,
    *,
    cell_ids: Tensor | None,
    seed: Tensor | None,
    library: Tensor | None = None,
    observed: ObservedGenes | None = None,
    candidates: Candidates = "observed",
    weights: Tensor | None = None,
    target_sum: float | None = 1e5,
    transform: Transform = "log1p",
    ragged: bool = False,
    stream: int = STREAM_TOKENS,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    r"""Draw K genes of each cell without replacement: the tokens a model sees, with their values.

    The candidates are the genes observable in the cell's data set, zeros included (the masking of
    TxFM, arXiv 2605.31562), or those it expresses. The K with the smallest random words are drawn
    (ties: the smaller gene), a uniform draw. Each (cell id, gene) has one word, so the draw depends
    on neither batch split, threads nor device. With weights w the K smallest E/w are drawn, E the
    standard exponential number of the word: drawing one gene after the other in proportion to w, as
    ``torch.multinomial`` does. A drawn gene's value is

    .. math:: x = \log(1 + \mathrm{count}·\mathrm{target\_sum} / \mathrm{library}).

    Nothing of size B·G is made.

    Parameters
    ----------
    counts
        [B, G], ``torch.sparse_csr`` or `Cells`: rows ascending without duplicates. Receives no
        gradient, nor do library and weights.
    n_tokens
        K, at least 1; None takes every candidate, and then needs neither ``cell_ids`` nor ``seed``.
    cell_ids
        int64 [B], each in [0, 2⁴⁸): the cell's index in its collection, not in the batch.
    seed
        int64 [2], (key, step), on the device of counts.
    library
        [B], each cell's total over all genes measured in its source. The row's sum when not given.
        A cell with library 0 has values 0.
    observed
        The panels of genes that the cells' data sets observed; every gene when not given. Counts
        outside a cell's panel are never drawn, though they enter the row's sum.
    candidates
        ``"observed"``: all genes of the cell's panel. ``"expressed"``: those of them with a count
        other than 0.
    weights
        [G], computed in float32, from 1e-36 to 1e27, so that E/w is a normal float32; 0 excludes a
        gene. Only their ratios matter.
    target_sum
        What a cell's counts are scaled to sum to; None leaves them: x = log(1 + count).
    transform
        ``"log1p"``, or ``"counts"`` for the counts as they are.
    ragged
        Return the cells' tokens one after the other, without padding, and where each cell begins.
    stream
        Which of the 65,536 independent streams of random words to use.

    Returns
    -------
    gene_ids : int32 [B, K]
        The drawn genes of each cell, ascending; −1 where it has fewer than K candidates. With
        ``n_tokens=None``, K is G, the size of the largest panel, or with expressed candidates the
        length of the longest row (which a device must be asked for).
    values : [B, K]
        Their values, 0 at −1; float64 for float64 counts, else float32. log is accurate to 2 ulp.
    offsets : int64 [B + 1]
        With ``ragged``: cell b's tokens are ``offsets[b]:offsets[b + 1]`` of gene_ids and values,
        which then are flat, [B·K], with −1 and 0 beyond ``offsets[B]``.

    Raises
    ------
    ValueError
        Shapes, devices or index dtypes that do not fit; an input that requires a gradient; unknown
        options; cell ids, panel ids or columns out of range or order; a library or (for
        ``"log1p"``) a count that is negative, NaN or infinite; a weight out of range. On CUDA what
        depends on the data is not looked for, unless KERNOMICS_CHECK=1 is set: a cell with such a
        fault gets genes 0, 1, … and NaN.
    TypeError
        Counts, library or weights that are not floating-point numbers; counts that are not CSR.
    MemoryError
        No memory for the kernel's scratch.
    """
    require_rows("counts", counts)
    require_tensors(cell_ids=cell_ids, library=library, weights=weights)
    require_integers(n_tokens=1 if n_tokens is None else n_tokens, stream=stream)
    require_words(candidates=candidates, transform=transform)
    require_truths(ragged=ragged)
    require_observed(observed)
    require_numbers(target_sum=1.0 if target_sum is None else target_sum)
    _check_options(candidates, transform, target_sum, n_tokens, stream)
    if isinstance(counts, Tensor) and counts.layout != torch.sparse_csr:
        raise TypeError(f"counts have layout {counts.layout}; pass counts.to_sparse_csr()")
    if len(counts.shape) != 2:
        raise ValueError(f"counts have shape {tuple(counts.shape)}; [cells, genes] is needed")
    cells, genes = counts.shape
    if genes >= 2**31:
        raise ValueError(f"counts have {genes:,} genes; fewer than 2³¹ are possible")
    indptr, columns, values = csr_parts(counts, "counts")
    _check_vectors(library, weights, cells, genes)
    if torch.is_grad_enabled():
        for name, tensor in (("counts", values), ("library", library), ("weights", weights)):
            if tensor is not None and tensor.requires_grad:
                raise ValueError(
                    f"{name} requires a gradient, and sample_tokens gives it none; pass "
                    f"{name}.detach()"
                )
    if n_tokens is not None:
        if cell_ids is None or seed is None:
            missing = "cell_ids" if cell_ids is None else "seed"
            raise ValueError(f"{missing} is needed to draw tokens; n_tokens=None draws none")
        cell_ids, seed = require_ids(cell_ids, "cell_ids", cells), require_seed(seed)
    else:
        cell_ids = seed = None
    if observed is not None:
        _check_panels(observed, cells, genes)
        parts = ("panel_id", "mask", "counts")
        named = {f"observed.{part}": getattr(observed, part) for part in parts}
        require_same_device(values, "counts", **named)
    require_same_device(
        values, "counts", cell_ids=cell_ids, seed=seed, library=library, weights=weights,
        **{"counts' row pointers": indptr, "counts' columns": columns},
    )  # fmt: skip
    expressed = candidates == "expressed"
    if n_tokens is None:
        n_tokens = _most_candidates(indptr, genes, observed, expressed)
    exact = torch.float64 if values.dtype == torch.float64 else torch.float32
    gene_ids, tokens, offsets = call(
        torch.ops.kernomics.sample_tokens,
        as_dtype(values, exact),
        indptr,
        columns,
        genes,
        cell_ids,
        seed,
        stream,
        n_tokens,
        None if library is None else library.double().contiguous(),
        None if observed is None else observed.panel_id.contiguous(),
        None if observed is None else observed.mask.contiguous(),
        None if observed is None else observed.counts.contiguous(),
        None if weights is None else _single(weights),
        expressed,
        transform == "log1p",
        0.0 if target_sum is None else as_float(target_sum),
        ragged,
    )
    return (gene_ids, tokens, offsets) if ragged else (gene_ids, tokens)
