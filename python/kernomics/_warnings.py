"""Warnings: told of whoever called the package, or kept silent inside it."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_numbers = itertools.count()
_PACKAGE = str(Path(__file__).parent)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of the line outside the package from which it was called, however deep this is in it.

    What torch puts between the two, such as the wrapper of `torch.inference_mode`, is passed over.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_inside(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_inside(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return frame.f_code.co_filename.startswith(_PACKAGE) or module.split(".")[0] == "torch"


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
