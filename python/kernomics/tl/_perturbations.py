"""Scores of perturbed cells where scanpy users look for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kernomics._arguments import checked
from kernomics._version import __version__
from kernomics.data.readers.inputs import divided_options, require_anndata
from kernomics.evaluation.perturbations import PerturbationScores
from kernomics.evaluation.perturbations import evaluate_perturbations as _evaluate_perturbations
from kernomics.models import CellEncoder, TxFM
from kernomics.tl._uns import without_none

if TYPE_CHECKING:
    from anndata import AnnData


@checked
def evaluate_perturbations(
    adata: AnnData,
    model: CellEncoder | TxFM | str | Path | None = None,
    *,
    perturbation_key: str,
    control: str | Sequence[str],
    batch_key: str | None = None,
    seed: int = 0,
    key_added: str = "perturbation_evaluation",
    **options: Any,
) -> PerturbationScores:
    """Score how consistent perturbations are in representations, as in TxFM's evaluation.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        A trained TxFM, or the path of a run or a saved model; without one, PCA, normalised counts
        and the ``representations`` in obsm are scored.
    perturbation_key, batch_key
        obs columns; by default all cells are one batch.
    control
        Name(s) of the control in `perturbation_key`.
    seed
        Seed of everything random.
    key_added
        Name of the result.
    **options
        Options of :func:`kernomics.evaluation.perturbations.evaluate_perturbations`, such as
        ``representations`` or ``layer``.

    Returns
    -------
    PerturbationScores
        The result. Added to `adata`: ``uns["perturbation_evaluation"]`` with ``scores``,
        ``alignments``, ``perturbations`` (p and statistic of each by representation), parameters,
        seed and version.

    Raises
    ------
    DataError, ConfigError
        As in :func:`kernomics.evaluation.perturbations.evaluate_perturbations`; `adata` is then
        unchanged.
    """
    require_anndata(adata, "evaluate_perturbations")
    if isinstance(model, (str, Path)):
        model = CellEncoder.load(model)
    model = model.trained if isinstance(model, TxFM) else model
    found = _evaluate_perturbations(
        adata,
        model,
        perturbation_key=perturbation_key,
        control=control,
        batch_key=batch_key,
        seed=seed,
        **options,
    )
    by_representation = {name: c.table for name, c in found.consistencies.items()}
    perturbations = pd.concat(by_representation, names=["representation"]).reset_index()
    params = {
        "perturbation_key": perturbation_key,
        "control": control if isinstance(control, str) else list(control),
        "batch_key": batch_key,
        **({} if model is None else model.info.get("reading", {})),
        **divided_options(options)[0],
        "model": None if model is None else repr(model),
    }
    adata.uns[key_added] = {
        "scores": found.table,
        "alignments": _with_string_index(found.alignments.reset_index()),
        "perturbations": _with_string_index(perturbations),
        "params": without_none(params),
        "seed": seed,
        "version": __version__,
    }
    return found


def _with_string_index(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_axis(table.index.astype(str), axis=0)  # what h5ad holds without a warning
