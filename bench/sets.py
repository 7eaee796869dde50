"""The data sets of the YOTO benchmark: which labels are predicted, and how cells are split."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from bench.machine import ROOT
from kernomics.data import CellCollection, Labels, Split, make_split

FRACTIONS = (0.7, 0.1, 0.2)
SMALLEST_CLASS = 20  # cells; the cells of rarer classes count as unlabelled
SMOKE_CELLS, SMOKE_GENES, SMOKE_CLASS = 500, 250, 8


@dataclass(frozen=True)
class DataSet:
    """One row of the benchmark.

    Attributes
    ----------
    title
        For the tables.
    file
        Name of the ``.h5ad`` file.
    labels
        obs columns that are predicted, each as classes.
    groups
        obs column no value of which is in two parts; None splits within each class of the first
        label.
    no_label
        Class of the first label that means "unlabelled".
    """

    title: str
    file: str
    labels: tuple[str, ...]
    groups: str | None = None
    no_label: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return what decides cells, labels and split."""
        said = dataclasses.asdict(self) | {"smallest_class": SMALLEST_CLASS, "parts": FRACTIONS}
        del said["title"]
        return said


MAIN_SETS = {
    "pbmc3k": DataSet("PBMC 3k", "pbmc3k", ("cell_type",), no_label="unassigned"),
    "zheng": DataSet("Zheng PBMC, sorted", "zheng_pbmc_facs", ("cell_type",)),
    "zheng_2": DataSet("Zheng PBMC, two tasks", "zheng_pbmc_facs", ("cell_type", "subpop")),
    "paul15": DataSet("Paul bone marrow", "paul15_bone_marrow", ("cluster",)),
    "kang_2": DataSet("Kang, two tasks", "kang_ctrl_8donors_hvg", ("cell_type", "donor")),
    "kang": DataSet("Kang, by donor", "kang_ctrl_8donors_hvg", ("cell_type",), groups="donor"),
    "onek1k": DataSet("OneK1K, by donor", "onek1k_40donors_1000g", ("cell_type",), groups="indiv"),
    "oligo_2": DataSet(
        "Mouse oligodendrocytes, two tasks", "mouse_oligo_marques", ("cell_type", "region")
    ),
}
FINE_AND_COARSE_SETS = {
    "paul15_2": DataSet(
        "Paul bone marrow, fine and coarse", "paul15_bone_marrow", ("cluster", "cell_type")
    ),
    "pancreas_2": DataSet(
        "Mouse pancreas, fine and coarse",
        "mouse_pancreas_endo_hvg",
        ("cell_type", "clusters.coarse"),
    ),
}
"""One label divides the classes of the other; for the experiment with few labels alone."""

SETS = MAIN_SETS | FINE_AND_COARSE_SETS
MANY_GENES_SETS = {"marrow": DataSet("Human bone marrow", "human_bone_marrow", ("cluster",))}
"""Cells of 27,899 genes, which a TxFM of 1,000 is fine-tuned on."""
ONE_LABEL_SETS = {
    "oligo": DataSet("Mouse oligodendrocytes", "mouse_oligo_marques", ("cell_type",)),
    "pancreas": DataSet("Mouse pancreas", "mouse_pancreas_endo_hvg", ("cell_type",)),
}
"""For TxFM, whose representations are judged by one label."""
ALL_SETS = SETS | MANY_GENES_SETS | ONE_LABEL_SETS


