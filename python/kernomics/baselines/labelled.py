"""What the baselines with a classifier check of labelled cells, and make of their counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from kernomics.errors import ConfigError, DataError


def checked_codes(
    counts: Any, labels: ArrayLike, n_genes: int, n_classes: int | None = None
) -> tuple[NDArray[np.int64], int]:
    """Check what a baseline's ``train`` was given; see `LabelledCells.from_counts`."""
    codes = np.asarray(labels)
    if codes.shape != (counts.shape[0],):
        raise DataError(f"{codes.size:,} labels were given for {counts.shape[0]:,} cells")
    if codes.dtype.kind not in "iu":
        raise DataError(
            f"labels must be integer class codes, found dtype {codes.dtype}; for names, take "
            "the codes of pandas.Categorical(names)"
        )
    if not 1 <= n_genes <= counts.shape[1]:
        raise ConfigError(
            f"a panel of {n_genes} genes was asked for, from {counts.shape[1]:,} genes"
        )
    labelled = codes >= 0
    found = np.unique(codes[labelled])
    if found.size < 2:
        raise DataError(
            f"a classifier needs two classes; found {found.size} among "
            f"{int(labelled.sum()):,} labelled of {codes.size:,} cells"
        )
    most = int(found[-1]) + 1
    if n_classes is not None and n_classes < most:
        raise ConfigError(f"n_classes is {n_classes}, but the labels go up to {most - 1}")
    return codes.astype(np.int64), n_classes or most


def log1p(counts: Any) -> sparse.csr_matrix:
    """Return log(1 + count), the networks' input, as float32 CSR without stored zeros."""
    values = sparse.csr_matrix(counts, dtype=np.float32, copy=True)
    values.sum_duplicates()
    values.eliminate_zeros()
    np.log1p(values.data, out=values.data)
    return values
