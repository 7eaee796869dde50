"""What takes a while says so on stderr, and afterwards how long it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stage(what: str, shown: bool = True) -> Iterator[None]:
    """Name what is done now, such as ``"scoring DE (Wilcoxon)"``, and its seconds at the end."""
    if not shown:
        yield
        return
    begun = time.monotonic()
    print(f"{what} …", end=" ", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        print("stopped", file=sys.stderr, flush=True)
        raise
    print(f"{time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