def data_folder() -> Path:
    """Return the folder of real cells: KERNOMICS_DATA, or shared/data beside the checkout."""
    return Path(os.environ.get("KERNOMICS_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True, eq=False)
class Problem:
    """One data set with one split: what a method is given, and what it is judged on.

    Attributes
    ----------
    cells
        All cells; their labels are those that may be learnt.
    counts
        The same counts, float32 CSR [cells, genes].
    split
        Which cells serve for what. Genes are chosen on its training cells alone.
    seed
        Of the split, and of all that is random in a method.
    """

    cells: CellCollection
    counts: sparse.csr_matrix
    split: Split
    seed: int

    @property
    def tasks(self) -> tuple[str, ...]:
        """The labels to predict."""
        return tuple(self.cells.labels)

    @cached_property
    def train_counts(self) -> sparse.csr_matrix:
        """Counts of the training cells, CSR."""
        return self.counts[self.split.train]

    @cached_property
    def test_counts(self) -> sparse.csr_matrix:
        """Counts of the test cells, CSR."""
        return self.counts[self.split.test]

    def codes(self, task: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a label of some cells, −1 where there is none."""
        values: NDArray[np.int64] = self.cells.labels[task].values[rows]
        return values

    def with_labels(self, labels: Mapping[str, Labels], split: Split | None = None) -> Problem:
        """Return the same cells with other labels, and perhaps another split."""
        cells = self.cells.with_labels(labels)
        return Problem(cells, self.counts, split or self.split, self.seed)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A data set in memory."""

    what: DataSet
    cells: CellCollection
    counts: sparse.csr_matrix

    def problem(self, seed: int) -> Problem:
        """Split the cells, 70 % to learn from, 10 % to watch and 20 % to judge by."""
        first = self.cells.labels[self.what.labels[0]]
        groups = None
        if self.what.groups is not None:
            column = self.cells.obs[self.what.groups]
            groups = Labels.from_series(column, self.what.groups, kind="categorical")
        with warnings.catch_warnings():
            # A class of 20 cells is in every part; a smaller one of a smoke run need not be.
            warnings.simplefilter("ignore", UserWarning)
            split = make_split(
                self.cells.n_cells,
                how="stratified" if groups is None else "group",
                fractions=FRACTIONS,
                labels=first if groups is None else None,
                groups=groups,
                seed=seed,
            )
        return Problem(self.cells, self.counts, split, seed)


def load(name: str, *, smoke: bool = False) -> Loaded:
    """Read a data set; cells without any label are left out.

    Parameters
    ----------
    name
        One of `ALL_SETS`.
    smoke
        Take 500 of the cells and the 250 genes with most counts.
    """
    what = ALL_SETS[name]
    path = data_folder() / f"{what.file}.h5ad"
    if not path.is_file():
        raise SystemExit(f"no cells at {path}; set KERNOMICS_DATA to the folder of real cells")
    cells = anndata.read_h5ad(path)
    if smoke:
        chosen = np.random.default_rng(0).permutation(cells.n_obs)[:SMOKE_CELLS]
        totals = np.asarray(cells.X.sum(axis=0)).ravel()
        genes = np.sort(np.argsort(-totals, kind="stable")[:SMOKE_GENES])
        cells = cells[np.sort(chosen), genes]
    smallest = SMOKE_CLASS if smoke else SMALLEST_CLASS
    labels = pd.DataFrame(
        {label: _classes(cells.obs[label], what.no_label, smallest) for label in what.labels}
    )
    kept = labels.notna().any(axis=1).to_numpy()
    cells = cells[kept].copy()
    for label in what.labels:
        cells.obs[label] = labels.loc[kept, label]
    counts = sparse.csr_matrix(cells.X, dtype=np.float32)
    collection = CellCollection.from_anndata(
        cells,
        labels_key=what.labels,
        label_kinds=dict.fromkeys(what.labels, "categorical"),
        empty_cells="keep" if smoke else "error",
    )
    return Loaded(what, collection, counts)


def _classes(column: pd.Series[Any], no_label: str | None, smallest: int) -> pd.Series[Any]:
    """Return a label as text, missing where it says nothing or its class is too rare."""
    text = column.astype(str).where(column.notna())
    sizes = text.value_counts()
    dropped = [*sizes.index[sizes < smallest], no_label]
    return text.where(~text.isin(dropped))
