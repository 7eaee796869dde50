"""The directory of a run: who may write there, what lies where, and whether it may be resumed."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from kernomics._arguments import checked
from kernomics._files import bytes_of, json_of
from kernomics._version import __version__
from kernomics._warnings import warn
from kernomics.errors import CheckpointError, ConfigError, closest
from kernomics.train import atomic as storage
from kernomics.train import checkpoint
from kernomics.train.config import COSMETIC, config_hash, differences
from kernomics.train.distributed import together

RUN = "kernomics run"
CONFIG = "config.json"
LOCK = ".lock"


class DirectoryLock:
    """Keep other processes from using a directory, until closed or the process ends.

    Within one process a directory may be locked several times; it is free when all are closed.
    """

    # By real path: the open lock file and how many locks of this process share it.
    _held: ClassVar[dict[str, tuple[int, int]]] = {}

    def __init__(self, path: Path) -> None:
        self._key = os.path.realpath(path)
        self._open = True
        if self._key in self._held:
            descriptor, count = self._held[self._key]
            self._held[self._key] = (descriptor, count + 1)
            return
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise CheckpointError(
                f"{path} is in use by another process ({holder or 'unknown'}): wait until it "
                "ends, or choose another directory"
            ) from None
        except OSError as error:
            warn(
                f"{path} cannot be locked ({error.strerror}): make sure that no other process "
                "uses it"
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        self._held[self._key] = (descriptor, 1)

    def close(self) -> None:
        """Release this lock."""
        if not self._open:
            return
        self._open = False
        descriptor, count = self._held.pop(self._key)
        if count > 1:
            self._held[self._key] = (descriptor, count - 1)
        else:
            os.close(descriptor)

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RunDirectory:
    """Where one run keeps its configuration, history, checkpoints, model and results.

    Make one with :meth:`create` to write to it, or :meth:`open` to read it.

    Attributes
    ----------
    path : Path
        The directory.
    writes : bool
        Whether this process writes here: of several ranks the first one does.
    config : dict
        The run's configuration.
    metrics, results, split, panel, report : Path
        The history ``metrics.jsonl``, the figures on the test cells ``results.json``, which cells
        were for what ``split.json``, the selected genes ``panel.csv``, and ``report.html``.
    checkpoints, model, plots : Path
        The directories of these.
    """

    @checked
    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        lock: DirectoryLock | None = None,
        *,
        writes: bool = True,
    ) -> None:
        self.path, self.writes = path, writes
        self.config = config
        self._lock = lock
        self.metrics, self.results = path / "metrics.jsonl", path / "results.json"
        self.split, self.panel = path / "split.json", path / "panel.csv"
        self.report, self.plots = path / "report.html", path / "plots"
        self.checkpoints, self.model = path / "checkpoints", path / "model"

    @classmethod
    @checked
    def create(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        ignore: Collection[str] = COSMETIC,
    ) -> RunDirectory:
        """Begin a run in a directory, or continue the one that is there.

        Parameters
        ----------
        path
            The directory; made if missing.
        config
            The whole configuration of the run; may be nested.
        resume
            Continue the run that is there, if it has the same configuration, but for a larger
            ``train.max_epochs``, which `fit` accepts or refuses.
        overwrite
            Delete the run that is there, with everything in its directory, and begin anew.
        ignore
            Names of settings that may differ on resuming.

        Returns
        -------
        RunDirectory
            Locked against other processes until :meth:`close` or the end of the process. Of
            several ranks that train together the first one makes and locks it for all.

        Raises
        ------
        ConfigError
            If both `resume` and `overwrite` are given, or the configuration differs.
        CheckpointError
            If the directory holds something else, another run that is neither resumed nor
            overwritten, no run to resume, or is in use.
        """
        path = Path(path)
        if resume and overwrite:
            raise ConfigError("resume and overwrite cannot be combined: choose one")
        with together() as ranks:
            made = None
            if ranks.first:
                made = cls._create(path, config, resume, overwrite, ignore)
            found = ranks.told(None if made is None else made.config)
        return cls(path, found, writes=False) if made is None else made

    @classmethod
    def _create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        resume: bool,
        overwrite: bool,
        ignore: Collection[str],
    ) -> RunDirectory:
        refuse_foreign(path)
        if resume and not (path / CONFIG).exists():
            raise CheckpointError(no_run(path))
        path.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(path)
        try:
            if (path / CONFIG).exists() and not overwrite:
                saved = _read_config(path)
                if not resume:
                    refuse_held(path)
                _refuse_differing(path, saved, config, ignore)
                return cls(path, saved["config"], lock)
            if overwrite:
                _clear(path)
            plain: dict[str, Any] = storage.jsonable(config)
            content = {
                "kind": RUN,
                "kernomics": __version__,
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": sys.argv,
                "hash": config_hash(plain, ignore),
                "config": plain,
            }
            storage.write_json(path / CONFIG, content)
            return cls(path, plain, lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    @checked
    def open(cls, path: str | Path) -> RunDirectory:
        """Open an existing run for reading; it is not locked.

        Parameters
        ----------
        path
            The directory.

        Raises
        ------
        CheckpointError
            If it does not hold a run.
        """
        return cls(Path(path), _read_config(Path(path))["config"])

    def record(self, config: Mapping[str, Any]) -> None:
        """Write what a continuation for more epochs has changed in the configuration."""
        plain: dict[str, Any] = storage.jsonable(config)
        if plain == self.config or not self.writes:
            return
        content = _read_config(self.path)
        content |= {"hash": config_hash(plain), "config": plain}
        storage.write_json(self.path / CONFIG, content)
        self.config = plain

    def close(self) -> None:
        """Let other processes use the directory."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_run(path: str | Path | None) -> None:
    """Refuse to resume where nothing was begun: no configuration, history or checkpoints."""
    if path is None:
        raise ConfigError("resume=True needs the run_dir to resume from")
    begun = (CONFIG, "metrics.jsonl", "checkpoints")
    if not any((Path(path) / name).exists() for name in begun):
        raise CheckpointError(no_run(Path(path)))


