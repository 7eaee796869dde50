"""One good call of each op and more where it takes other tensors, for walks over all of them."""

from __future__ import annotations

from typing import Any

import torch

from kernomics.ops import ObservedGenes

from .common import Rows

CELLS, GENES, WIDTH = 2, 3, 4
X = Rows(torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.ones(CELLS), (CELLS, GENES))
PANELS = ObservedGenes.from_lists([[0, 1], [2]], GENES, [0, 1])
SEED, IDS = torch.tensor([1, 2]), torch.arange(CELLS)
POISSON = {
    "target": X, "library": torch.ones(CELLS), "observed": PANELS, "target_kind": "counts",
}  # fmt: skip

# The arguments of each op, every tensor that it can take among them.
CALLS: dict[str, list[dict[str, Any]]] = {
    "gumbel_topk": [
        {"scores": torch.zeros(CELLS, GENES), "k": 1, "tau": 1.0, "noise": True, "seed": SEED,
         "row_ids": IDS}
    ],
    "relaxed_mask": [{"scores": torch.zeros(CELLS, GENES), "k": 1, "tau": 1.0}],
    "masked_linear": [
        {
            "x": x, "mask": torch.ones(GENES), "indices": torch.arange(2),
            "weight": torch.ones(GENES, WIDTH), "bias": torch.ones(WIDTH),
            "grad_indices": torch.arange(2),
        }
        for x in (X, torch.ones(CELLS, GENES))
    ],
    "sample_tokens": [
        {
            "counts": X, "n_tokens": 1, "cell_ids": IDS, "seed": SEED,
            "library": torch.ones(CELLS), "observed": PANELS, "weights": torch.ones(GENES),
        }
    ],
    "dropout": [{"x": torch.ones(CELLS, WIDTH), "p": 0.5, "seed": SEED}],
    "embed_tokens": [
        {
            "gene_ids": torch.zeros(CELLS, 5, dtype=torch.int64), "table": torch.ones(GENES, WIDTH),
            "cls": torch.ones(WIDTH), **given,
        }
        for given in (
            {"values": torch.ones(CELLS, 5), "combine": "concat"},
            {"values": None, "value_embedding": torch.ones(CELLS, 5, WIDTH), "combine": "add"},
        )
    ],
    "poisson_nll": [{"logits": torch.ones(CELLS, GENES), **POISSON}],
    "linear_poisson_nll": [
        {
            "hidden": torch.ones(CELLS, WIDTH), "weight": torch.ones(GENES, WIDTH),
            "bias": torch.ones(GENES), **POISSON,
        }
    ],
}  # fmt: skip

# What no op reads: the lists from which a table of panels was made.
UNREAD = {"observed.indptr", "observed.genes"}
