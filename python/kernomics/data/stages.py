"""`Stages`: genes that become known one group after the other, and which cells show which."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd

from kernomics._arguments import checked, shown, words_of
from kernomics._files import bytes_of, json_of
from kernomics.data.collection import CellCollection
from kernomics.data.genes import mismatch_cause
from kernomics.data.labels import Labels, column
from kernomics.data.readers.inputs import ReadOptions, require_unread
from kernomics.data.rng import Stream, draws_of_names
from kernomics.data.splits import rounded_sizes
from kernomics.data.stage_checks import require_stages
from kernomics.errors import ConfigError, DataError, closest

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = "kernomics stages 1"
PARTS = ("train", "validation", "test")
FRACTIONS = (0.7, 0.1, 0.2)
BASE_SHARE = 0.5


@dataclass(frozen=True)
class Stage:
    """One stage: what it adds to the base genes, and its cells.

    Attributes
    ----------
    name
        What it is called.
    genes
        Its specific genes, which the cells of other stages lack; empty for the first stage.
    train, validation, test
        Names of its cells; none is in two parts or in two stages.
    """

    name: str
    genes: tuple[str, ...]
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """All its cells."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Stages:
    """Genes that become known stage by stage; made by `gene_stages`.

    Attributes
    ----------
    base
        The genes that all cells have.
    stages
        The stages in their order; the first has the base genes alone.
    seed
        By which the cells were divided.
    by
        The obs column by which they were divided into stages instead, or None.
    """

    base: tuple[str, ...]
    stages: tuple[Stage, ...]
    seed: int = 0
    by: str | None = None

    def __post_init__(self) -> None:
        for stage in self.stages:
            if not isinstance(stage, Stage):
                raise DataError(f"stages hold {shown(stage)}: each must be a Stage")
        require_stages(self)

    def __len__(self) -> int:
        return len(self.stages)

    def __repr__(self) -> str:
        told = ", ".join(
            f"{stage.name} ({len(stage.genes):,} genes, {len(stage.cells):,} cells)"
            for stage in self.stages[1:]
        )
        first = self.stages[0]
        return (
            f"Stages: {first.name} ({len(self.base):,} base genes, {len(first.cells):,} cells), "
            f"{told}"
        )

    @property
    def names(self) -> list[str]:
        """The stages' names, in their order."""
        return [stage.name for stage in self.stages]

    @property
    def vocabulary(self) -> list[str]:
        """All genes: those of the base, then those of each stage, so that it grows at its end."""
        return [*self.base, *(gene for stage in self.stages for gene in stage.genes)]

    @property
    def n_known(self) -> list[int]:
        """How many genes of the vocabulary are known after each stage."""
        sizes = np.cumsum([len(stage.genes) for stage in self.stages])
        return (len(self.base) + sizes).tolist()  # type: ignore[no-any-return]

    def group_of_gene(self) -> npt.NDArray[np.int64]:
        """Return the number of the stage that brings each gene of the vocabulary, int64 [V]."""
        sizes = [len(self.base), *(len(stage.genes) for stage in self.stages[1:])]
        return np.repeat(np.arange(len(self)), sizes)

    def counts(self) -> pd.DataFrame:
        """Return a row for each stage: its genes, genes known by then, and cells of each part."""
        known = self.n_known
        rows = [
            {
                "stage": stage.name,
                "genes": len(stage.genes) if i else len(self.base),
                "known": known[i],
                **{part: len(getattr(stage, part)) for part in PARTS},
            }
            for i, stage in enumerate(self.stages)
        ]
        return pd.DataFrame(rows).set_index("stage")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the genes and the cells of all stages, in their order."""
        text = json.dumps([self.base, [_plain(stage) for stage in self.stages]], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    # -- on disk -----------------------------------------------------------------------------------

    @checked
    def save(self, path: str | Path) -> None:
        """Save as a JSON file; one that is there is replaced.

        Parameters
        ----------
        path
            The file, in a directory that exists.

        Raises
        ------
        DataError
            If it cannot be written.
        """
        content = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "counts": self.counts().reset_index().to_dict("records"),
            "seed": self.seed,
            "by": self.by,
            "base": list(self.base),
            "stages": [_plain(stage) for stage in self.stages],
        }
        target = Path(path)
        partial = target.with_name(f"{target.name}.partial")
        try:
            partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
            partial.replace(target)
        except OSError as error:
            raise DataError(f"cannot write the stages to {path}: {error.strerror}") from error

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Stages:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            If it is no such file, or was changed by hand into something that cannot be.
        """
        try:
            saved = json_of(bytes_of(Path(path)))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            found = saved.get("format") if isinstance(saved, dict) else type(saved).__name__
            raise DataError(
                f"{path} holds {found!r}, not {FORMAT!r}: give a file that "
                "kernomics.data.gene_stages(…).save wrote"
            )
        try:
            stages = tuple(
                Stage(_word(one["name"]), *(_words(one[key]) for key in ("genes", *PARTS)))
                for one in saved["stages"]
            )
            by = None if saved["by"] is None else _word(saved["by"])
            found = cls(_words(saved["base"]), stages, int(saved["seed"]), by)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, DataError):
                raise DataError(f"{path}: {error}") from error
            raise DataError(f"{path} lacks part of the stages: {error!r}; make it again") from error
        if saved.get("fingerprint") != found.fingerprint:
            raise DataError(
                f"{path} was changed after it was saved: its fingerprint is not that of what it "
                "holds; make it again with kernomics.data.gene_stages"
            )
        return found


