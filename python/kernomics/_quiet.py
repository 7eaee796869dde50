"""Silence for a warning that a caller inside the package reports by other means."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_numbers = itertools.count()


@contextmanager
def quietly(category: type[Warning] = Warning, message: str = "") -> Iterator[None]:
    """Ignore warnings of a category whose message matches, while the block runs.

    ``warnings.catch_warnings`` puts the process's whole list of filters back as it was found, so
    that two threads leave each other's filters behind. This takes out the one filter it put in.
    """
    # A comment in the pattern tells the filter from all others; the pattern matches any module.
    own = f"(?#kernomics {next(_numbers)})"
    warnings.filterwarnings("ignore", message=message, category=category, module=own)
    try:
        yield
    finally:
        for item in list(warnings.filters):
            if getattr(item[3], "pattern", None) == own:
                warnings.filters.remove(item)  # type: ignore[attr-defined]
