"""What a report needs to know, as plain dataclasses of strings, numbers and numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kernomics.errors import ConfigError
from kernomics.metrics import ClassExpression
from kernomics.metrics.expression import LEAST_CELLS as LEAST_CELLS
from kernomics.metrics.panel_score import MethodScore

if TYPE_CHECKING:
    from kernomics.evaluation.panels import (
        Contributions,
        PanelCurve,
        PanelEmbedding,
        Redundancy,
        Stability,
    )
    from kernomics.models.yoto.starts import Starts


METRICS = {
    "categorical": {"accuracy": "Accuracy", "macro_f1": "Macro-F1", "auprc": "AUPRC"},
    "continuous": {"r2": "R²", "pearson": "Pearson r", "mae": "Mean absolute error"},
}
"""Per kind of task the metrics shown, with their names."""
MAIN_METRIC = {"categorical": "macro_f1", "continuous": "r2"}


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """One task of the panel: what was predicted, and how well.

    Attributes
    ----------
    name
        Name of the label column.
    kind
        ``"categorical"`` or ``"continuous"``.
    scores
        At least one, one per method and predictor; the first is the panel that the report is about.
    n_train, n_validation, n_test
        Labelled cells of each part of the split.
    classes
        Class names in the order of the codes, C; empty for a continuous task.
    class_cells
        Labelled cells per class in the whole data set, integers [C]; optional.
    confusion
        Counts on the test cells, integers [C, C], row = truth, column = prediction; optional.
    over_splits
        The same methods' means over several splits, ± standard errors; empty for one split.
    n_splits
        How many splits stand behind `over_splits`.
    verdict
        What the scores can tell, in words.
    """

    name: str
    kind: Literal["categorical", "continuous"]
    scores: Sequence[MethodScore]
    n_train: int
    n_validation: int
    n_test: int
    classes: Sequence[str] = ()
    class_cells: NDArray[np.int64] | None = None
    confusion: NDArray[np.int64] | None = None
    over_splits: Sequence[MethodScore] = ()
    n_splits: int = 1
    verdict: str = ""

    def __post_init__(self) -> None:
        c = len(self.classes)
        if self.kind not in ("categorical", "continuous"):
            raise ConfigError(
                f"task {self.name!r} is of kind {self.kind!r}; use 'categorical' or 'continuous'"
            )
        if not self.scores:
            raise ConfigError(f"task {self.name!r} has no scores; give at least those of the panel")
        if self.kind == "categorical" and c == 0:
            raise ConfigError(f"task {self.name!r} is categorical but has no classes")
        if self.confusion is not None and np.shape(self.confusion) != (c, c):
            raise ConfigError(
                f"confusion of task {self.name!r} has shape {np.shape(self.confusion)}, "
                f"expected ({c}, {c})"
            )
        if self.class_cells is not None and np.shape(self.class_cells) != (c,):
            raise ConfigError(
                f"class_cells of task {self.name!r} has shape {np.shape(self.class_cells)}, "
                f"expected ({c},)"
            )


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """How cells were divided.

    Attributes
    ----------
    how
        ``"random"``, ``"stratified"`` or ``"group"``.
    by
        The column that groups or strata come from, if any.
    seed
        Seed of the split.
    n_train, n_validation, n_test
        Cells in each part, labelled or not.
    """

    how: str
    by: str | None = None
    seed: int | None = None
    n_train: int
    n_validation: int
    n_test: int

    def sentence(self) -> str:
        """Describe the split in one sentence."""
        if self.how == "group":
            how = f"by group, so that each {self.by or 'group'} is in one part only"
        elif self.how == "stratified":
            how = (
                f"cell by cell, stratified by {self.by}" if self.by else "cell by cell, stratified"
            )
        elif self.how == "random":
            how = "cell by cell at random"
        else:
            how = self.how
        seed = "" if self.seed is None else f" (seed {self.seed})"
        return (
            f"Cells were split {how}{seed}: {self.n_train:,} to train, {self.n_validation:,} to "
            f"validate, {self.n_test:,} held out for scoring."
        )


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything that `write_report` shows. All names are escaped, so any text is allowed.

    Attributes
    ----------
    title, dataset
        Headline and the name of the data set.
    n_cells, n_genes
        Size of the data the panel was chosen from.
    genes
        The panel, ranked, k names.
    scores
        Score of each gene, float [k]; +inf means that the gene was forced in. Optional.
    detection_rate
        Share of the training cells in which each gene is seen, float [k].
    mean_count
        Mean count of each gene over the training cells, float [k].
    tasks
        At least one task.
    split
        How cells were divided.
    expression
        Per task, detection and mean by class with the genes in the order of ``genes``, as
        `kernomics.metrics.class_expression` returns; the first also gives each gene's top class.
    starts
        What the starts of a training with several say of the panel; a section, left out if None.
    curve, stability, embedding, contributions, redundancy
        What `kernomics.evaluation.panels` found; each is a section of its own, left out if None.
        The last two hold the genes of the panel.
    everywhere
        Which genes are in nearly every cell of every class, bool [k]; optional.
    marker_for
        Of which classes each gene is a marker that was asked for, in words, k texts; empty where
        none was.
    absent
        Genes of the panel that the data lack, or have not measured in every cell; ``genes`` are
        the others.
    seen_is_known
        Whether the panel knows its training cells, so that the warnings name any among these.
    omitted
        Why one of these is left out, one sentence each.
    history
        Records of the training run, as in ``metrics.jsonl``; see `kernomics.pl.training_curves`
        for the keys that are drawn.
    warnings
        What a reader must know before using the panel, one sentence each.
    command
        The exact command or call that makes this run again.
    config
        The configuration, JSON-able.
    versions
        Package versions by name.
    seed, version, created, duration_seconds
        Seed of the run, version of kernomics, date as text, and how long the run took.
    """

    title: str
    dataset: str
    n_cells: int
    n_genes: int
    genes: Sequence[str]
    detection_rate: NDArray[np.floating[Any]]
    mean_count: NDArray[np.floating[Any]]
    scores: NDArray[np.floating[Any]] | None = None
    tasks: Sequence[TaskReport]
    split: SplitReport
    expression: Sequence[ClassExpression] = ()
    starts: Starts | None = None
    curve: PanelCurve | None = None
    stability: Stability | None = None
    embedding: PanelEmbedding | None = None
    contributions: Contributions | None = None
    redundancy: Redundancy | None = None
    everywhere: NDArray[np.bool_] | None = None
    marker_for: Sequence[str] = ()
    absent: Sequence[str] = ()
    seen_is_known: bool = False
    omitted: Sequence[str] = ()
    history: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    command: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    seed: int
    version: str
    created: str
    duration_seconds: float

    def __post_init__(self) -> None:
        k = len(self.genes)
        if k == 0:
            raise ConfigError("the panel of the report has no genes")
        for name in ("scores", "detection_rate", "mean_count", "everywhere", "marker_for"):
            values = getattr(self, name) if name != "marker_for" else self.marker_for or None
            if values is not None and np.shape(values) != (k,):
                raise ConfigError(
                    f"{name} has shape {np.shape(values)}, expected ({k},), one per panel gene"
                )
        for table in self.expression:
            if table.detection.shape[0] != k:
                raise ConfigError(
                    f"expression of task {table.task!r} holds {table.detection.shape[0]} genes, "
                    f"the panel {k}"
                )
        tables = {}
        if self.contributions is not None:
            tables["contributions"] = self.contributions.loss_without
        if self.redundancy is not None:
            tables["redundancy"] = self.redundancy.correlation
        for name, found in tables.items():
            if set(found.index) != set(self.genes):
                raise ConfigError(
                    f"{name} holds {len(found)} genes, which are not the {k} of the panel"
                )
        names = [task.name for task in self.tasks]
        if not names:
            raise ConfigError("a report needs at least one task")
        if len(set(names)) < len(names):
            raise ConfigError(f"task names must differ, found {names}")
