"""Attributions of an AnnData: scores of the genes in `.varm`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kernomics._arguments import checked
from kernomics.attribution import Attribution
from kernomics.attribution import attribute as _attribute
from kernomics.attribution.attribution import trained_model
from kernomics.data.readers.inputs import divided_options, gene_names_in_var, require_anndata
from kernomics.models import YOTO, Panel, PhenotypeModel, PolyGene, load
from kernomics.tl._uns import names, without_none

if TYPE_CHECKING:
    from anndata import AnnData

COLUMNS = (
    *("forward", "backward", "importance", "effect", "absolute", "signed_by_change"),
    *("expression_change", "n_pairs"),
)


@checked
def attribute(
    adata: AnnData,
    model: PolyGene | PhenotypeModel | YOTO | Panel | str | Path,
    *,
    target: str,
    case: str,
    baseline: str,
    controlled: str | Sequence[str] = (),
    engine: str = "grad_x_delta",
    key_added: str = "attribution",
    **options: Any,
) -> Attribution:
    """Score the genes by what they move a model's output from baseline cells to case cells.

    Parameters
    ----------
    adata
        Cells with raw counts.
    model
        A PolyGene, a YOTO, or the path of a run or a saved model. One in memory is attributed on
        its training cells where `adata` is what it was made with, else on all cells; name others
        with `rows`.
    target, case, baseline, controlled, engine
        As in `kernomics.attribution.attribute`.
    key_added
        Where to put the result.
    **options
        Further ones of `kernomics.attribution.attribute`, such as ``n_pairs``, ``rows`` or
        ``output``; ``layer``, ``use_raw`` and their like are by default those of the training.

    Returns
    -------
    Attribution
        The scores, with those of each group of pairs. The plots of `kernomics.pl` take it, or
        `adata`, written and read back if need be.

    Adds
    ----
    ``varm[key_added]``
        A DataFrame over all genes of `adata` with the columns ``forward``, ``backward``,
        ``importance``, ``effect``, ``absolute``, ``signed_by_change``, ``expression_change`` and
        ``n_pairs``, and ``presence`` with a complete engine; NaN, and no pairs, for genes that the
        model does not know.
    ``varm[f"{key_added}_by_group"]``
        float64 [n_vars, n_groups]: ``absolute`` of each combination of controlled values, in the
        order of ``groups``.
    ``uns[key_added]``
        ``params``, ``n_pairs``, ``n_cells``, ``groups`` with ``pairs_per_group``, ``left_out`` by
        reason, ``completeness`` as maximum and quantiles over the pairs, and ``zeros``, the mean
        share of a pair's genes that score nothing, by score.

    Raises
    ------
    DataError, ConfigError
        As `kernomics.attribution.attribute`; `adata` is then as it was.
    """
    require_anndata(adata, "attribute")
    reading, others = divided_options(options)
    asked: Any = load(model) if isinstance(model, str | Path) else model
    cells = trained_model(asked).read(adata, **reading)
    found = _attribute(
        cells, asked, target=target, case=case, baseline=baseline, controlled=controlled,
        engine=engine, **others,
    )  # fmt: skip
    reading = {**reading, **cells.reading}
    genes = gene_names_in_var(adata, reading)
    columns = [*COLUMNS, *(["presence"] if "presence" in found.table else [])]
    table = found.table[columns].reindex(genes)
    table["n_pairs"] = table["n_pairs"].fillna(0).astype(np.int64)
    adata.varm[key_added] = table.set_axis(adata.var_names)
    adata.varm[f"{key_added}_by_group"] = found.by_group["absolute"].reindex(genes).to_numpy(float)
    summary = found.summary()
    params = {**reading, **found.params, "controlled": names(found.params["controlled"])}
    adata.uns[key_added] = {
        "params": without_none(params),
        "n_pairs": summary["n_pairs"],
        "n_cells": summary["n_cells"],
        # Names of groups may hold a slash, which no key of an h5ad file may.
        "groups": names(summary["pairs_per_group"]),
        "pairs_per_group": np.array(list(summary["pairs_per_group"].values()), dtype=np.int64),
        "left_out": pd.DataFrame(
            {
                "reason": names(summary["left_out"]),
                "n_cells": np.array(list(summary["left_out"].values()), dtype=np.int64),
            }
        ).set_axis([str(i) for i in range(len(summary["left_out"]))]),
        "completeness": summary["completeness"],
        "zeros": summary["zeros"],
    }
    return found
