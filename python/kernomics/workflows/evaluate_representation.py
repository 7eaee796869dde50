"""What the report of a TxFM shows, gathered from a training or an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernomics.data import CellCollection, Split
from kernomics.errors import DataError
from kernomics.evaluation.perturbations import PerturbationScores
from kernomics.evaluation.relationships import RelationshipScores
from kernomics.evaluation.representation_maps import RepresentationMaps, representation_maps
from kernomics.evaluation.representations import RepresentationScores
from kernomics.models import CellEncoder, TxFM
from kernomics.models.seen_cells import without_digests
from kernomics.report import Provenance, RepresentationReport, SplitReport
from kernomics.report.html import duration

FEW_CELLS = 10
"""Held-out cells of a class below which its score says little."""


def training_report(
    model: TxFM,
    scores: RepresentationScores | None,
    dataset: str,
    seconds: float,
    config: Mapping[str, Any],
    *,
    n_tokens: int | None = None,
) -> RepresentationReport:
    """Gather what the report of a training shows; the maps are made here."""
    cells, split, encoder = model.cells, model.split, model.trained
    maps, omitted = _maps(encoder, cells, split, model.seed, n_tokens=n_tokens)
    if scores is None:
        why = "there are no labels" if not cells.labels else "no cells were held out"
        omitted.insert(0, f"The representation was not scored: {why}.")
    head = _head(encoder, cells, dataset)
    head += [("Training", duration(seconds)), ("Seed", str(model.seed))]
    if model.start is not None:
        head.append(("Fine-tuned", f"{len(model.start.kept):,} genes kept"))
    return RepresentationReport(
        title=f"{'Pre-training' if model.start is None else 'Fine-tuning'} of a {encoder!r}",
        head=head,
        sentence=_split_sentence(split),
        by_group=split.by if split.how == "group" else None,
        scores=scores,
        maps=maps,
        omitted=omitted,
        history=model.history,
        warnings=_warnings(cells, split if scores is not None else None),
        provenance=Provenance.of_this_process(config, model.seed),
    )


def evaluation_report(
    model: CellEncoder,
    cells: CellCollection,
    dataset: str,
    *,
    split: Split | None,
    scores: RepresentationScores | None,
    perturbations: PerturbationScores | None,
    relationships: RelationshipScores | None,
    notes: Sequence[str],
    seed: int,
    **representing: Any,
) -> RepresentationReport:
    """Gather what the report of an evaluation shows; the maps are made here.

    `representing` is how cells are represented, as in `representation_maps`; `notes` are warnings.
    """
    maps, omitted = _maps(model, cells, split, seed, **representing)
    described = without_digests(model.info)
    unknown = "Cells that the model was trained on are told by their counts: see the warnings."
    if len(described) == len(model.info):
        unknown = "This report cannot tell whether the model was trained on some of these cells."
    return RepresentationReport(
        title=f"{model!r}, on {dataset}",
        head=[
            *_head(model, cells, dataset),
            ("Genes in the data", f"{cells.n_genes:,}"),
            ("Seed", str(seed)),
        ],
        sentence=unknown if split is None else f"{_split_sentence(split)} {unknown}",
        by_group=split.by if split is not None and split.how == "group" else None,
        scores=scores,
        maps=maps,
        relationships=relationships,
        perturbations=perturbations,
        omitted=omitted,
        warnings=[*notes, *_warnings(cells, split if scores is not None else None)],
        provenance=Provenance.of_this_process({"model": described}, seed),
    )


def _head(model: CellEncoder, cells: CellCollection, dataset: str) -> list[tuple[str, str]]:
    config = model.config
    return [
        ("Data set", dataset),
        ("Cells", f"{cells.n_cells:,}"),
        ("Genes in the model", f"{len(model.genes):,}"),
        ("Blocks", str(config.n_layers)),
        ("Width", str(config.d_model)),
        ("Genes revealed in training", f"{min(config.n_tokens, len(model.genes)):,}"),
    ]


def _split_sentence(split: Split) -> str:
    return SplitReport(
        how=split.how,
        by=split.by,
        seed=split.seed,
        n_train=len(split.train),
        n_validation=len(split.validation),
        n_test=len(split.test),
    ).sentence()


def _maps(
    model: CellEncoder, cells: CellCollection, split: Split | None, seed: int, **representing: Any
) -> tuple[RepresentationMaps | None, list[str]]:
    try:
        return representation_maps(model, cells, split, seed=seed, **representing), []
    except (ImportError, DataError) as error:
        return None, [f"The cells were not mapped: {error}."]


def _warnings(cells: CellCollection, split: Split | None) -> list[str]:
    """Warn of classes so small that their score says little, and of partial library sizes."""
    notes = []
    for name, label in cells.labels.items() if split is not None else ():
        if label.kind != "categorical":
            continue
        assert split is not None
        held_out = label.subset(split.test).counts()
        few = {kind: n for kind, n in held_out.items() if n < FEW_CELLS}
        if few:
            listed = ", ".join(f"{kind} ({n})" for kind, n in list(few.items())[:6])
            notes.append(
                f"{len(few)} of {len(held_out)} classes of {name} have fewer than {FEW_CELLS} "
                f"held-out cells, so macro-F1 is uncertain: {listed}."
            )
    if cells.library_is_subset:
        notes.append(
            "The genes are a subset of those measured, so a cell's total over them is not its "
            "library size."
        )
    return notes
