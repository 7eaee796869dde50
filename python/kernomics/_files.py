"""Files that others may have written: read as what they say they are, or refused in words."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any


def json_of(data: bytes | str) -> Any:
    """Read JSON; whatever is wrong with it, nesting without end too, is a ``ValueError``."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("its lists and objects are nested too deeply to be read") from None


def bytes_of(path: Path, size: int | None = None, *, within: Path | None = None) -> bytes:
    """Read a file of `size` bytes.

    Raises
    ------
    OSError
        If there is none, or it is no file: a pipe, which would be waited for, or a device.
    ValueError
        If it is of another size, which is seen before it is read; or if it is a link out of the
        directory `within`.
    """
    if within is not None and not path.resolve().is_relative_to(within.resolve()):
        raise ValueError(f"is a link to {path.resolve()}, outside of the directory")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            what = "Is a directory" if stat.S_ISDIR(found.st_mode) else "it is no regular file"
            raise OSError(errno.EINVAL, what, str(path))
        if size is not None and found.st_size != size:
            raise ValueError(f"has {found.st_size:,} bytes instead of {size:,}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)
