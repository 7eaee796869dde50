"""How well a saved PolyGene predicts the phenotypes of other cells, and the report of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.data import CellCollection
from kernomics.errors import DataError
from kernomics.metrics import class_scores, confusion_matrix
from kernomics.models import PhenotypeModel
from kernomics.models.polygene.phenotypes import REST
from kernomics.models.seen_cells import without_digests
from kernomics.models.tasks import Task, score_task
from kernomics.report import PhenotypeReport, PhenotypeScores, Provenance


@dataclass(frozen=True)
class PhenotypeEvaluation:
    """Predictions of phenotypes, and their scores.

    Attributes
    ----------
    scores
        Of each phenotype that cells have.
    probabilities
        Per phenotype float32 [n_cells, classes].
    """

    scores: list[PhenotypeScores]
    probabilities: dict[str, NDArray[np.float32]]

    def to_dict(self) -> dict[str, Any]:
        """Return the scores in a form for JSON."""
        return {score.name: score.to_dict() for score in self.scores}


def evaluate_phenotypes(
    model: PhenotypeModel,
    cells: CellCollection,
    target: str | Sequence[str] | None = None,
    **options: Any,
) -> PhenotypeEvaluation:
    """Predict and score phenotypes; the parameters are those of `PhenotypeModel.evaluate`."""
    truths, found = model.labelled_outputs(cells, target, **options)
    unscored = [name for name, truth in truths.items() if not (truth >= 0).any()]
    if len(unscored) == len(truths):
        raise DataError(
            f"none of the {cells.n_cells:,} cells has a value of {' or '.join(map(repr, truths))}: "
            "nothing can be scored"
        )
    if unscored:
        warn(f"no cell has a value of {', '.join(map(repr, unscored))}: predicted, but not scored")
    return PhenotypeEvaluation(
        [
            scores_of(model.task(name), truth, found[name])
            for name, truth in truths.items()
            if name not in unscored
        ],
        found,
    )


def scores_of(
    task: Task,
    truth: NDArray[np.int64],
    outputs: NDArray[np.float32],
    trained_on: NDArray[np.int64] | None = None,
) -> PhenotypeScores:
    """Score the probabilities of a phenotype, beside what naming the commonest value gives.

    `trained_on` are the codes among which it is the commonest; those of the cells by default.
    """
    called, n_values = outputs.argmax(1), len(task.classes)
    known = truth[truth >= 0]
    of = known if trained_on is None else trained_on[trained_on >= 0]
    commonest = int(np.bincount(of, minlength=n_values).argmax())
    return PhenotypeScores(
        name=task.name,
        classes=task.classes,
        metrics={**class_scores(truth, called), **score_task(task, truth, outputs)},
        majority=task.classes[commonest],
        majority_share=float((known == commonest).mean()),
        confusion=confusion_matrix(truth, called, n_values),
    )


def what_is_shown(given: str | Sequence[str]) -> str:
    """Say in words what predictions are made from."""
    names = [given] if isinstance(given, str) else list(given)
    if names == [REST]:
        return "the genes and all other phenotypes"
    return f"the genes and {', '.join(names)}" if names else "the genes alone"


def phenotype_evaluation_report(
    model: PhenotypeModel,
    cells: CellCollection,
    found: PhenotypeEvaluation,
    dataset: str,
    *,
    given: str | Sequence[str] = (),
    notes: Sequence[str] = (),
) -> PhenotypeReport:
    """Gather what the report of an evaluation shows; `notes` are warnings."""
    return PhenotypeReport(
        title=f"{model!r}, on {dataset}",
        head=[
            ("Data set", dataset),
            ("Cells", f"{cells.n_cells:,}"),
            ("Genes of the model", f"{len(model.genes):,}"),
            ("Phenotypes", ", ".join(task.name for task in model.tasks)),
        ],
        sentence="All cells that have a value of a phenotype are scored.",
        scores=found.scores,
        history=(),
        warnings=notes,
        provenance=Provenance.of_this_process({"model": without_digests(model.info)}, None),
        scored="cell",
        shown=what_is_shown(given),
        majority_of="these cells",
    )
