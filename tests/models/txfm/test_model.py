"""TxFM: training, representation, reconstruction, saving, and what it refuses."""

import math
from dataclasses import replace

import anndata
import numpy as np
import pytest
import torch

from kernomics import datasets
from kernomics.data import CellCollection, concat
from kernomics.data.rng import keys_of_names
from kernomics.errors import CheckpointError, ConfigError, DataError
from kernomics.models import CellEncoder, TxFM, TxFMConfig
from kernomics.models.txfm import losses as txfm_losses
from kernomics.models.txfm.module import TxFMModule

TINY = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_tokens": 12, "decoder_layers": 1}


@pytest.fixture(scope="module")
def adata():
    return datasets.simulate(160, 60, 4, 5, seed=3)


def tiny(adata, **options):
    return TxFM(adata, "XS", seed=2, **{**TINY, "stochastic_depth": 0.2, **options})


@pytest.fixture(scope="module")
def trained(adata):
    return tiny(adata).train(6, batch_size=32, progress=False)


@pytest.mark.parametrize(
    ("size", "millions"), [("S", 57), ("B", 159), ("L", 403)], ids=["S", "B", "L"]
)
def test_sizes_have_the_parameters_of_the_paper(size, millions):
    with torch.device("meta"):
        module = TxFMModule(44_349, TxFMConfig.of_size(size))
    n = sum(p.numel() for p in module.parameters()) - 44_349  # the table's unused column
    assert n / 1e6 == pytest.approx(millions, rel=0.005)


def test_training_lowers_the_loss_of_training_and_validation_cells(trained):
    train = trained.history.select("train")
    validation = trained.history.select("validation")
    assert train[-1]["loss"] < train[0]["loss"]
    assert len(validation) == 1
    assert math.isfinite(validation[-1]["loss"])


def test_every_gene_starts_at_the_best_constant(adata):
    model = tiny(adata, d_model=16)
    module = model._module()
    batch = model.cells.batch(model.split.train)
    x = module.targets(batch).dense().double()
    best = x.exp().mean(0).log()
    found = txfm_losses.expression(module.config, module.decoder.genes.bias.detach())
    torch.testing.assert_close(found.double(), best, rtol=1e-5, atol=1e-5)


def test_loss_is_the_formula_of_the_paper(trained):
    """Eq. 2, by hand from the same tokens: (1/G) Σ e^x̂ − x̂ e^x, over revealed and masked genes."""
    module = trained.module.eval()
    cells = trained.cells.batch(np.arange(20))
    with torch.no_grad():
        loss = module.reconstruction_loss(cells, 5)
        outputs = module.decoder(module.encode(*module.tokens(cells, 12, 5))).double()
        x_hat = math.log(1e5 + 1) * torch.relu(torch.tanh(outputs / (4 * math.e)))
        x = module.targets(cells).dense().double()
        expected = (x_hat.exp() - x_hat * x.exp()).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_same_seed_same_model_and_another_seed_another(adata, trained):
    again = tiny(adata).train(6, batch_size=32, progress=False)
    for name, tensor in trained.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name
    other = TxFM(adata, "XS", seed=3, **TINY).train(1, batch_size=32, progress=False)
    assert not torch.equal(other.module.embedding.table, trained.module.embedding.table)


def test_a_resumed_run_equals_an_uninterrupted_one(adata, trained, tmp_path):
    class Stop(Exception):
        pass

    model = tiny(adata)
    module = model._module

    def stopping():
        made = module()
        on_step = made.on_step

        def stop(step, total):
            if step == 13 and total > 1:
                raise Stop
            on_step(step, total)

        made.on_step = stop
        return made

    model._module = stopping
    options = {"batch_size": 32, "progress": False, "checkpoint_every_epochs": 1}
    with pytest.raises(Stop):
        model.train(6, run_dir=tmp_path / "run", **options)
    again = tiny(adata).train(6, run_dir=tmp_path / "run", resume=True, **options)
    for name, tensor in trained.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name


def test_representation_has_a_row_per_cell_and_no_chance_in_it(adata, trained):
    found = trained.get_latent_representation(adata)
    assert found.shape == (160, 16)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, trained.get_latent_representation(adata))


