"""Fine-tuning: which genes are kept, what is copied, how new genes begin, and what is refused."""

import json

import numpy as np
import pytest
import torch

from kernomics import datasets
from kernomics.data import CellCollection, concat
from kernomics.errors import CheckpointError, ConfigError, DataError
from kernomics.models import CellEncoder, TxFM
from kernomics.models.gene_components import gene_components
from kernomics.models.trained import of_genes
from kernomics.models.txfm.finetune import fine_tuning, model_sha256
from kernomics.models.txfm.module import TxFMModule

PER_GENE = (
    "embedding.table", "decoder.genes.weight", "decoder.genes.bias", "linear.weight", "linear.mean"
)  # fmt: skip
TINY = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_tokens": 12, "decoder_layers": 1}
FAST = {"batch_size": 32, "progress": False}


def whole():
    return datasets.simulate(280, 60, 4, 5, seed=3)


@pytest.fixture(scope="module")
def adata():
    return whole()[:160].copy()


@pytest.fixture(scope="module")
def first(adata):
    """A model of the first 50 genes."""
    cells = adata[:, :50].copy()
    return TxFM(cells, "XS", seed=2, **TINY).train(30, learning_rate=3e-3, **FAST)


@pytest.fixture(scope="module")
def other(adata):
    """Other cells of the same types, of genes 10 to 59, the last gene first."""
    return whole()[160:, 59:9:-1].copy()


def weights(model):
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def test_vocabulary_is_the_models_genes_in_its_order_then_new_ones_if_asked_for(first, other):
    model = TxFM.from_pretrained(first, other)
    known = [gene for gene in first.genes if gene in set(other.var_names)]
    new = [gene for gene in other.var_names if gene not in set(first.genes)]
    assert (len(known), len(new)) == (40, 10)
    assert list(model.genes) == known
    assert (model.start.dropped, model.start.left_out) == (list(first.genes[:10]), new)
    counted = {"kept": 40, "new": 0, "left_out": 10, "dropped": 10}
    assert model.start.description["genes"] == counted
    more = TxFM.from_pretrained(first, other, new_genes=10)
    assert list(more.genes) == known + new
    assert (more.start.new, more.start.left_out) == (new, [])
    assert more.start.description["genes"] == {**counted, "new": 10, "left_out": 0}


def test_the_new_genes_are_those_that_vary_most_in_the_datas_order(first, other):
    model = TxFM.from_pretrained(first, other, new_genes=4)
    counts = other.X[model.split.train].toarray()
    spread = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))[:, :10].var(0)
    most = np.sort(np.argsort(-spread)[:4])
    assert model.start.new == list(other.var_names[most])
    assert model.start.left_out == [g for i, g in enumerate(other.var_names[:10]) if i not in most]


def test_known_genes_are_revealed_as_often_beside_new_ones(first, other, adata):
    """The model reveals 12 of 50 genes; of 40 known and n new ones 12·(40 + n)/40."""
    for n_new, n_tokens in ((0, 12), (1, 12), (5, 14), (10, 15)):
        assert TxFM.from_pretrained(first, other, new_genes=n_new).config.n_tokens == n_tokens
    asked = TxFM.from_pretrained(first, other, new_genes=10, n_tokens=7)
    assert asked.config.n_tokens == 7
    # As few genes as the model reveals: the share of them that it revealed, 12 · 12/50.
    with pytest.warns(UserWarning, match="library sizes are totals over the 12 genes"):
        few = TxFM.from_pretrained(first, adata[:, 5:17].copy())
    assert (len(few.genes), few.config.n_tokens) == (12, 2)


def test_a_new_gene_is_added_from_min_cells_training_cells_on(first, other):
    model = TxFM.from_pretrained(first, other, new_genes=10)
    having = np.asarray((other.X[model.split.train] > 0).sum(0)).ravel()
    limit = int(np.median(having[:10]))
    expected = [g for g, n in zip(other.var_names[:10], having[:10], strict=True) if n >= limit]
    n = len(expected)
    assert 0 < n < 10
    fewer = TxFM.from_pretrained(first, other, new_genes=n, min_cells=limit)
    assert fewer.start.new == expected
    with pytest.raises(
        ConfigError,
        match=f"new_genes is {n + 1}, and {n} genes detected in {limit} training cells are new to "
        f"the model: ask for at most {n}, or lower min_cells",
    ):
        TxFM.from_pretrained(first, other, new_genes=n + 1, min_cells=limit)


