"""Reads past the end of an array, on purpose: what a sanitized build must end the process for."""

import numpy as np

import kernomics.ops
from kernomics.ops._native import cpu

assert "sanitized" in str(cpu().__file__), kernomics.ops.build_info()
indptr = np.array([0, 1000])
indices, values = np.zeros(1, np.int32), np.zeros(1, np.float32)
genes, sums = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
cpu().row_words(1, *(array.ctypes.data for array in (indptr, indices, values, genes, sums)))
print("nothing was seen")