@pytest.mark.parametrize("options", [{}, {"n_tokens": 10}, {"n_tokens": 10, "n_draws": 3}])
def test_representation_does_not_depend_on_the_batch_split(adata, trained, options):
    whole = trained.get_latent_representation(adata, **options)
    for size in (1, 7):
        parts = trained.get_latent_representation(adata, batch_size=size, **options)
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


def test_rows_are_those_asked_for_and_draws_are_averaged(adata, trained):
    rows = [5, 3, 99]
    whole = trained.get_latent_representation(adata, n_tokens=10, n_draws=2)
    some = trained.get_latent_representation(adata, rows=rows, n_tokens=10, n_draws=2)
    np.testing.assert_allclose(some, whole[rows], rtol=1e-4, atol=1e-5)
    module, cells = trained.module, trained.cells.batch(rows)
    keys = torch.from_numpy(keys_of_names(adata.obs_names[rows]))
    cells = replace(cells, cell_ids=keys)
    with torch.no_grad():
        draws = [module.encode(*module.tokens(cells, 10, draw)) for draw in (-1, -2)]
    np.testing.assert_allclose(some, torch.stack(draws).mean(0), rtol=1e-4, atol=1e-5)


def test_every_layer_can_be_read(adata, trained):
    last = trained.get_latent_representation(adata)
    np.testing.assert_allclose(
        trained.get_latent_representation(adata, block=2), last, rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(trained.get_latent_representation(adata, block=1), last)
    with pytest.raises(ConfigError, match="block is 3: this model has blocks 1 to 2"):
        trained.get_latent_representation(adata, block=3)


def test_a_file_and_memory_give_the_same(adata, trained, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    found = trained.get_latent_representation(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(found, trained.get_latent_representation(adata))


def test_genes_are_matched_by_name_and_absent_ones_are_not_revealed(adata, trained):
    shuffled = adata[:, ::-1].copy()
    np.testing.assert_allclose(
        trained.get_latent_representation(shuffled),
        trained.get_latent_representation(adata),
        rtol=1e-4,
        atol=1e-5,
    )
    fewer = adata[:, 6:].copy()
    fewer.obs["total"] = np.asarray(adata.X.sum(1)).ravel()
    with pytest.warns(UserWarning, match="6 are missing .*count as not observed, not as 0"):
        found = trained.get_latent_representation(fewer, library_key="total")
    module = trained.module
    cells = trained.cells.batch(np.arange(160))
    with torch.no_grad():
        gene_ids, values, padding = module.tokens(cells, None, -1)
        assert padding is None
        seen = np.isin(trained.genes, fewer.var_names)
        kept = torch.from_numpy(np.flatnonzero(seen))
        expected = module.encode(gene_ids[:, kept], values[:, kept], None)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="of the model's"):
        trained.get_latent_representation(adata[:, :20].copy())


def test_expression_is_of_the_genes_asked_for(adata, trained):
    whole = trained.get_normalized_expression(adata)
    assert whole.shape == (160, len(trained.genes))
    assert (whole >= 0).all()
    genes = list(trained.genes[[4, 1]])
    some = trained.get_normalized_expression(adata, genes=genes)
    np.testing.assert_allclose(some, whole[:, [4, 1]], rtol=1e-4, atol=1e-5)


def test_saving_and_loading_changes_no_bit(adata, trained, tmp_path):
    trained.save(tmp_path / "model")
    loaded = TxFM.load(tmp_path / "model")
    assert isinstance(loaded, CellEncoder)
    assert repr(loaded) == repr(trained.trained)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(adata), trained.get_latent_representation(adata)
    )
    for which in ("encoder", "decoder"):
        np.testing.assert_array_equal(
            loaded.get_gene_embeddings(which), trained.get_gene_embeddings(which)
        )
    meta = tmp_path / "model" / "model.json"
    assert "kernomics txfm 1" in meta.read_text()


def test_gene_embeddings_are_encoder_tokens_or_decoder_weights(trained):
    assert trained.get_gene_embeddings("encoder").shape == (len(trained.genes), 15)
    assert trained.get_gene_embeddings("decoder").shape == (len(trained.genes), 16)
    with pytest.raises(ConfigError, match="which is 'both'; it must be one of encoder, decoder"):
        trained.get_gene_embeddings("both")


def test_the_unused_column_of_the_table_stays_zero(trained):
    assert (trained.module.embedding.table[:, -1] == 0).all()


def test_vocabulary_is_what_enough_training_cells_have(adata):
    model = tiny(adata, min_cells=40, n_tokens=2)
    having = np.asarray((adata.X[model.split.train] > 0).sum(0)).ravel()
    assert list(model.genes) == list(adata.var_names[having >= 40])
    names = list(adata.var_names[[3, 9, 4]])
    assert list(tiny(adata, genes=names, n_tokens=2).genes) == names


def test_masking_weights_follow_how_often_genes_are_seen(adata):
    model = tiny(adata, masking_power=-4.0)
    module = model._module()
    share = np.asarray((adata.X[model.split.train] > 0).mean(0)).ravel()
    np.testing.assert_allclose(module.gene_weights, share**-4.0, rtol=1e-4)
    gene_ids, *_ = module.tokens(model.cells.batch(np.arange(160)), 12, 0)
    drawn = np.bincount(gene_ids.flatten().numpy(), minlength=len(share))
    order = np.argsort(share)
    assert drawn[order[:15]].min() > drawn[order[-15:]].max()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"genes": ["gene_1", "gene_1"]},
            DataError,
            "1 of its 2 genes more than once, first 'gene_1'",
        ),
        ({"genes": ["none"]}, DataError, "none"),
        ({"min_cells": 0}, ConfigError, "min_cells is 0"),
        ({"min_cells": 10_000}, DataError, "no gene is in 10,000"),
        ({"validation": 1.0}, ConfigError, "validation is 1.0"),
        ({"n_heads": 3}, ConfigError, "d_model is 16 and n_heads 3"),
        ({"loss": "poison"}, ConfigError, "loss is 'poison'"),
        ({"n_tokens": 0}, ConfigError, "n_tokens is 0"),
        ({"stochastic_depth": 1.0}, ConfigError, "it is a rate"),
        ({"width": 3}, ConfigError, "no setting 'width'"),
    ],
)
def test_bad_settings_are_refused(adata, options, error, message):
    with pytest.raises(error, match=message):
        tiny(adata, **options)