def test_everything_known_is_copied_to_the_bit(first, other):
    before = weights(first)
    module = TxFM.from_pretrained(first, other, new_genes=10, seed=9)._module()
    place = [list(first.genes).index(g) for g in first.genes if g in set(other.var_names)]
    for name, tensor in module.state_dict().items():
        if name in PER_GENE:
            assert torch.equal(tensor[:40], before[name][place]), name
        elif name != "gene_weights":
            assert torch.equal(tensor, before[name]), name
    assert before.keys() == module.state_dict().keys()
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, before[name]), "the model given was changed"


def test_tensors_by_gene_are_found_whatever_their_size(first):
    """Of as many genes as the width, no shape tells a row per gene from a row per dimension."""
    names = set(of_genes(lambda n: TxFMModule(n, first.config)))
    assert names == {*PER_GENE, "gene_weights"}
    same = TxFMModule(16, first.config)
    assert same.decoder.genes.weight.shape == same.decoder.layers[0].weight.shape


def test_new_genes_begin_at_their_best_constant(first, other):
    model = TxFM.from_pretrained(first, other, new_genes=10)
    module = model._module().eval()
    batch = model.cells.batch(model.split.train)
    scale = module.config.target_sum / batch.library.double()[:, None]
    best = (1 + scale * batch.dense().double()).mean(0).log()[40:]
    with torch.no_grad():
        hidden = module.decoder.hidden(module.encode(*module.tokens(batch, 12, 0)))
        found = module.expression(hidden)[:, 40:].double()
    torch.testing.assert_close(found, best.expand_as(found), rtol=1e-5, atol=1e-5)


def test_new_tokens_are_drawn_like_the_models_own_where_those_began_at_random(adata):
    """Mean and spread of many new tokens, within 5 standard errors of those of the model."""
    first = TxFM(adata[:, :50].copy(), "XS", gene_start="random", **TINY).train(1, **FAST)
    many = datasets.simulate(60, 2000, 4, 5, seed=1)
    many.var_names = [*adata.var_names[:50], *(f"new_{i}" for i in range(1950))]
    n = 1200
    model = TxFM.from_pretrained(first, many, new_genes=n, min_cells=1)
    drawn = model._module().embedding.table.detach()[-n:]
    assert (drawn[:, -1] == 0).all()  # the column that no token has
    known = first.module.embedding.gene_embeddings.detach()
    mean, spread = known.mean(0), known.std(0, correction=0)
    error = (drawn[:, :-1].mean(0) - mean) / (spread / n**0.5)
    assert error.abs().max() < 5
    # The standard error of a standard deviation of n normal draws is σ/√(2n).
    error = (drawn[:, :-1].std(0) - spread) / (spread / (2 * n) ** 0.5)
    assert error.abs().max() < 5


