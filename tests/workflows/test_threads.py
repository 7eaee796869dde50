"""Trainings in threads of one process are those of the same seeds one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch import nn

from kernomics import baselines, metrics, models
from kernomics._warnings import quietly
from kernomics.errors import ConfigError
from kernomics.nn import drawing_from
from kernomics.train import TrainConfig, fit

N_CELLS, N_GENES, SEEDS = 96, 30, range(4)
CODES = np.arange(N_CELLS) % 3


def counts() -> sparse.csr_matrix:
    rate = np.full((N_CELLS, N_GENES), 0.5)
    for code in range(3):
        rate[code == CODES, 4 * code : 4 * code + 4] += 4
    return sparse.csr_matrix(np.random.default_rng(1).poisson(rate).astype(np.float32))


def cells() -> ad.AnnData:
    found = ad.AnnData(counts())
    found.obs["cell_type"] = pd.Categorical(np.array(list("ABC"))[CODES])
    found.var_names = [f"G{i}" for i in range(N_GENES)]
    found.obs_names = [f"c{i}" for i in range(N_CELLS)]
    return found


def weights(module: nn.Module) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in module.state_dict().values()]


def yoto(seed: int) -> list[Any]:
    model = models.YOTO(cells(), "cell_type", 5, seed=seed, private_encoders=True)
    model.train(max_epochs=3, batch_size=32, progress=False)
    return [model.genes, *weights(model.trained.network)]


def txfm(seed: int) -> list[Any]:
    model = models.TxFM(
        cells(), n_genes=N_GENES, n_tokens=8, d_model=16, n_layers=2, n_heads=2, seed=seed,
        stochastic_depth=0.2,
    )  # fmt: skip
    model.train(max_epochs=2, batch_size=16, progress=False)
    return weights(model.encoder.module)


def l1(seed: int) -> list[Any]:
    return [baselines.L1Baseline().select(counts(), CODES, 4, seed=seed)]


def probe(seed: int) -> list[Any]:
    x = counts().toarray()
    found = metrics.mlp_probe(x, CODES, x, CODES, seed=seed, max_epochs=3, learning_rates=(1e-3,))
    return [found[name] for name in sorted(found)]


def of(train: Callable[[int], list[Any]]) -> Callable[[int], list[Any]]:
    def one(seed: int) -> list[Any]:
        torch.set_num_threads(1)  # of this thread alone: matrix products may round by it
        return train(seed)

    return one


@pytest.mark.filterwarnings(
    "ignore::kernomics.models.yoto.diagnostics.TrainingWarning"
)  # so few steps
@pytest.mark.parametrize("train", [yoto, txfm, l1, probe])
def test_trainings_in_threads_equal_those_one_after_the_other(
    train: Callable[[int], list[Any]],
) -> None:
    torch.manual_seed(3)
    of_torch, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(len(SEEDS)) as many:
        after = list(one.map(of(train), SEEDS))
        beside = list(many.map(of(train), SEEDS))
    for alone, together in zip(after, beside, strict=True):
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b)
    assert torch.equal(torch.get_rng_state(), of_torch)
    np.testing.assert_array_equal(np.random.get_state()[1], of_numpy)


def test_a_module_made_from_a_seed_is_torchs_own_and_leaves_its_generator_alone() -> None:
    def made() -> list[torch.Tensor]:
        block = nn.TransformerEncoderLayer(8, 2, 16)
        return [*block.state_dict().values(), nn.init.trunc_normal_(torch.empty(5)), torch.randn(3)]

    torch.manual_seed(5)
    expected = made()
    state = torch.get_rng_state()
    with drawing_from(5):
        found = made()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_fit_refuses_a_layer_that_draws_from_the_process() -> None:
    class Batches:
        n_batches = 1

    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    with pytest.raises(ConfigError, match=r"'1' is a torch\.nn\.Dropout"):
        fit(module, Batches(), TrainConfig(progress=False))


def test_silence_ends_with_its_block_in_whatever_order_threads_leave() -> None:
    before = list(warnings.filters)
    first, second = quietly(UserWarning, "of 1"), quietly(UserWarning)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    warnings.warn("still ignored", UserWarning, stacklevel=1)
    second.__exit__(None, None, None)
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)
