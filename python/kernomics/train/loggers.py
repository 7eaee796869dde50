"""Where the records of a run go: JSON lines always, TensorBoard or a Lightning logger if wanted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kernomics.errors import ConfigError
from kernomics.train import atomic as storage


@runtime_checkable
class Logger(Protocol):
    """What :func:`kernomics.train.fit` asks of a logger."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one record: ``step``, ``epoch``, ``split`` and figures by name."""

    def config(self, config: Mapping[str, Any]) -> None:
        """Take the configuration, once, before the first record."""

    def close(self) -> None:
        """Finish; no record follows."""


class JSONLines:
    """Append each record as one line of JSON to a file.

    Parameters
    ----------
    path
        The file.
    keep
        How many lines of an existing file to keep; what follows them (records of steps that a
        resumed run will do again, or a half-written line) is cut off.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        self.path = path
        self.kept = _first_lines(path, keep)
        storage.replace_file(path, b"".join(self.kept))
        self._file = path.open("ab")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record; the line is handed to the system at once."""
        text = json.dumps(storage.jsonable(record), ensure_ascii=False, allow_nan=False)
        self._file.write((text + "\n").encode())
        self._file.flush()

    def config(self, config: Mapping[str, Any]) -> None:
        """Do nothing: the run directory holds the configuration."""

    def sync(self) -> None:
        """Flush the file to the disk, so that a checkpoint may count on its lines."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Write each figure of the records as a TensorBoard scalar named ``split/figure``.

    Parameters
    ----------
    directory
        Where the event files go.

    Raises
    ------
    ConfigError
        If TensorBoard is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"TensorBoard is not installed ({error}): pip install 'kernomics[tensorboard]'"
            ) from None
        self._writer: Any = SummaryWriter(str(directory))

    def log(self, record: Mapping[str, Any]) -> None:
        """Write the figures of one record."""
        for name, value in figures(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration as text."""
        text = json.dumps(storage.jsonable(config), indent=1)
        self._writer.add_text("config", f"```\n{text}\n```", 0)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class Lightning:
    """Pass the records to any logger of Lightning.

    Parameters
    ----------
    logger
        An object with Lightning's ``log_metrics``, ``log_hyperparams`` and ``finalize``.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, record: Mapping[str, Any]) -> None:
        """Pass the figures of one record."""
        self._logger.log_metrics(figures(record), step=record["step"])

    def config(self, config: Mapping[str, Any]) -> None:
        """Pass the configuration."""
        self._logger.log_hyperparams(dict(config))

    def close(self) -> None:
        """Tell the logger that the run is over."""
        self._logger.finalize("success")


def opened(loggers: Sequence[Any], log_dir: str | Path | None) -> list[Logger]:
    """Return the loggers of a training: those given, and TensorBoard's for a directory.

    Parameters
    ----------
    loggers
        Of `Logger`'s three methods, or of Lightning, which are wrapped.
    log_dir
        Where TensorBoard's event files go; None for none.

    Raises
    ------
    ConfigError
        For what is neither kind of logger, or without TensorBoard.
    """
    if isinstance(loggers, str) or not isinstance(loggers, Sequence):
        raise ConfigError(f"loggers is {loggers!r}: give a list of loggers; log_dir is a directory")
    found: list[Logger] = []
    for logger in loggers:
        if isinstance(logger, Logger) and not isinstance(logger, type):
            found.append(logger)
        elif hasattr(logger, "log_metrics") and hasattr(logger, "log_hyperparams"):
            found.append(Lightning(logger))
        else:
            raise ConfigError(
                f"loggers holds a {type(logger).__name__}: a logger has the methods log, config "
                "and close (kernomics.train.Logger), or is a Lightning logger"
            )
    if log_dir is not None:
        found.append(TensorBoard(log_dir))
    return found


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record, named ``split/figure``."""
    return {
        f"{record['split']}/{name}": float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }


def _first_lines(path: Path, count: int) -> list[bytes]:
    if count == 0 or not path.exists():
        return []
    with path.open("rb") as file:
        lines = [line for line, _ in zip(file, range(count), strict=False)]
    return [line for line in lines if line.endswith(b"\n")]