def test_unknown_size_and_untrained_model_are_refused(adata):
    with pytest.raises(ConfigError, match="size is 'XL'"):
        TxFM(adata, "XL")
    with pytest.raises(ConfigError, match="call train"):
        tiny(adata).get_latent_representation()


def test_log_normalised_data_are_refused(adata):
    logged = adata.copy()
    logged.X = logged.X.log1p()
    with pytest.raises(DataError, match="not integers"):
        tiny(logged)


def test_a_panel_is_no_cell_encoder(adata, tmp_path):
    from kernomics.models import YOTO

    panel = YOTO(adata, "cell_type", 5, start_genes=20).train(2, batch_size=50, progress=False)
    panel.save(tmp_path / "panel")
    with pytest.raises(
        CheckpointError, match=r"holds a gene panel \(YOTO\), but this takes a TxFM"
    ):
        CellEncoder.load(tmp_path / "panel")


def test_representations_land_where_scanpy_looks(adata, trained, tmp_path):
    import kernomics as kn

    cells = adata.copy()
    kn.tl.represent_cells(cells, trained, progress=False, n_tokens=10)
    expected = trained.get_latent_representation(adata, n_tokens=10)
    np.testing.assert_array_equal(cells.obsm["X_txfm"], expected)
    assert cells.varm["txfm_encoder"].shape == (60, 15)
    place = {gene: i for i, gene in enumerate(trained.genes)}
    for i, gene in enumerate(cells.var_names):
        if gene in place:
            row = trained.get_gene_embeddings("decoder")[place[gene]]
            np.testing.assert_array_equal(cells.varm["txfm_decoder"][i], row)
    cells.write_h5ad(tmp_path / "out.h5ad")
    saved = anndata.read_h5ad(tmp_path / "out.h5ad").uns["txfm"]["params"]
    assert saved["n_tokens"] == 10


def test_groups_are_on_one_side_only(adata):
    cells = adata.copy()
    cells.obs["donor"] = [f"d{i % 8}" for i in range(160)]
    model = tiny(cells, split_key="donor", validation=0.25)
    donors = cells.obs["donor"].to_numpy()
    assert not set(donors[model.split.train]) & set(donors[model.split.validation])