@checked
def gene_stages(
    cells: CellCollection | AnnData | str | Path,
    specific: Mapping[str, Sequence[str]],
    *,
    base: Sequence[str] | None = None,
    base_stage: str = "base",
    by: str | None = None,
    base_share: float = BASE_SHARE,
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
    **reading: Unpack[ReadOptions],
) -> Stages:
    """Divide genes and cells into stages, for training that meets some genes later than others.

    The base genes are in every stage. The specific genes of a stage are in its cells alone: in
    the cells of other stages they count as not measured, not as zero.

    Parameters
    ----------
    cells
        Cells of any source; several data sets are joined by `kernomics.data.concat` first.
    specific
        Per stage after the first, in their order, its genes.
    base
        The base genes; by default all that are in no list of `specific`.
    base_stage
        What the first stage is called.
    by
        obs column whose values name each cell's stage, such as ``"dataset"``; by default the
        cells are divided at random: `base_share` of them to the first stage, the rest equally.
    base_share
        The first stage's share of the cells.
    fractions
        Of each stage's cells, the shares to train, to validate and to test on.
    seed
        Of the division. Which cell goes where hangs on its name and on how many cells there are,
        not on their order.
    **reading
        How to read an AnnData or a file, as in `kernomics.data.ReadOptions`: as for the training.

    Returns
    -------
    Stages
        Save them with ``save``: they are what makes two trainings comparable.

    Raises
    ------
    DataError
        If a gene is in two lists, is not in the data, or is both base and specific; if a stage has
        no genes or no cells.
    ConfigError
        If a share makes no sense.
    """
    if isinstance(cells, CellCollection):
        require_unread(reading)
    else:
        cells = CellCollection.from_anndata(cells, **reading)
    lists = {str(name): words_of(f"specific[{name!r}]", genes) for name, genes in specific.items()}
    if not lists:
        raise DataError("specific names no stage: give each stage after the first a list of genes")
    if base_stage in lists:
        raise DataError(
            f"specific has a stage {base_stage!r}, which is what the first stage is called: "
            "choose another name for it, or for the first with base_stage"
        )
    _require_known([gene for genes in lists.values() for gene in genes], "specific", cells)
    if base is None:
        taken = {gene for genes in lists.values() for gene in genes}
        named = [str(gene) for gene in cells.genes if gene not in taken]
    else:
        named = words_of("base", base)
        _require_known(named, "base", cells)
    _require_shares(base_share, fractions)
    names = [base_stage, *lists]
    of_cell = (
        _drawn(cells, len(names), base_share, seed) if by is None else _by_column(cells, by, names)
    )
    found = []
    for i, name in enumerate(names):
        rows = np.flatnonzero(of_cell == i)
        found.append(Stage(name, tuple(lists.get(name, ())), *_parts(cells, rows, fractions, seed)))
    return Stages(tuple(named), tuple(found), seed, by)


