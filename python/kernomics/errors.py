"""Every error that kernomics raises on purpose, and the helper that suggests names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KernomicsError(ValueError):
    """Base of all errors raised by kernomics; each says what, where, how many and the remedy."""


class DataError(KernomicsError):
    """The cells, genes or labels given cannot be used as they are."""


class ConfigError(KernomicsError):
    """A parameter, or a combination of parameters, makes no sense."""


class CheckpointError(KernomicsError):
    """A saved model, checkpoint or run directory is missing, damaged or not the one expected."""


class TrainingError(KernomicsError):
    """A training run had to stop, for example because its loss became NaN."""


def percent(share: float) -> str:
    """Return a share from 0 to 1 in whole percent, 0% for none and 100% for all alone."""
    if 0 < share < 0.005:
        return "less than 1%"
    if 0.995 <= share < 1:
        return "more than 99%"
    return f"{share:.0%}"


def closest(name: str, options: Iterable[object], n: int = 3) -> str:
    """Describe the options nearest to a name that was not found."""
    names = [str(option) for option in options]
    if not names:
        return "there are none"
    near = difflib.get_close_matches(name, names, n=n, cutoff=0.4)
    if near:
        return "closest: " + ", ".join(repr(match) for match in near)
    shown = ", ".join(repr(option) for option in names[:10])
    return f"there are: {shown}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")