def no_run(path: Path) -> str:
    """Say that there is no run to resume, and which there are beside it."""
    beside = path.absolute().parent
    runs = [found.parent.name for found in sorted(beside.glob(f"*/{CONFIG}"))]
    near = f"; {closest(path.name, runs)}" if runs else ""
    return (
        f"there is no run in {path} to resume{near}; leave out resume=True (--resume) to start one"
    )


def refuse_foreign(path: Path) -> None:
    """Refuse a directory that holds something, but not a run; nothing is touched."""
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is a file: choose another name for the run directory")
    if not path.exists():
        return
    names = sorted(entry.name for entry in path.iterdir() if entry.name != LOCK)
    # A kill while config.json was first written leaves its temporary file alone in there.
    names = [name for name in names if not name.startswith(f".{CONFIG}{storage.TEMPORARY}")]
    if names:
        if CONFIG not in names:
            raise CheckpointError(
                f"{path} is not a kernomics run: it has no {CONFIG} but holds {len(names):,} "
                f"{'entry' if len(names) == 1 else 'entries'}, first {names[0]!r}; nothing was "
                "changed, choose another directory"
            )
        _read_config(path)


def refuse_held(path: Path) -> None:
    """Refuse a directory that holds a run, which is neither continued nor deleted."""
    if (path / CONFIG).exists():
        raise CheckpointError(
            f"{path} already holds a run: {_contents(path, _read_config(path))}; continue a "
            "training with resume=True, delete it with overwrite=True, or choose another directory"
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json_of(bytes_of(path / CONFIG))
    except OSError as error:
        raise CheckpointError(
            f"{path} is not a kernomics run: {CONFIG} cannot be read ({error.strerror})"
        ) from None
    except ValueError as error:
        raise CheckpointError(
            f"{path / CONFIG} is not valid JSON ({error}): if this is a kernomics run, remove "
            "the directory by hand"
        ) from None
    if not isinstance(content, dict) or content.get("kind") != RUN:
        raise CheckpointError(
            f"{path} is not a kernomics run: its {CONFIG} was not written by kernomics; nothing "
            "was changed, choose another directory"
        )
    if not isinstance(content.get("config"), dict):
        raise CheckpointError(
            f"{path / CONFIG} is damaged: it holds no config, but {sorted(content)}; if this is a "
            "kernomics run, remove the directory by hand"
        )
    return content


def _refuse_differing(
    path: Path, saved: Mapping[str, Any], config: Mapping[str, Any], ignore: Collection[str]
) -> None:
    found = differences(saved["config"], config, ignore)
    if differences(saved["config"], config, {*ignore, "max_epochs"}):  # epochs alone: see `fit`
        raise ConfigError(
            f"{path} cannot be resumed: {len(found)} settings differ: "
            + "; ".join(found)
            + "; use the run's own settings, overwrite=True, or another directory"
        )


def _contents(path: Path, saved: Mapping[str, Any]) -> str:
    steps = checkpoint.list_checkpoints(path / "checkpoints")
    newest = f", the newest {steps[-1].name}" if steps else ""
    model = "a saved model" if (path / "model").is_dir() else "no saved model"
    return f"begun {saved.get('created')}, {len(steps)} checkpoints{newest}, {model}"


def _clear(path: Path) -> None:
    """Delete what is in a run directory; its config last, so that it stays known as a run."""
    entries = [entry for entry in path.iterdir() if entry.name != LOCK]
    for entry in sorted(entries, key=lambda entry: entry.name == CONFIG):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