def _drawn(cells: CellCollection, n: int, share: float, seed: int) -> npt.NDArray[np.int64]:
    """Return each cell's stage, int64 [n_cells]."""
    if cells.n_cells < n:
        raise DataError(f"{cells.n_cells:,} cells leave some of {n} stages without any")
    sizes = rounded_sizes(cells.n_cells, [share, *([(1 - share) / (n - 1)] * (n - 1))])
    found = np.empty(cells.n_cells, np.int64)
    order = np.argsort(draws_of_names(cells.cell_names, seed, Stream.STAGES), kind="stable")
    found[order] = np.repeat(np.arange(n), sizes)
    return found


def _by_column(cells: CellCollection, by: str, names: Sequence[str]) -> npt.NDArray[np.int64]:
    label = Labels.from_series(column(cells.obs, by), by, kind="categorical")
    without = np.flatnonzero(~label.labelled)
    if without.size:
        raise DataError(
            f"{without.size:,} of {cells.n_cells:,} cells have no {by!r}, first cell "
            f"{cells.cell_names[without[0]]!r}: each must name its stage"
        )
    other = [value for value in label.categories if value not in names]
    if other:
        raise DataError(
            f"{len(other):,} of the {len(label.categories):,} values of {by!r} are no stage, first "
            f"{other[0]!r}; the stages are {', '.join(map(repr, names))}: rename them, or leave "
            "those cells out"
        )
    place = np.array([names.index(value) for value in label.categories], np.int64)
    found: npt.NDArray[np.int64] = place[label.values]
    return found


def _parts(
    cells: CellCollection, rows: npt.NDArray[np.int64], fractions: Sequence[float], seed: int
) -> list[tuple[str, ...]]:
    """Divide a stage's cells; within a part they keep their order."""
    names = cells.cell_names[rows]
    order = np.argsort(draws_of_names(names, seed, Stream.STAGE_PARTS), kind="stable")
    part = np.empty(len(rows), np.int64)
    part[order] = np.repeat(np.arange(len(PARTS)), rounded_sizes(len(rows), fractions))
    return [tuple(map(str, names[part == i])) for i in range(len(PARTS))]


def _require_shares(base_share: float, fractions: Sequence[float]) -> None:
    if not 0 < base_share < 1:
        raise ConfigError(
            f"base_share is {base_share}: it is the first stage's share of the cells, above 0 and "
            "below 1"
        )
    if len(fractions) != len(PARTS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(
            f"fractions are {tuple(fractions)}: three shares of 0 or more that sum to 1 are "
            "needed, to train, to validate and to test on"
        )
    if fractions[0] == 0:
        raise ConfigError("fractions leave nothing to train on; the first must be above 0")


def _require_known(genes: Sequence[str], what: str, cells: CellCollection) -> None:
    known = set(map(str, cells.genes))
    absent = [gene for gene in genes if gene not in known]
    if absent:
        cause = mismatch_cause(genes, cells.genes, len(genes) - len(absent), cells.var)
        raise DataError(
            f"{len(absent):,} of the {len(genes):,} genes of {what} are not in the data, first "
            f"{absent[0]!r}{cause or f'; {closest(absent[0], cells.genes)}'}"
        )


def _word(saved: Any) -> str:
    if not isinstance(saved, str):
        raise TypeError(f"{shown(saved)} where a name is needed")
    return saved


def _words(saved: Any) -> tuple[str, ...]:
    if not isinstance(saved, list):
        raise TypeError(f"{shown(saved)} where a list of names is needed")
    return tuple(_word(word) for word in saved)


def _plain(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "genes": list(stage.genes),
        **{part: list(getattr(stage, part)) for part in PARTS},
    }