def test_new_tokens_begin_where_known_ones_map_their_components_to(first, other):
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = TxFM.from_pretrained(first, other, new_genes=10)
    tokens = model._module().embedding.gene_embeddings.detach().double().numpy()
    components = gene_components(model.cells, model.split.train, 15, model.seed).double().numpy()
    known = components[:40]
    alpha = 1e-3 * ((known - known.mean(0)) ** 2).sum(0).mean()
    by_ridge = linear_model.Ridge(alpha=alpha, solver="svd").fit(known, tokens[:40])
    expected = by_ridge.predict(components[40:])
    # Both in float64, of float32 numbers; what is compared was rounded to float32.
    np.testing.assert_allclose(tokens[40:], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(tokens[40:] - tokens[:40].mean(0)).max() > 0.1  # each has its own place


def test_untrained_it_represents_cells_as_the_model_does(first, other):
    model = TxFM.from_pretrained(first, other)
    encoder = CellEncoder(model._module(), model.genes.tolist(), {})
    total = other.copy()
    with pytest.warns(UserWarning, match="40 of the model's 50 genes are in the data"):
        expected = first.get_latent_representation(total)
    np.testing.assert_allclose(
        encoder.get_latent_representation(total), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_it_begins_and_ends_better_than_anew():
    """On 120 further cells of the kind that a model of 900 knows, a tenth of the genes new."""
    cells = datasets.simulate(1020, 40, 4, 5, seed=3)
    cells.obs["total"] = np.asarray(cells.X.sum(1)).ravel()
    known = TxFM(cells[:900, :36].copy(), "XS", library_key="total", seed=2, **TINY)
    known.train(20, learning_rate=3e-3, **FAST)
    few = cells[900:].copy()
    cold = TxFM(few, "XS", library_key="total", validation=0.5, seed=2, **TINY)
    options = {"library_key": "total", "validation": 0.5, "seed": 2}
    warm = TxFM.from_pretrained(known, few, new_genes=4, **options)
    losses = {}
    for name, model in (("cold", cold), ("warm", warm)):
        module = model._module().eval()
        with torch.no_grad():
            losses[name] = model._validate(module)["loss"]
    assert losses["warm"] < losses["cold"]
    after = {
        name: model.train(10, **FAST).history.select("validation")[-1]["loss"]
        for name, model in (("cold", cold), ("warm", warm))
    }
    assert after["warm"] < after["cold"]


def test_settings_are_those_of_a_fine_tuning(first, other):
    model = TxFM.from_pretrained(first, other)
    assert model.config == first.config
    assert (model.training.max_epochs, model.training.learning_rate) == (50, 1e-4)
    assert model.training == fine_tuning(model.split, 16)
    assert (model.training.validate_start, model.training.patience) == (True, 10)
    unwatched = TxFM.from_pretrained(first, other, validation=0.0)
    assert (unwatched.training.validate_start, unwatched.training.patience) == (False, None)
    model.configure(progress=False)
    assert model.training.weight_decay == first.training.weight_decay > 0
    model.configure(weight_decay=0.5)
    assert model.training.weight_decay == 0.5
    changed = TxFM.from_pretrained(first, other, n_tokens=5, masking_power=0.5, d_model=16)
    assert (changed.config.n_tokens, changed.config.masking_power) == (5, 0.5)
    share = np.asarray((changed.cells.batch(changed.split.train).dense() > 0).float().mean(0))
    np.testing.assert_allclose(changed._module().gene_weights, share**0.5, rtol=1e-5)


def losses(model):
    return [(r["epoch"], r["loss"]) for r in model.history.select("validation")]


def test_the_model_stays_as_it_was_where_no_epoch_is_better(first, other):
    # Of a figure that is to rise, such as this one is not, every epoch is worse than the start.
    contrary = {"learning_rate": 3e-3, "mode": "max", **FAST}
    spoilt = TxFM.from_pretrained(first, other).train(4, validate_every=1, **contrary)
    (start, most), *later = losses(spoilt)
    assert start == -1
    assert all(loss < most for _, loss in later)
    assert (spoilt.history.best_epoch, spoilt.history.best_value) == (-1, most)
    before = TxFM.from_pretrained(first, other)._module().state_dict()
    for name, tensor in weights(spoilt).items():
        assert torch.equal(tensor, before[name]), name
    last = TxFM.from_pretrained(first, other)
    last.train(4, patience=None, **contrary)
    assert not torch.equal(weights(last)["embedding.table"], before["embedding.table"])


def test_the_best_of_all_validations_is_kept(first, other):
    model = TxFM.from_pretrained(first, other).train(6, learning_rate=3e-3, **FAST)
    assert [epoch for epoch, _ in losses(model)] == [-1, 4, 5]
    epoch, least = min(losses(model), key=lambda found: found[1])
    assert (model.history.best_epoch, model.history.best_value) == (epoch, least)
    assert epoch >= 0
    with torch.no_grad():
        assert model._validate(model.trained.module)["loss"] == least


def test_a_loss_may_change(first, other):
    model = TxFM.from_pretrained(first, other, loss="mse").train(8, learning_rate=1e-3, **FAST)
    train = model.history.select("train")
    assert train[-1]["loss"] < train[0]["loss"]


def test_same_seed_same_weights_and_another_seed_others(first, other):
    models = [
        TxFM.from_pretrained(first, other, new_genes=10, seed=s).train(2, **FAST) for s in (1, 1, 5)
    ]
    one, again, different = (weights(model) for model in models)
    for name, tensor in one.items():
        assert torch.equal(tensor, again[name]), name
    assert not torch.equal(one["embedding.table"], different["embedding.table"])


def test_a_resumed_run_equals_an_uninterrupted_one(first, other, tmp_path):
    class Stop(Exception):
        pass

    options = {**FAST, "checkpoint_every_epochs": 1}
    whole = TxFM.from_pretrained(first, other).train(4, **options)
    model = TxFM.from_pretrained(first, other)
    validate = model._validate

    def stop(module):
        raise Stop

    model.configure(**options)  # the start is validated, and the first epochs are not
    model._validate = lambda module: stop(module) if module.drawn_by[1] else validate(module)
    with pytest.raises(Stop):
        model.train(4, run_dir=tmp_path, validate_every=2, **options)
    model._validate = validate
    # Only the epochs before the one that was stopped are in the checkpoint.
    again = TxFM.from_pretrained(first, other)
    again.train(4, run_dir=tmp_path, resume=True, validate_every=2, **options)
    assert again.history.select("train")[0]["epoch"] == 0
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(again)[name]), name


def test_what_it_came_from_is_on_record(first, other, tmp_path):
    tuned = TxFM.from_pretrained(first, other, new_genes=10).train(1, **FAST)
    tuned.save(tmp_path / "tuned")
    origin = CellEncoder.load(tmp_path / "tuned").info["fine_tuned_from"]
    assert origin["sha256"] == model_sha256(first.trained)
    assert origin["version"] == first.trained.info["version"]
    assert origin["trained_on"] == {"cells": 144, "genes": 50}
    assert origin["genes"] == {"kept": 40, "new": 10, "left_out": 0, "dropped": 10}
    third = TxFM.from_pretrained(tmp_path / "tuned", other)
    assert third.start.description["fine_tuned_from"] == origin
    json.dumps(third.start.description)


def test_a_models_digest_is_of_weights_genes_and_settings(first, tmp_path):
    digest = model_sha256(first.trained)
    first.save(tmp_path / "model")
    loaded = CellEncoder.load(tmp_path / "model")
    assert model_sha256(loaded) == digest
    loaded.genes[0] = "another"
    assert model_sha256(loaded) != digest
    loaded = CellEncoder.load(tmp_path / "model")
    with torch.no_grad():
        loaded.module.decoder.genes.bias[3] += 1
    assert model_sha256(loaded) != digest


def test_a_path_a_model_and_an_encoder_give_the_same(first, other, tmp_path):
    first.save(tmp_path / "model")
    ways = (first, first.trained, tmp_path / "model", str(tmp_path / "model"))
    found = [TxFM.from_pretrained(way, other)._module() for way in ways[:1]]
    for way in ways[1:]:
        torch.manual_seed(0)
        module = TxFM.from_pretrained(way, other)._module()
        assert torch.equal(module.decoder.genes.weight, found[0].decoder.genes.weight)
    with pytest.raises(CheckpointError, match="no saved model"):
        TxFM.from_pretrained(tmp_path / "none", other)
    with pytest.raises(ConfigError, match="call train"):
        TxFM.from_pretrained(TxFM(other, "XS", **TINY), other)


def test_several_data_sets_reveal_and_score_their_own_genes(first, adata):
    parts = {"a": adata[:90, :45].copy(), "b": adata[90:, 20:].copy()}
    cells = concat({name: CellCollection.from_anndata(part) for name, part in parts.items()})
    model = TxFM.from_pretrained(first, cells, new_genes=10)
    counted = {"kept": 50, "new": 10, "left_out": 0, "dropped": 0}
    assert model.start.description["genes"] == counted
    batch = model.cells.batch([0, 159])
    ids, *_ = model._module().tokens(batch, model.config.n_tokens, 0)
    seen = batch.observed.mask[batch.observed.panel_id.long()]
    assert (seen.gather(1, ids.long()) == 1).all()
    model.train(10, learning_rate=1e-3, **FAST)
    losses = [record["loss"] for record in model.history.select("train")]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])  # three: masks differ from epoch to epoch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 32}, "d_model is 32, but the model was trained with 16, on which its weights"),
        ({"target_sum": 1e4}, "fine-tuning may change n_tokens, masking_power, loss"),
        ({"n_token": 5}, "no setting 'n_token'; closest: 'n_tokens'"),
        ({"min_cells": 0}, "min_cells is 0"),
        ({"min_gene_overlap": 50}, "fraction from 0 to 1, not 50"),
        ({"n_tokens": 40}, "the vocabulary has 40 genes: none would be masked"),
        ({"new_genes": True}, "new_genes is True: it must be an integer"),
        ({"new_genes": False}, "new_genes is False: it must be an integer"),
        ({"new_genes": np.True_}, "it must be an integer"),
        ({"new_genes": 2.0}, "new_genes is 2.0: it must be an integer"),
        ({"new_genes": "all"}, "new_genes is 'all': it must be an integer"),
        ({"new_genes": -1}, "new_genes is -1: the number of genes to add"),
        ({"new_genes": 11}, "cells are new to the model: ask for at most 10, or lower min_cells"),
        ({"validation": 1.0}, "validation is 1.0"),
    ],
)
def test_settings_that_cannot_be_are_named(first, other, options, message):
    with pytest.raises(ConfigError) as caught:
        TxFM.from_pretrained(first, other, **options)
    assert message in str(caught.value)


