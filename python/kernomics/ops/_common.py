"""Small checks and conversions that every op shares."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# One stream of random words per purpose; the same constants stand in csrc/common/philox.h.
STREAM_GENE_SCORES = 0
STREAM_TOKENS = 1
STREAM_DROPOUT = 10  # those between are drawn in kernomics.nn.philox

# How the kernels know a dtype: ScalarKind in csrc/common/fields.h.
SCALAR_KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

LIBRARY = torch.library.Library("kernomics", "DEF")


class Report(NamedTuple):
    """The first fault that a CPU kernel found in its data: csrc/cpu/report.h."""

    fault: int  # 0: none
    row: int  # the first bad row
    position: int  # where in it
    value: int  # what was found there
    number: float  # the same where it is no integer
    bad: int  # how many are


class SparseRows(Protocol):
    """Rows as compressed sparse rows, for instance :class:`kernomics.data.Cells`."""

    @property
    def indptr(self) -> Tensor:
        """int64 [rows + 1]."""

    @property
    def indices(self) -> Tensor:
        """int32 or int64 [nnz], ascending in each row, without duplicates."""

    @property
    def values(self) -> Tensor:
        """[nnz]."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""


def address(tensor: Tensor | None) -> int:
    """Return a tensor's address, 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def as_float(number: float) -> float:
    """Return a number as a float, left as it is where torch's compiler calls it a symbol."""
    return number if isinstance(number, float | torch.SymFloat) else float(number)


def as_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in a dtype; asked first, as ``to`` takes 1 µs for nothing."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def require_float(tensor: Tensor, name: str) -> None:
    """Raise ``TypeError`` unless the tensor holds floating-point numbers."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} has dtype {tensor.dtype}; a floating-point dtype is needed")


def require_same_device(reference: Tensor, name: str, **others: Tensor | None) -> None:
    """Raise ``ValueError`` unless all tensors are on the reference's device."""
    device = reference.device
    for other, tensor in others.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(
                f"{other} is on {tensor.device} and {name} on {device}; move one of them"
            )


def csr_parts(x: Tensor | SparseRows, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return int64 row pointers, columns and values of compressed sparse rows.

    Raises
    ------
    ValueError
        If their lengths do not fit each other.
    TypeError
        If a dtype is not one of those that `SparseRows` names.
    """
    if isinstance(x, Tensor):
        indptr, indices, values = x.crow_indices(), x.col_indices(), x.values()
    else:
        indptr, indices, values = x.indptr, x.indices, x.values
    for part, tensor in (("row pointers", indptr), ("columns", indices)):
        if tensor.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"the {part} of {name} have dtype {tensor.dtype}; int64 is needed")
    require_float(values, f"the value tensor of {name}")
    if indptr.shape != (x.shape[0] + 1,) or indices.dim() != 1 or indices.shape != values.shape:
        raise ValueError(
            f"{name} of shape {tuple(x.shape)} has {tuple(indptr.shape)} row pointers, "
            f"{tuple(indices.shape)} columns and {tuple(values.shape)} values; [rows + 1], [nnz] "
            "and [nnz] are needed"
        )
    return as_dtype(indptr, torch.int64).contiguous(), indices.contiguous(), values.contiguous()


def raise_csr_fault(report: Report, name: str, genes: int, hint: str) -> None:
    """Raise for one of the faults of csrc/cpu/csr.h, none for 0 and for other codes.

    The hint says what to do about genes out of range.
    """
    fault, row, position, value, _, count = report
    rows = f"in {count:,} rows, first row {row:,}"
    if fault == 1:
        raise ValueError(
            f"the row pointers of {name} fall or leave its stored entries {rows}, which would run "
            f"from entry {position:,} to {value:,}; build {name} with torch.sparse_csr_tensor"
        )
    if fault == 2:
        raise ValueError(
            f"{name} has columns outside its {genes:,} genes {rows}: entry {position:,} has column "
            f"{value:,}; {hint}"
        )
    if fault == 3:
        raise ValueError(
            f"the columns of {name} do not ascend {rows}: entry {position:,} with column {value:,} "
            "repeats or falls below the one before; sort each row and add up duplicates "
            "(scipy: sum_duplicates)"
        )


def require_seed(seed: object) -> Tensor:
    """Return the seed if it is an int64 tensor (key, step).

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    if not isinstance(seed, Tensor):
        raise TypeError(f"seed is a {type(seed).__name__}; an int64 tensor of two is needed")
    if seed.dtype != torch.int64 or seed.shape != (2,):
        raise ValueError(
            f"seed is {seed.dtype} of shape {tuple(seed.shape)}; int64 (key, step) is needed"
        )
    return seed.contiguous()


def require_ids(ids: Tensor, name: str, rows: int) -> Tensor:
    """Return the rows' ids, contiguous, if they are int64 [rows]; raise ``ValueError`` if not."""
    if ids.dtype != torch.int64 or ids.shape != (rows,):
        raise ValueError(
            f"{name} are {ids.dtype} of shape {tuple(ids.shape)}; int64 [{rows}] is needed"
        )
    return ids.contiguous()


def require_stream(stream: int) -> None:
    """Raise ``ValueError`` unless the stream is one of the 65,536."""
    if not 0 <= stream < 2**16:
        raise ValueError(f"stream = {stream} must lie between 0 and 65535")


def draw_seed(generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw a seed (key, step) from a generator, torch's default one if none is given."""
    where = generator.device if generator is not None else device
    seed = torch.randint(-(2**63), 2**63 - 1, (2,), generator=generator, device=where)
    seed.select(0, 1).zero_()
    return seed if seed.device == device else seed.to(device)
