"""The directory of an unfinished conversion: what is planned, what is done, what is locked.

It lies beside the output as ``.NAME.kernomics-convert``. The output is made in it, and only when it
is whole and has been read back does one rename give it its name.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernomics._files import bytes_of, json_of
from kernomics.errors import ConfigError, DataError

SUFFIX = ".kernomics-convert"


class Work:
    """An unfinished conversion to `out`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out.absolute().parent / f".{out.name}{SUFFIX}"
        self.result = self.path / "result"
        self._lock: int | None = None

    # -- beginning and continuing ------------------------------------------------------------------

    def begin(self, plan: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Make the directory, or find it as it was left; refuse what would destroy anything."""
        if overwrite and self.path.is_dir():
            self._hold()
            self._clear()
        found = self._read("plan") if self.path.is_dir() else None
        placed = found is not None and self.placed
        if found is not None and not resume:
            raise ConfigError(
                f"an unfinished conversion to {self.out} is there: continue it with resume=True, "
                "or begin anew with overwrite=True"
            )
        if self.out.exists() and not overwrite and not placed and found is None:
            raise ConfigError(
                f"{self.out} already exists; choose another out, or replace it with overwrite=True"
            )
        if found is not None:
            require_same(plan, found, self.out)
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.out} cannot be written: {error}; choose another out, or make its directory "
                "writable"
            ) from error
        self._hold()
        if found is None:
            self._clear()
            if overwrite:
                self.write("replace", {"allowed": True})
            self.write("plan", plan)

    @property
    def begun(self) -> bool:
        """Whether a conversion was begun, and has not come to its end."""
        return (self.path / "plan.json").exists()

    def _hold(self) -> None:
        """Take the lock, which ends with the process."""
        if self._lock is not None:
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise ConfigError(
                f"another process is converting to {self.out}: wait for it, or stop it"
            ) from error
        self._lock = descriptor

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- notes of what is done ---------------------------------------------------------------------

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Note something, in one step; everything written before is on the disk by then."""
        path, new = self.path / f"{name}.json", self.path / f"{name}.json.new"
        with new.open("w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_directory(self.path)

    def require_noted(self, name: str, value: Mapping[str, Any]) -> None:
        """Note something, or refuse to continue where another thing was noted."""
        found = self._read(name)
        if found is None:
            self.write(name, value)
            return
        require_same(value, found, self.out)

    def read(self, name: str) -> dict[str, Any]:
        """Return what was noted; nothing if nothing was."""
        return self._read(name) or {}

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json_of(bytes_of(self.path / f"{name}.json"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path / f'{name}.json'} of a conversion under way cannot be read: {error}; "
                f"remove {self.path} and begin again"
            ) from error
        return found

    # -- the end -----------------------------------------------------------------------------------

    @property
    def placed(self) -> bool:
        """Whether the output has its name already, and only the directory is left."""
        return bool(self.read("place")) and not self.result.exists() and self.out.exists()

    def place(self) -> None:
        """Give the output its name, which nothing else has got meanwhile."""
        if self.out.exists() and not self.read("replace"):
            raise ConfigError(
                f"{self.out} was made by something else while cells were converted to it: move it "
                "away and continue with resume=True"
            )
        self.write("place", {"whole": True})
        if self.out.exists() and (self.out.is_dir() or self.result.is_dir()):
            old = self.path / "replaced"
            shutil.rmtree(old, ignore_errors=True)
            self.out.rename(old)
        self.result.replace(self.out)
        sync_directory(self.out.absolute().parent)

    def remove(self) -> None:
        """Remove the directory, the plan last."""
        self._clear()
        self.path.rmdir()
        self.release()

    def _clear(self) -> None:
        """Empty the directory: without a plan, what is left counts for nothing."""
        last = ("place.json", "plan.json")
        for entry in sorted(self.path.iterdir(), key=lambda entry: (entry.name in last, entry)):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def require_same(plan: Mapping[str, Any], found: Mapping[str, Any], out: Path) -> None:
    """Refuse to continue a conversion of other cells, or with other options."""
    other = [name for name in {**plan, **found} if plan.get(name) != found.get(name)]
    if other:
        told = ", ".join(f"{n} ({found.get(n)!r} then, {plan.get(n)!r} now)" for n in other)
        raise ConfigError(
            f"the unfinished conversion to {out} was begun otherwise: {told}; give what was given "
            "then, or begin anew with overwrite=True"
        )


def sync_directory(path: Path) -> None:
    """Flush a directory, so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(out: Path, needed: int = 0) -> Iterator[None]:
    """Say what to do when the disk is full; nothing is lost by then."""
    try:
        yield
    except OSError as error:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        text = str(error)
        if error.errno not in full and not any(f"errno = {code}" in text for code in full):
            raise
        room = f" about {needed / 1e9:,.1f} GB in all are needed," if needed else ""
        try:
            free = f" {shutil.disk_usage(out.absolute().parent).free / 1e9:,.1f} GB are free;"
        except OSError:
            free = ""
        raise DataError(
            f"the disk of {out} is full:{room}{free} free some space and continue with "
            f"resume=True, or write elsewhere; nothing was given the name {out.name!r}"
        ) from error
