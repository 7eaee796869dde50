"""The frozen contract: new genes learn through adapters, and old outputs stay to the bit."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from staged_example import ONE, QUICK, TWO, cells, model, staged, trained

import kernomics as kn
from kernomics.errors import ConfigError
from kernomics.models import GIL
from kernomics.models.gil.methods import Adapters
from kernomics.train.step import Stepper


@functools.cache
def adapted() -> GIL:
    return model(Adapters(rank=4)).train(**{**QUICK, "max_epochs": 4})


def tokens_of(gil: GIL, stage: int):
    module, found = gil.after("base").module, staged()
    return module.tokens(found.cells.batch(found.rows(stage)), module.at(3))


@pytest.mark.parametrize("method", ["adapters", [Adapters(rank=4), "distillation", "features"]])
def test_what_is_said_of_cells_without_new_genes_stays_to_the_bit(method):
    gil = trained(method)
    base, one, two = (gil.after(name).module for name in ("base", "one", "two"))
    assert [len(module.adapters) for module in (base, one, two)] == [0, 1, 2]
    for tokens, before in ((tokens_of(gil, 0), base), (tokens_of(gil, 1), one)):
        for mine, other in zip(before(tokens), two(tokens), strict=True):
            assert torch.equal(mine, other)
    assert torch.equal(one.genes, two.genes[:34])
    after = two.state_dict()
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, after[name][: len(weight)]), name
    n_cells, asked = 5, torch.arange(28)
    places, genes = torch.arange(n_cells).repeat_interleave(28), asked.repeat(n_cells)
    cls = base.encode(tokens_of(gil, 0))[0]
    assert torch.equal(base.ask(cls, places, genes), two.ask(cls, places, genes))


def test_old_genes_are_predicted_the_same_of_cells_that_lack_the_new():
    adata = cells()[:, [f"gene_{i}" for i in range(12, 40)]].copy()
    adata.obs["total_counts"] = 2000
    gil, how = adapted(), {"library_key": "total_counts", "min_gene_overlap": 0.5}
    found = []
    for name in ("base", "one", "two"):
        after = gil.after(name)
        with warnings.catch_warnings():  # of genes that are missing
            warnings.simplefilter("ignore")
            found.append(after.predict(adata, ["gene_20", "gene_30"], batch_size=40, **how))
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_in_a_mixed_batch_the_cells_without_new_genes_alone_stay():
    gil = adapted()
    two, found = gil.after("two").module, staged()
    tokens = two.tokens(found.cells.batch(np.r_[found.rows(0)[:6], found.rows(2)[:6]]), two.at(3))
    adapted_cls = two.encode(tokens)[0]
    bare = two.grown([])
    bare.adapters = torch.nn.ModuleList()
    cls = bare.encode(tokens)[0]
    has_new = torch.bincount(tokens.cells[tokens.gene_ids >= 34], minlength=12) > 0
    assert 0 < int(has_new.sum()) <= 6
    assert torch.equal(adapted_cls[~has_new], cls[~has_new])
    assert not (adapted_cls[has_new] == cls[has_new]).all(dim=1).any()


def test_a_new_adapter_changes_nothing_and_hangs_on_the_seed_alone():
    module = trained().after("base").module.grown([34])
    tokens = module.tokens(staged().cells.batch(staged().rows(1)), module.at(3))
    before = module(tokens)
    torch.manual_seed(1)
    first = module.add_adapter(4, 28)
    for mine, other in zip(before, module(tokens), strict=True):
        assert torch.equal(mine, other)
    torch.manual_seed(2)
    again = module.add_adapter(4, 28)
    for mine, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_each_part_of_an_adapter_learns():
    gil = adapted()
    one, two = gil.after("one").module, gil.after("two").module
    for module in (one, two):
        adapter = module.adapters[-1]
        for part in [*adapter.states, adapter.query]:
            assert part.up.weight.abs().max() > 0
    assert two.adapters[1].span.tolist() == [34, 40]
    assert two.adapters[0].query.down.weight.shape == (4, 16)


def test_new_genes_are_learnt_better_than_by_their_embeddings_alone():
    adata = cells()
    rates = np.linspace(1, 60, 40)[np.random.default_rng(0).permutation(40)]
    adata.X = np.random.default_rng(1).poisson(rates, (120, 40)).astype(np.float32)
    how = {"max_epochs": 20, "batch_size": 16, "learning_rate": 0.01, "progress": False}
    ours, frozen = (model(m, adata=adata).train(**how) for m in ("adapters", "freezing"))
    for of in ("tokens", "queries"):
        mine, other = ours.losses(of), frozen.losses(of)
        assert mine.loc["base"].equals(other.loc["base"])
        assert mine["base"].iloc[1:].nunique() == 1
        for stage in ("one", "two"):
            assert mine.loc[stage, stage] < 0.8 * other.loc[stage, stage]


def test_adapters_are_saved_and_extended(tmp_path):
    gil, adata = adapted(), cells()
    gil.save(tmp_path / "model")
    assert not list(tmp_path.rglob("*.pt")) + list(tmp_path.rglob("*.pkl"))
    found = kn.models.load(tmp_path / "model")
    assert len(found.module.adapters) == 2
    saved = found.module.state_dict()
    for name, weight in gil.trained.module.state_dict().items():
        assert torch.equal(weight, saved[name])
    for genes in (ONE, TWO[:2], ["gene_20"]):
        assert found.predict(adata, genes).equals(gil.predict(adata, genes))
    wider = found.extend(["new"])
    assert len(wider.module.adapters) == 2
    with pytest.warns(UserWarning, match="not observed"):
        assert wider.predict(adata, TWO).equals(gil.predict(adata, TWO))


def test_stopped_in_the_third_stage_both_adapters_come_back(tmp_path, monkeypatch):
    whole, made = trained(Adapters(rank=4)), []
    every, step = {**QUICK, "checkpoint_every_seconds": 0.0}, Stepper.take

    def stopping(self, *arguments):
        made.append(1)
        if len(made) == 13:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", stopping)
        with pytest.raises(KeyboardInterrupt):
            model(Adapters(rank=4)).train(run_dir=tmp_path, **every)
    again = model(Adapters(rank=4)).train(run_dir=tmp_path, resume=True, **every)
    weights = again.trained.module.state_dict()
    assert "adapters.1.query.up.weight" in weights
    for name, weight in whole.trained.module.state_dict().items():
        assert torch.equal(weight, weights[name])
    with pytest.raises(ConfigError, match=r"1 settings differ: .*methods"):
        model(Adapters(rank=5)).train(run_dir=tmp_path, resume=True, **every)


@pytest.mark.parametrize(
    ("rank", "message"),
    [(0, "rank is 0: at least 1"), (17, "rank of method 'adapters' is 17, above the network's")],
)
def test_a_rank_that_is_no_bottleneck_is_refused(rank, message):
    with pytest.raises(ConfigError, match=message):
        model(Adapters(rank=rank))


@pytest.mark.parametrize("settings", [{"combine": "concat"}, {"n_layers": 2, "loss": "poisson"}])
def test_other_networks_keep_the_contract(settings):
    gil = trained("adapters", **{**settings, "recompute": "blocks"})
    tokens = tokens_of(gil, 0)
    for mine, other in zip(
        gil.after("base").module(tokens), gil.after("two").module(tokens), strict=True
    ):
        assert torch.equal(mine, other)
    assert np.isfinite(gil.losses().to_numpy()).all()