def renamed(adata, names):
    cells = adata.copy()
    cells.var_names = list(names)
    return cells


def test_few_known_genes_are_told_and_too_few_refused(first, adata):
    with pytest.warns(
        UserWarning,
        match=r"20 of the model's 50 genes are in the data, 30 are missing \('gene_0', .*, and "
        r"10 genes detected in 3 training cells are new to the model \('gene_50', .*: 67% of the "
        "fewer of the two are known",
    ):
        TxFM.from_pretrained(first, adata[:, 30:].copy())
    with pytest.raises(
        DataError,
        match=r"5 of the model's 50 genes .* at least 8 must be known to the model, 50%",
    ):
        TxFM.from_pretrained(first, adata[:, 45:].copy())
    with pytest.warns(UserWarning, match="33% of the fewer|totals over the 15 genes of these"):
        TxFM.from_pretrained(first, adata[:, 45:].copy(), min_gene_overlap=0.3)
    ensembl = renamed(adata, [f"ENSG{i:011d}" for i in range(60)])
    with pytest.raises(
        DataError, match=r"0 of the .* knows gene symbols .* name it with gene_names="
    ):
        TxFM.from_pretrained(first, ensembl, min_gene_overlap=0.0)
    upper = renamed(adata, [name.upper() for name in adata.var_names])
    with pytest.raises(DataError, match="50 would match if upper and lower case were ignored"):
        TxFM.from_pretrained(first, upper)


def test_a_panel_of_known_genes_alone_is_warned_of_for_its_library_sizes_alone(
    first, adata, recwarn
):
    """Few of the model's genes, but all that the data have: the paper's own case."""
    model = TxFM.from_pretrained(first, adata[:, 5:25].copy())
    assert len(model.genes) == 20
    (told,) = recwarn.list
    assert "library sizes are totals over the 20 genes of these data" in str(told.message)


def test_a_known_gene_without_counts_is_kept_and_a_new_one_left_out(first, other, recwarn):
    cells = other.copy()
    dense = cells.X.toarray()
    dense[:, [0, 30]] = 0  # new, known
    cells.X = dense
    model = TxFM.from_pretrained(first, cells, new_genes=9)
    assert cells.var_names[30] in model.start.kept
    assert cells.var_names[0] not in model.genes
    model._module()
    assert not recwarn.list
