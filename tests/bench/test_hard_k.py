"""Hard-k and YOTO without noise are YOTO with a few settings changed."""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.yoto.hard_k import HARD_K_OVERRIDES, TOP_K_OVERRIDES
from kernomics import datasets
from kernomics.models import YOTO, YOTOConfig
from kernomics.train import override


def test_the_overrides_change_the_selection_alone() -> None:
    default = YOTOConfig(n_genes=8)
    of_the_selection = {
        "relaxation", "tau_start", "tau_end", "noise_start", "noise_end", "start_genes",
        "shrink_until",
    }  # fmt: skip
    for overrides in (HARD_K_OVERRIDES, TOP_K_OVERRIDES):
        assert set(overrides) <= of_the_selection
        changed = override(default, **overrides)
        assert (changed.noise_start, changed.noise_end) == (0, 0)
        same = {f.name for f in dataclasses.fields(default)} - of_the_selection
        assert all(getattr(changed, name) == getattr(default, name) for name in same)


def test_hard_k_finds_planted_markers() -> None:
    cells = datasets.simulate(200, 40, 3, 3, mean_counts=400.0, fold_change=20.0, seed=2)
    model = YOTO(cells, "cell_type", 6, **HARD_K_OVERRIDES)
    model.train(30, batch_size=50, progress=False)
    planted = set(cells.var_names[np.flatnonzero(cells.var["marker_of"].notna())])
    assert len(set(model.genes) & planted) >= 5
    assert model.test_metrics()["cell_type"]["macro_f1"] > 0.8
