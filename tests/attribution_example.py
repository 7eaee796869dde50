"""Cells in which the genes that make the difference are known, and what is found in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from kernomics import datasets
from kernomics.attribution import Attribution, Pairs, Pruning

GENES = ["up $1$", "down<b>", "flat", *(f"g{i}" for i in range(17))]


def cells(n: int = 240, seed: int = 2) -> Any:
    """Return cells half of which are ill: every sixth gene is raised in these."""
    adata = datasets.simulate(n, 30, 2, 3, seed=seed)
    ill = np.arange(n) % 2 == 0
    counts = adata.X.toarray()
    counts[np.ix_(ill, np.arange(0, 30, 6))] = 4 * (counts[np.ix_(ill, np.arange(0, 30, 6))] + 2)
    adata.X = sparse.csr_matrix(counts)
    adata.obs["state"] = pd.Categorical(np.where(ill, "ill", "well"))
    return adata


def attribution(n_groups: int = 2) -> Attribution:
    """Return the attribution of 20 genes over two pairs, or one."""
    n = len(GENES)
    size = np.linspace(1.0, 0.05, n)
    sign = np.where(np.arange(n) % 2, -1.0, 1.0)
    table = pd.DataFrame(
        {
            "forward": size * sign,
            "backward": -size * sign / 2,
            "importance": size * sign / 4,
            "effect": size * sign * 0.75,
            "absolute": size * 0.75,
            "signed_by_change": size * sign * 0.75,
            "expression_change": sign,
            "n_pairs": 2,
        },
        index=pd.Index(GENES),
    )
    groups = ["T/NK", "<B>"][:n_groups] if n_groups > 1 else [""]
    by_group = {
        name: pd.DataFrame(
            np.outer(table[name], np.linspace(1, 2, n_groups)), index=table.index, columns=groups
        )
        for name in ("absolute", "effect")
    }
    rows = np.arange(n_groups)
    params = {
        "model": "PolyGene <b>", "target": "state", "case": "ill", "baseline": "well",
        "controlled": ["type"] if n_groups > 1 else [], "engine": "grad_x_delta",
        "contrast": "pairs", "output": "logits", "normalise": True, "complete": False, "seed": 0,
    }  # fmt: skip
    return Attribution(
        table,
        by_group,
        Pairs(rows, rows + n_groups, rows, groups, rows, {"type is missing": 3}),
        params,
        np.linspace(0.25, 0.75, n_groups),
        {"forward": 0.5, "backward": 0.25, "importance": 0.125},
    )


def pruning() -> Pruning:
    """Return the pruning by two rankings, in both orders, of three shares of 100 genes."""
    rows = [
        {
            "ranking": ranking, "order": order, "removed": share,
            "n_genes": round(100 * (1 - share)),
            "balanced_accuracy": high - share * slope, "macro_f1": 0.5,
        }
        for order in ("lowest first", "highest first")
        for ranking, high, slope in (("absolute", 1.0, 0.25), ("<random>", 0.875, 0.5))
        for share in (0.0, 0.5, 0.75)
    ]  # fmt: skip
    areas = pd.DataFrame(
        [
            {"ranking": ranking, "order": order, "area": 0.75}
            for order in ("lowest first", "highest first")
            for ranking in ("absolute", "<random>")
        ]
    )
    return Pruning(pd.DataFrame(rows), areas, ("<well>", 0.625), {"ill": 4, "well": 5})
