"""Words mixed to the last bit: the finaliser of SplitMix64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

_SHIFTS = [np.uint64(shift) for shift in (30, 27, 31)]
_FACTORS = [np.uint64(factor) for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)]


def mixed(x: Words) -> Words:
    """Return a word for each word, every bit of which depends on all of that one's; one to one."""
    x = (x ^ (x >> _SHIFTS[0])) * _FACTORS[0]
    x = (x ^ (x >> _SHIFTS[1])) * _FACTORS[1]
    return x ^ (x >> _SHIFTS[2])
