"""Attributions that an AnnData keeps, which may have been written and read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kernomics._arguments import shown
from kernomics.attribution.attribution import Attribution
from kernomics.attribution.pairs import Pairs
from kernomics.errors import ConfigError, DataError, closest

if TYPE_CHECKING:
    from anndata import AnnData


def attribution_of(given: Attribution | AnnData, key: str) -> Attribution:
    """Return an attribution as it is, or, without its pairs, that which `tl.attribute` added."""
    if isinstance(given, Attribution):
        return given
    if not hasattr(given, "varm"):
        raise ConfigError(
            f"attribution is {shown(given)}: what kernomics.attribution.attribute returns, or an "
            "AnnData to which kernomics.tl.attribute added it, is needed"
        )
    if key not in given.varm or key not in given.uns:
        raise ConfigError(
            f"the AnnData has no attribution {key!r} in varm and uns: add it with "
            f"kernomics.tl.attribute(…, key_added={key!r}), or name another with key; "
            f"{closest(key, [name for name in given.varm if name in given.uns])}"
        )
    table, said = given.varm[key], given.uns[key]
    if not isinstance(table, pd.DataFrame) or "absolute" not in table or "n_pairs" not in table:
        raise DataError(
            f"varm[{key!r}] is no attribution: name what kernomics.tl.attribute added with key"
        )
    params: dict[str, Any] = dict(said["params"])
    column = params.get("gene_names")
    names = given.var[column].astype(str) if column in given.var else given.var_names
    names = pd.Index([str(name) for name in names], dtype=object)
    known = table["absolute"].notna().to_numpy()
    if not known.any():
        raise DataError(
            f"none of the {len(table):,} genes of the AnnData has a score in varm[{key!r}]: the "
            "model's genes are not among them"
        )
    genes = names[known]
    by_group = {}
    if f"{key}_by_group" in given.varm:
        scores = np.asarray(given.varm[f"{key}_by_group"])[known]
        by_group["absolute"] = pd.DataFrame(
            scores, index=genes, columns=[*map(str, said["groups"])]
        )
    none = np.empty(0, np.int64)
    return Attribution(
        table[known].set_axis(genes),
        by_group,
        Pairs(none, none, none, [str(name) for name in said["groups"]], none),
        params,
        np.empty(0),
        {name: float(share) for name, share in said["zeros"].items()},
    )