def test_collection_is_taken_as_it_is(adata):
    collection = CellCollection.from_anndata(adata)
    assert len(TxFM(collection, "XS", **TINY).genes) > 0


# -- several data sets -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_sets(adata):
    first, second = adata[:90, :45].copy(), adata[90:, 15:].copy()
    collections = {
        name: CellCollection.from_anndata(part)
        for name, part in (("first", first), ("second", second))
    }
    return concat(collections)


def test_two_sets_with_different_genes_train_together(two_sets):
    model = TxFM(two_sets, "XS", seed=2, **TINY)
    assert len(model.genes) == 60
    model.train(6, batch_size=32, progress=False)
    train = model.history.select("train")
    assert train[-1]["loss"] < train[0]["loss"]
    assert model.get_latent_representation().shape == (160, 16)


def test_only_genes_that_a_set_has_are_revealed_and_reconstructed(two_sets):
    model = TxFM(two_sets, "XS", seed=2, **TINY)
    module = model._module().eval()
    cells = model.cells.batch([0, 1, 159])
    seen = cells.observed.mask[cells.observed.panel_id.long()]
    gene_ids, *_ = module.tokens(cells, 12, 0)
    assert (seen.gather(1, gene_ids.long()) == 1).all()
    loss = module.reconstruction_loss(cells, 0).detach()
    outputs = module.decoder(module.encode(*module.tokens(cells, 12, 0))).double()
    x_hat = txfm_losses.expression(module.config, outputs)
    x = module.targets(cells).dense().double()
    each = x_hat.exp() - x_hat * x.exp()
    expected = ((each * seen).sum(1) / seen.sum(1)).mean().detach()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    # What a gene is that a cell's set lacks has no gradient from that cell.
    module.reconstruction_loss(model.cells.batch([0]), 0).backward()
    unseen = seen[0] == 0
    assert (module.decoder.genes.weight.grad[unseen] == 0).all()
    assert (module.embedding.table.grad[unseen] == 0).all()


def test_every_gene_of_two_sets_starts_at_the_best_constant_of_its_own_cells(two_sets):
    model = TxFM(two_sets, "XS", seed=2, **TINY)
    module = model._module()
    cells = model.cells.batch(model.split.train)
    seen = cells.observed.mask[cells.observed.panel_id.long()].double()
    x = module.targets(cells).dense().double()
    best = ((x.exp() * seen).sum(0) / seen.sum(0)).log()
    found = txfm_losses.expression(module.config, module.decoder.genes.bias.detach())
    torch.testing.assert_close(found.double(), best, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:45 of the model's 60 genes are in the data")
def test_cells_with_fewer_genes_than_others_are_represented_by_those(two_sets, adata):
    model = TxFM(two_sets, "XS", seed=2, **TINY).train(1, batch_size=32, progress=False)
    whole = model.get_latent_representation()
    alone = model.trained.get_latent_representation(
        CellCollection.from_anndata(adata[:90, :45].copy()), min_gene_overlap=0.5
    )
    np.testing.assert_allclose(whole[:90], alone, rtol=1e-4, atol=1e-5)


def test_figures_stand_beside_the_validations_loss_and_may_be_watched(adata):
    values = iter([0.1, 0.5, 0.3, 0.2])
    seen = []

    def figures(encoder):
        seen.append(encoder.get_latent_representation(adata, rows=[0, 1]))
        return {"score": next(values)}

    watched = {"patience": 2, "monitor": "score", "mode": "max", "validate_every": 1}
    model = tiny(adata).train(6, metrics=figures, progress=False, **watched)
    found = model.history.select("validation")
    assert [record["score"] for record in found] == [0.1, 0.5, 0.3, 0.2]
    assert all(np.isfinite(record["loss"]) for record in found)
    assert (model.history.best_epoch, model.history.stopped_early) == (1, True)
    np.testing.assert_allclose(model.get_latent_representation(rows=[0, 1]), seen[1], atol=1e-6)
    alone = tiny(adata, validation=0.0).train(1, metrics=lambda _: {"score": 1.0}, progress=False)
    assert [(r["score"], "loss" in r) for r in alone.history.select("validation")] == [(1.0, False)]
