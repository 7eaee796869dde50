"""How well representations tell perturbations apart, and how much of the expression they keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kernomics._arguments import checked, shown
from kernomics._optional import require_extra
from kernomics.baselines.representations import measured_alike
from kernomics.data import CellCollection
from kernomics.data.expression import log_expression, most_variable_genes
from kernomics.data.labels import column
from kernomics.data.readers.inputs import ReadOptions, anndata_of
from kernomics.errors import ConfigError, DataError, closest
from kernomics.evaluation.reconstruction import Reconstruction, reconstructed_rows
from kernomics.metrics import PerturbationConsistency, align, perturbation_consistency
from kernomics.metrics.alignment import How, groups, require_controls
from kernomics.metrics.perturbation import Null, perturbation_labels
from kernomics.models import CellEncoder
from kernomics.models.base import as_collection

if TYPE_CHECKING:
    from anndata import AnnData

TARGET_SUM = 1e5
"""Counts per cell before the logarithm: the paper's, so that all are scored on one scale."""

N_DIMENSIONS = 64
"""Of PCA and normalised counts, where no model says otherwise."""


@dataclass(frozen=True, eq=False)
class PerturbationScores:
    """Scores of several representations of the same perturbed cells.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per representation: ``block``, the block of a TxFM; ``n_dimensions``; the
        ``alignment`` with the highest consistency, and with it ``consistency`` (the share of
        consistent perturbations) and ``n_consistent``; ``spearman``, ``structural_integrity`` and
        ``invertibility``, their mean, NaN where a representation does not reconstruct.
    alignments : pandas.DataFrame
        One row per representation and alignment, with ``consistency`` and ``n_consistent``.
    consistencies : dict
        By representation, with its best alignment, the `PerturbationConsistency`.
    n_cells, n_controls, n_batches, n_perturbations : int
        What the scores were computed on; perturbations with at least two cells, without the
        control.
    n_reconstructed : int
        Cells that Spearman's correlation and structural integrity were computed on.
    """

    table: pd.DataFrame
    alignments: pd.DataFrame
    consistencies: dict[str, PerturbationConsistency]
    n_cells: int
    n_controls: int
    n_batches: int
    n_perturbations: int
    n_reconstructed: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON-able values."""
        return {
            "n_cells": self.n_cells,
            "n_controls": self.n_controls,
            "n_batches": self.n_batches,
            "n_perturbations": self.n_perturbations,
            "n_reconstructed": self.n_reconstructed,
            "scores": _records(self.table),
            "alignments": _records(self.alignments),
            "consistencies": {name: c.to_dict() for name, c in self.consistencies.items()},
        }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    plain = table.reset_index().astype(object)
    return plain.where(plain.notna(), None).to_dict("records")  # type: ignore[return-value]


@checked
def evaluate_perturbations(
    data: AnnData | str | Path | CellCollection,
    model: CellEncoder | None = None,
    *,
    perturbation_key: str,
    control: str | Sequence[str],
    batch_key: str | None = None,
    representations: Mapping[str, ArrayLike] | Sequence[str] | str = (),
    blocks: Literal["all", "last"] = "all",
    n_components: int | Sequence[int] | None = None,
    alignments: Sequence[How] = ("centre", "standardise", "tvn"),
    null: Null = "cells",
    n_null: int | None = None,
    threshold: float = 0.01,
    n_tokens: int | None = None,
    n_draws: int = 1,
    min_gene_overlap: float = 0.8,
    n_reconstructed: int = 10_000,
    seed: int = 0,
    **reading: Unpack[ReadOptions],
) -> PerturbationScores:
    """Score representations of perturbed cells, as in TxFM's evaluation (arXiv 2605.31562).

    Scored are the CLS token of a TxFM after each block, PCA of the log-normalised counts of these
    same cells, the log-normalised counts of their most variable genes, and any `representations`
    given. Each is aligned in every way and the best is kept, as in the paper: its score is the
    largest share of perturbations that are consistent (`perturbation_consistency`). A TxFM and PCA
    also reconstruct expression, which is scored by `spearman_inversion` and `structural_integrity`
    on the genes that data and model share.

    Parameters
    ----------
    data
        AnnData, path of an ``.h5ad`` file, or a collection; not modified. Cells without a
        perturbation are left out.
    model
        A trained TxFM; without one, only baselines and `representations` are scored.
    perturbation_key, batch_key
        obs columns; by default all cells are one batch.
    control
        Name(s) of the control in `perturbation_key`; several become one. Each batch needs two
        control cells.
    representations
        Float [n_cells, d] by name, or keys of ``obsm``.
    blocks
        Of the TxFM: ``"all"`` or only the ``"last"``.
    n_components
        Of PCA, one number or several; by default the model's width, else 64. Normalised counts
        have as many genes as the largest.
    alignments
        Which of the alignments of `align` to choose the best from.
    null, n_null, threshold
        As in `perturbation_consistency`.
    n_tokens, n_draws, min_gene_overlap
        As in `CellEncoder.get_latent_representation`.
    n_reconstructed
        Score reconstruction on at most this many random cells, whose expression is held in memory.
        At least one control of each batch is among them.
    seed
        Seed of the null, the choice of reconstructed cells and PCA.
    **reading
        How to read an AnnData or a file, as in `kernomics.data.ReadOptions`; what is not given is
        as the model was trained.

    Returns
    -------
    PerturbationScores
        Tables of scores, and the result for each perturbation.

    Raises
    ------
    DataError
        If there are no controls, too few in a batch, or a column or key is missing.
    ConfigError
        If a number or an option is invalid.

    Warns
    -----
    UserWarning
        Naming perturbations with one cell.
    """
    if not len(alignments):
        raise ConfigError("alignments is empty: name at least one, such as 'centre'")
    if n_reconstructed < 1:
        raise ConfigError(f"n_reconstructed is {n_reconstructed}: at least 1 is needed")
    if blocks not in ("all", "last"):
        raise ConfigError(f"blocks is {blocks!r}: it must be 'all' or 'last'")
    cells = as_collection(data, reading) if model is None else model.read(data, **reading)
    given = _given(data, representations, cells.reading.get("modality"))
    obs = cells.obs
    labels = perturbation_labels(column(obs, perturbation_key), cells.n_cells, control)
    rows = np.flatnonzero(labels.values >= 0)
    codes, controls = labels.values[rows], labels.values[rows] == labels.control
    batches = None if batch_key is None else column(obs, batch_key).to_numpy()[rows]
    _, batch_codes, batch_names = groups(len(rows), controls, batches)
    require_controls(controls, batch_codes, batch_names, least=2, to="standardise")

    chosen = reconstructed_rows(controls, batch_codes, n_reconstructed, seed)
    alike = measured_alike(cells, rows)
    scorer = Reconstruction(
        cells, alike, rows[chosen], controls[chosen], batch_codes[chosen], model
    )
    wanted = (
        [n_components]
        if isinstance(n_components, int)
        else []
        if n_components is None
        else list(n_components)
    )
    if not wanted:
        wanted = [N_DIMENSIONS if model is None else model.config.d_model]
    everything = _Everything(cells, alike, rows, model, given, scorer)
    found = [
        *everything.of_model(blocks, n_tokens, n_draws, min_gene_overlap),
        *everything.of_baselines(wanted, seed),
    ]
    perturbations = np.array(labels.names, dtype=object)[codes]
    table, tried, best = [], [], {}
    for scored in found:
        candidates = {
            how: perturbation_consistency(
                align(scored.values, controls, batches, how),
                perturbations,
                control=labels.names[labels.control],
                batches=batches,
                n_null=n_null,
                null=null,
                threshold=threshold,
                seed=seed,
            )
            for how in alignments
        }
        how = max(candidates, key=lambda name: candidates[name].score)  # the first of equals
        best[scored.name] = candidates[how]
        for name, c in candidates.items():
            tried.append((scored.name, name, c.score, int(c.table["consistent"].sum())))
        table.append(
            {
                "representation": scored.name,
                "block": scored.block,
                "n_dimensions": scored.values.shape[1],
                "alignment": how,
                "consistency": best[scored.name].score,
                "n_consistent": int(best[scored.name].table["consistent"].sum()),
                "spearman": scored.spearman,
                "structural_integrity": scored.integrity,
                "invertibility": (scored.spearman + scored.integrity) / 2,
            }
        )
    n_perturbations = int(next(iter(best.values())).table["p"].notna().sum())
    columns = ["representation", "alignment", "consistency", "n_consistent"]
    return PerturbationScores(
        pd.DataFrame(table).astype({"block": "Int64"}).set_index("representation"),
        pd.DataFrame(tried, columns=columns).set_index(columns[:2]),
        best,
        len(rows),
        int(controls.sum()),
        len(batch_names),
        n_perturbations,
        len(chosen),
    )


# -- what is scored --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scored:
    name: str
    values: NDArray[Any]
    block: int | None = None
    spearman: float = float("nan")
    integrity: float = float("nan")


@dataclass(frozen=True, eq=False)
class _Everything:
    cells: CellCollection
    alike: CellCollection
    rows: NDArray[np.int64]
    model: CellEncoder | None
    given: dict[str, NDArray[Any]]
    scorer: Reconstruction

    def of_model(
        self, blocks: str, n_tokens: int | None, n_draws: int, min_gene_overlap: float
    ) -> Iterator[_Scored]:
        model = self.model
        if model is None:
            return
        options: dict[str, Any] = {
            "rows": self.rows,
            "n_tokens": n_tokens,
            "n_draws": n_draws,
            "min_gene_overlap": min_gene_overlap,
        }
        last = model.config.n_layers
        if blocks == "last":
            found = {last: model.get_latent_representation(self.cells, **options)}
        else:
            layers = model.get_block_representations(self.cells, **options)
            found = dict(enumerate(layers, start=1))
        for block, values in found.items():
            if block < last:
                yield _Scored(f"TxFM, block {block}", values, block)
        scores = self.scorer.of_model(n_tokens, min_gene_overlap)
        yield _Scored("TxFM", found[last], last, *scores)

    def of_baselines(self, n_components: list[int], seed: int) -> Iterator[_Scored]:
        require_extra("sklearn", purpose="PCA")
        from sklearn.decomposition import PCA

        expression = log_expression(self.alike.batch(self.rows), TARGET_SUM)
        most = min(expression.shape) - 1
        wanted = sorted({min(n, most) for n in n_components})
        if not wanted or wanted[0] < 1:
            raise ConfigError(
                f"n_components is {n_components}: PCA of {expression.shape[0]:,} cells and "
                f"{expression.shape[1]:,} genes has 1 to {most:,}"
            )
        pca = PCA(wanted[-1], svd_solver="arpack", random_state=seed % 2**32).fit(expression)
        scores = pca.transform(expression)
        for n in wanted:
            name = "PCA" if len(wanted) == 1 else f"PCA, {n} components"
            own = scores[:, :n]
            reconstruction = self.scorer.of_pca(
                self.rows, own, pca.components_[:n], pca.mean_, TARGET_SUM
            )
            yield _Scored(name, own, None, *reconstruction)
        top = most_variable_genes(self.alike, self.rows, wanted[-1], TARGET_SUM)
        yield _Scored("normalised counts", expression[:, top].toarray())
        for name, values in self.given.items():
            if values.ndim != 2 or len(values) != self.cells.n_cells:
                raise DataError(
                    f"the representation {name!r} has shape {values.shape} for "
                    f"{self.cells.n_cells:,} cells"
                )
            yield _Scored(name, values[self.rows])


def _given(data: Any, representations: Any, modality: str | None) -> dict[str, NDArray[Any]]:
    if isinstance(representations, Mapping):
        return {str(name): np.asarray(values) for name, values in representations.items()}
    if not isinstance(representations, Iterable):
        raise ConfigError(
            f"representations is {shown(representations)}: arrays by name, or keys of obsm"
        )
    keys = [representations] if isinstance(representations, str) else list(representations)
    if not keys:
        return {}
    if any(not isinstance(key, str) for key in keys):
        raise ConfigError(f"representations are {shown(representations)}: keys of obsm are names")
    if isinstance(data, CellCollection):
        raise ConfigError(
            f"a CellCollection has no obsm to look up {keys[0]!r} in; pass representations as a "
            "dict of arrays, or an AnnData"
        )
    data = anndata_of(data, modality)
    for key in keys:
        if key not in data.obsm:
            raise DataError(f"obsm has no {key!r}; {closest(key, data.obsm.keys())}")
    return {key: np.array(data.obsm[key]) for key in keys}
