"""The history of a run: its records, as they lie in ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from kernomics._arguments import checked
from kernomics._files import bytes_of, json_of
from kernomics.errors import CheckpointError, ConfigError, closest

TIMING = ("cells_per_second", "seconds")
"""Figures that depend on the machine; all others are the same in a repeated run."""


class History(list[dict[str, Any]]):
    """The records of a run, a list of dicts.

    Each has ``step`` (optimiser steps done), ``epoch`` (from 0) and ``split``: ``"train"`` (means
    over the cells of an epoch), ``"validation"``, ``"step"`` (means over some steps),
    ``"skipped"`` (steps passed over, ``first_step`` to ``last_step``), or what the model tells,
    such as the ``"start"`` of YOTO's (how a start's panel was judged).

    A record of an epoch has two digests of the cells drawn, words of 16 letters:
    ``cells_in_order`` is the same where the same cells came in the same order, however they were
    read and whenever the training was stopped; ``cells_any_order`` where they came in any order,
    so that it is the same in all epochs that draw each cell once.

    Attributes
    ----------
    best_epoch, best_value : int, float or None
        Where the monitored figure was best, if early stopping watched it; epoch −1 is the start.
    stopped_early : bool
        Whether training ended before its last epoch.
    """

    @checked
    def __init__(self, records: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(records)
        self.best_epoch: int | None = None
        self.best_value: float | None = None
        self.stopped_early = False

    @classmethod
    @checked
    def read(cls, path: str | Path) -> History:
        """Read a ``metrics.jsonl``; a half-written last line is left out.

        Raises
        ------
        CheckpointError
            If there is no such file, or another line is not valid JSON.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"there is no file {str(path)!r}")
        lines = bytes_of(Path(path)).split(b"\n")
        history = cls()
        for number, line in enumerate(lines[:-1], start=1):
            try:
                record = json_of(line)
                if not isinstance(record, dict):
                    raise ValueError(f"it is no record of a run, but {line[:40]!r}")
                history.append(record)
            except ValueError as error:
                raise CheckpointError(f"{path}, line {number}, is damaged: {error}") from None
        return history

    @checked
    def select(self, split: str) -> History:
        """Return the records of one split."""
        return History(record for record in self if record.get("split") == split)

    @checked
    def column(self, name: str, split: str = "train") -> list[Any]:
        """Return one figure of all records of a split that have it.

        Raises
        ------
        ConfigError
            If none has it.
        """
        records = self.select(split)
        values = [record[name] for record in records if name in record]
        if not values:
            names = dict.fromkeys(key for record in records for key in record)
            raise ConfigError(f"no {split!r} record has {name!r}; {closest(name, names)}")
        return values

    def without_timings(self) -> list[dict[str, Any]]:
        """Return the records without what depends on the machine's speed."""
        return [{k: v for k, v in record.items() if k not in TIMING} for record in self]

    def to_frame(self) -> pd.DataFrame:
        """Return the records as a data frame, one row each."""
        return pd.DataFrame(list(self))
