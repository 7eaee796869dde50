"""Hard-k and YOTO without noise are YOTO with a few settings changed."""

from __future__ import annotations

import dataclasses
import json
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from kernomics.baselines import (
    HARD_K_OVERRIDES,
    TOP_K_OVERRIDES,
    HardKBaseline,
    PredictingBaseline,
    TopKBaseline,
)
from kernomics.data import CellCollection, Split
from kernomics.errors import ConfigError, DataError
from kernomics.models import YOTO
from kernomics.models.yoto.config import YOTOConfig


@pytest.fixture(scope="module")
def marked() -> tuple[sparse.csr_matrix, np.ndarray]:
    """120 cells × 60 genes; genes 3c, 3c + 1, 3c + 2 mark class c of four, the rest is noise."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(4), 30)
    rate = np.full((codes.size, 60), 0.4)
    for c in range(4):
        rate[np.ix_(codes == c, range(3 * c, 3 * c + 3))] = 5.0
    return sparse.csr_matrix(rng.poisson(rate)), codes


@pytest.fixture(scope="module")
def trained(marked: Any) -> Any:
    return HardKBaseline().train(*marked, 6, seed=0)


def test_the_planted_markers_are_found_and_predict(marked: Any, trained: Any) -> None:
    counts, codes = marked
    assert trained.genes.dtype == np.int64
    assert len(set(trained.genes.tolist())) == 6
    assert set(trained.genes.tolist()) <= set(range(12))
    probability = trained.predict(counts)
    assert probability.shape == (120, 4)
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-5)
    assert (probability.argmax(1) == codes).mean() > 0.9
    assert trained.predict(counts[:0]).shape == (0, 4)
    assert isinstance(HardKBaseline(), PredictingBaseline)
    assert trained.n_trainings == 1
    assert trained.losses["training"][-1] < trained.losses["training"][0] / 2
    assert trained.info["score_variance"] > 0
    json.dumps(trained.info)


def test_hard_k_is_yoto_with_the_overrides_to_the_bit(marked: Any, trained: Any) -> None:
    anndata = pytest.importorskip("anndata")
    counts, codes = marked
    names = [f"c{i}" for i in range(codes.size)]
    obs = pd.DataFrame({"kind": pd.Categorical(codes.astype(str))}, index=names)
    cells = CellCollection.from_anndata(anndata.AnnData(counts, obs=obs), labels_key="kind")
    none = np.empty(0, np.int64)
    split = Split(np.arange(codes.size), none, none, "random", None, 0)
    model = YOTO(cells, n_genes=6, split=split, seed=0, **HARD_K_OVERRIDES)
    model.train(progress=False)
    assert [int(gene) for gene in model.genes] == trained.genes.tolist()
    np.testing.assert_array_equal(model.trained.outputs(cells)["kind"], trained.predict(counts))


def test_the_overrides_change_the_selection_alone() -> None:
    assert TOP_K_OVERRIDES.keys() == {"noise_start", "noise_end"}
    for overrides in (HARD_K_OVERRIDES, TOP_K_OVERRIDES):
        config = dataclasses.replace(YOTOConfig(n_genes=8), **overrides)
        assert config.noise_start == config.noise_end == 0
        assert config.hidden == (128, 128)
        # From the start to the end there is no noise, and the end is at exactly k.
        schedule = config.schedule(1000)
        assert [schedule.at(step, 100)[2] for step in (0, 50, 99)] == [0, 0, 0]
        assert schedule.at(99, 100)[0] == 8


@pytest.mark.slow
def test_unlabelled_cells_play_no_part(marked: Any) -> None:
    counts, codes = marked
    kept = np.arange(codes.size) % 4 > 0
    some = np.where(kept, codes, -1)
    a = HardKBaseline(hidden=(16,)).train(counts, some, 4, seed=1)
    b = HardKBaseline(hidden=(16,)).train(counts[kept], codes[kept], 4, seed=1)
    np.testing.assert_array_equal(a.genes, b.genes)
    np.testing.assert_array_equal(a.predict(counts), b.predict(counts))


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 12])
def test_panels_of_one_gene_and_of_every_gene(marked: Any, k: int) -> None:
    counts, codes = marked
    panel = HardKBaseline(hidden=(16,)).select(counts[:, :12], codes, k, seed=0)
    assert len(set(panel.tolist())) == k


def test_top_k_says_in_its_report_when_the_scores_never_part(marked: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained = TopKBaseline(hidden=(16,), relaxation="softsort").train(*marked, 4, seed=0)
    assert len(set(trained.genes.tolist())) == 4
    alike = trained.info["score_variance"] == 0
    assert any("gene scores are all alike" in said for said in trained.info["warnings"]) == alike


def test_a_class_without_training_cells_can_be_predicted_for(marked: Any) -> None:
    counts, codes = marked
    trained = HardKBaseline(hidden=(16,)).train(counts, codes, 3, seed=0, n_classes=6)
    assert trained.predict(counts).shape == (120, 6)


@pytest.mark.parametrize(
    ("change", "k", "error", "message"),
    [
        (lambda c: c[1:], 3, DataError, "119 labels were given for 120 cells"),
        (lambda c: c * 0, 3, DataError, "found 1 among 120 labelled of 120 cells"),
        (lambda c: c, 61, ConfigError, "a panel of 61 genes was asked for, from 60 genes"),
    ],
)
def test_bad_input_is_named(marked: Any, change: Any, k: int, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        HardKBaseline().train(marked[0], change(marked[1]), k, seed=0)
    with pytest.raises(ConfigError, match="noise_begin"):
        HardKBaseline(noise_begin=1.0).train(*marked, 3, seed=0)
