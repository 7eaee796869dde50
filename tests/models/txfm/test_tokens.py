"""How many genes are revealed, and which: all of them from a cell's own number on, by its name."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kernomics import datasets
from kernomics.data import CellCollection, concat, select_cells
from kernomics.data.rng import keys_of_names
from kernomics.errors import ConfigError
from kernomics.evaluation.reconstruction import Reconstruction
from kernomics.models import CellEncoder, TxFM, TxFMConfig
from kernomics.models.txfm.module import TxFMModule
from kernomics.ops import ObservedGenes

TINY = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_tokens": 12, "decoder_layers": 1}
LIKE = {"rtol": 4e-6, "atol": 4e-6}
"""Other shapes, other sums: a sum over 60 tokens in float32 is off by 60 · 2⁻²⁴ = 4e-6 at most."""


@pytest.fixture(scope="module")
def adata():
    return datasets.simulate(120, 60, 4, 5, seed=3)


@pytest.fixture(scope="module")
def sets(adata):
    """Two data sets, of 50 and of 30 of the 60 genes."""
    parts = {"large": adata[:70, :50].copy(), "small": adata[70:, 30:].copy()}
    return concat({name: CellCollection.from_anndata(part) for name, part in parts.items()})


@pytest.fixture(scope="module")
def encoder(adata):
    return TxFM(adata, "XS", seed=2, **TINY).train(6, batch_size=32, progress=False).trained


def everything(encoder, cells, n_tokens, **options):
    """What is read of cells by every path that reveals genes."""
    usual = {"n_tokens": n_tokens, **options}
    layers = encoder.get_block_representations(cells, n_draws=3, **usual)
    scorer = Reconstruction(
        cells, cells, np.arange(20), np.ones(20, bool), np.zeros(20, int), encoder
    )
    return {
        "representation": encoder.get_latent_representation(cells, **usual),
        "draws": encoder.get_latent_representation(cells, n_draws=3, **usual),
        "block 1": encoder.get_latent_representation(cells, block=1, **usual),
        "layers": np.stack(layers),
        "expression": encoder.get_normalized_expression(cells, **usual),
        "genes": encoder.get_normalized_expression(cells, genes=encoder.genes[[40, 2]], **usual),
        "scores": np.array(scorer.of_model(n_tokens, 0.0)),
    }


@pytest.mark.parametrize("which", ["one set", "fewer genes", "two sets"])
@pytest.mark.filterwarnings("ignore:.* of the model's 60 genes are in the data")
def test_more_tokens_than_genes_are_all_genes_by_every_path(encoder, adata, sets, which):
    cells = {
        "one set": CellCollection.from_anndata(adata),
        "fewer genes": CellCollection.from_anndata(adata[:, 10:].copy()),
        "two sets": sets,
    }[which]
    most = 60 if which == "one set" else 50
    expected = everything(encoder, cells, None)
    for n_tokens in (most, most + 1, 61, 2048):
        for path, values in everything(encoder, cells, n_tokens).items():
            np.testing.assert_array_equal(values, expected[path], err_msg=f"{path}, {n_tokens}")
    fewer = everything(encoder, cells, 10)
    assert all(not np.allclose(fewer[path], expected[path]) for path in expected)


def test_cells_whose_set_has_no_more_genes_than_tokens_are_all_genes(encoder, sets):
    # 30 … 49 tokens: some of the large set's 50 genes, all of the small one's 30.
    expected = everything(encoder, sets, None)
    for n_tokens in (30, 31, 49):
        found = everything(encoder, sets, n_tokens)
        for path in ("representation", "draws", "block 1", "expression", "genes"):
            np.testing.assert_allclose(found[path][70:], expected[path][70:], **LIKE)
            assert not np.allclose(found[path][:70], expected[path][:70])
        np.testing.assert_allclose(found["layers"][:, 70:], expected["layers"][:, 70:], **LIKE)


def test_padding_is_no_token(encoder, sets):
    """Each cell by itself, of the tokens there are, gives what a padded batch gives."""
    module, cells = encoder.module, sets.with_genes(encoder.genes, 0.0).batch([0, 119, 1, 118])
    with torch.no_grad():
        for n_tokens, width in ((None, 50), (40, 40), (2048, 50)):
            tokens = module.tokens(cells, n_tokens, -1)
            assert tokens.gene_ids.shape == (4, width)
            assert torch.equal(tokens.padding, tokens.gene_ids < 0)
            assert tokens.padding.sum(1).tolist() == [0, width - 30] * 2
            found = module.encode(*tokens)
            alone = [
                module.encode(ids[ids >= 0][None], values[ids >= 0][None], None)
                for ids, values in zip(tokens.gene_ids, tokens.values, strict=True)
            ]
            torch.testing.assert_close(found, torch.cat(alone), **LIKE)
            shown = tokens.gene_ids.clamp_min(0)
            assert not torch.allclose(module.encode(shown, tokens.values, None), found, atol=0.05)
        assert module.tokens(cells, 30, -1).padding is None  # no cell can have fewer


def test_a_training_step_attends_to_no_padding(sets, encoder):
    """Loss and gradients are the means over the sets, each without padding."""
    config = TxFMConfig(**{**TINY, "n_tokens": 40, "stochastic_depth": 0.0, "linear_path": True})
    module = TxFMModule(60, config, seed=1).train()
    module.load_state_dict(encoder.module.state_dict())
    cells = sets.with_genes(encoder.genes, 0.0).batch([3, 2, 90, 100])

    def run(cells, n_tokens):
        module.config = replace(config, n_tokens=n_tokens)
        module.zero_grad()
        loss = module.training_loss(cells)["loss"]
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in module.parameters())]

    parts = []
    for start, panel, n_tokens in ((0, 0, 40), (2, 1, 30)):
        some = cells.slice(start, start + 2)
        genes = some.observed.mask[panel].nonzero().flatten()
        alone = ObservedGenes.from_lists([genes], 60, torch.zeros(2, dtype=torch.int32))
        parts.append(run(replace(some, observed=alone), n_tokens))
        assert module.tokens(some, None).padding is not None
        assert module.tokens(replace(some, observed=alone), n_tokens).padding is None
    for found, one, two in zip(run(cells, 40), *parts, strict=True):
        torch.testing.assert_close(found, (one + two) / 2, rtol=1e-4, atol=1e-5)


def test_the_loss_of_more_tokens_than_genes_is_that_of_all(adata, encoder):
    cells = CellCollection.from_anndata(adata).batch(np.arange(20))
    losses = []
    for n_tokens in (60, 61, 2048):
        module = TxFMModule(60, replace(encoder.config, n_tokens=n_tokens), seed=1).eval()
        module.load_state_dict(encoder.module.state_dict())
        losses.append(float(module.reconstruction_loss(cells, -1).detach()))
    assert losses[0] == losses[1] == losses[2]


def test_genes_of_weight_zero_are_padding_where_no_others_are_left(adata, encoder):
    config = replace(encoder.config, masking_power=1.0)
    module = TxFMModule(60, config, seed=1).eval()
    module.load_state_dict(encoder.module.state_dict())
    module.gene_weights.copy_((torch.arange(60) % 6 == 1).float())
    cells = CellCollection.from_anndata(adata).batch(np.arange(20))
    with torch.no_grad():
        tokens = module.tokens(cells, 12, -1)
        assert tokens.padding.sum(1).tolist() == [2] * 20
        kept = tokens.gene_ids[:, :10]
        assert kept[0].tolist() == list(range(1, 60, 6))
        expected = module.encode(kept, tokens.values[:, :10], None)
        torch.testing.assert_close(module.encode(*tokens), expected, **LIKE)


@pytest.mark.parametrize("power", [4, -4])
def test_weights_of_the_rarest_genes_stay_apart_and_are_never_zero(adata, power):
    model = TxFM(adata, "XS", **{**TINY, "masking_power": power})
    module = model._module()
    detected = torch.tensor([1e-6, 1e-5, 1.0])
    weights = detected**power
    assert (weights > 1e-36).all()
    assert (weights < 1e28).all()
    assert (module.gene_weights > 0).all()
    beyond_is = "a number from -4 to 4"
    for beyond, said in ((power * 1.01, beyond_is), (np.nan, "a finite number")):
        with pytest.raises(ConfigError, match=f"masking_power is .* {said}"):
            TxFMConfig(masking_power=float(beyond))


# -- which genes are drawn -------------------------------------------------------------------------


def test_a_cell_is_revealed_alike_wherever_it_stands(encoder, adata, tmp_path):
    options = {"n_tokens": 10, "n_draws": 2}
    order = np.random.default_rng(0).permutation(120)
    shuffled = adata[order].copy()[:, ::-1].copy()
    shuffled.write_h5ad(tmp_path / "cells.h5ad")
    whole = CellCollection.from_anndata(adata)
    for read in (
        encoder.get_latent_representation,
        lambda cells, **o: np.stack(encoder.get_block_representations(cells, **o), axis=1),
        lambda cells, n_draws, **o: encoder.get_normalized_expression(cells, **o),
    ):
        expected = read(adata, **options)
        for found, rows in (
            (read(adata[60:].copy(), **options), slice(60, None)),
            (read(shuffled, **options), order),
            (read(tmp_path / "cells.h5ad", **options), order),
            (read(whole, rows=[5, 5, 3], **options), [5, 5, 3]),
            (read(select_cells(whole, [77, 4]), **options), [77, 4]),
        ):
            np.testing.assert_allclose(found, expected[rows], **LIKE)


def test_draws_are_by_name_so_other_names_draw_others(encoder, adata):
    renamed = adata.copy()
    renamed.obs_names = [f"{i}" for i in range(120)]
    expected = encoder.get_latent_representation(adata, n_tokens=10)
    found = encoder.get_latent_representation(renamed, n_tokens=10)
    assert not np.isclose(found, expected).all(1).any()
    np.testing.assert_array_equal(
        encoder.get_latent_representation(renamed), encoder.get_latent_representation(adata)
    )
    # What "7" draws it draws in any file: a name that is a number is a name.
    other = renamed[[7, 30]].copy()
    np.testing.assert_allclose(
        encoder.get_latent_representation(other, n_tokens=10), found[[7, 30]], **LIKE
    )
    other.obs_names = ["30", "7"]
    swapped = encoder.get_latent_representation(other, n_tokens=10)
    assert not np.isclose(swapped, found[[7, 30]]).all(1).any()


def test_the_draw_is_that_of_the_names_key(encoder, adata):
    cells = CellCollection.from_anndata(adata).batch([3, 50])
    keyed = replace(cells, cell_ids=torch.from_numpy(keys_of_names(["cell_3", "cell_50"])))
    with torch.no_grad():
        draws = [encoder.module.encode(*encoder.module.tokens(keyed, 9, -1 - i)) for i in range(2)]
    found = encoder.get_latent_representation(adata, rows=[3, 50], n_tokens=9, n_draws=2)
    np.testing.assert_allclose(found, (draws[0] + draws[1]) / 2, **LIKE)


@pytest.mark.filterwarnings("ignore:.* of the model's 60 genes are in the data")
def test_cells_of_joined_sets_draw_by_the_name_that_they_have_there(encoder, adata, sets):
    small = adata[70:, 30:].copy()
    small.obs_names = [f"small:{name}" for name in small.obs_names]
    options = {"n_tokens": 10, "min_gene_overlap": 0.0}
    whole = encoder.get_latent_representation(sets, **options)
    np.testing.assert_allclose(
        encoder.get_latent_representation(small, **options), whole[70:], **LIKE
    )


def test_training_draws_by_row_as_before(adata):
    model = TxFM(adata, "XS", seed=2, **TINY)
    assert model.cells.batch([4, 9]).cell_ids.tolist() == [4, 9]
    assert isinstance(model.train(1, progress=False).trained, CellEncoder)
