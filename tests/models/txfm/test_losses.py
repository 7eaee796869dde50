"""Every loss and activation of TxFM: the formula, the start, training, expression, saving."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import expit, logsumexp
from scipy.stats import nbinom

from kernomics import datasets
from kernomics.data import CellCollection, concat
from kernomics.models import CellEncoder, TxFM
from kernomics.nn import chunked as in_chunks

TINY = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_tokens": 24, "decoder_layers": 1}
RECTIFIED = ["rectified_tanh", "relu", "clamped_relu"]
SMOOTH = ["softplus", "softmax"]
COMBINATIONS = [
    *itertools.product(["poisson", "mse", "smooth_l1"], RECTIFIED + SMOOTH),
    *itertools.product(["negative_binomial", "zinb"], SMOOTH),
]
ABLATIONS = [
    ("mse", None),
    ("smooth_l1", None),
    ("negative_binomial", None),
    ("zinb", None),
    ("poisson", "softmax"),
    ("poisson", "clamped_relu"),
    ("negative_binomial", "softmax"),
]


@pytest.fixture(scope="module")
def adata():
    """Two states of cells that a few genes tell, so that little training suffices."""
    return datasets.simulate(200, 60, 2, 25, mean_counts=3000.0, fold_change=30.0, seed=3)


@pytest.fixture(scope="module")
def two_sets(adata):
    parts = {"first": adata[:100, :45].copy(), "second": adata[100:, 15:].copy()}
    return concat({name: CellCollection.from_anndata(part) for name, part in parts.items()})


def tiny(cells, **options):
    return TxFM(cells, "XS", seed=2, validation=0.25, **{**TINY, **options})


def perturbed(model):
    """Return an untrained network whose parameters are all away from where they start."""
    torch.manual_seed(5)
    module = model._module().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        module.decoder.genes.bias += torch.randn(len(model.genes))
    return module


def expected_expression(config, z, seen, logits):
    """x̂ in float64, [B, G], from the definitions."""
    top = math.log(config.target_sum + 1)
    match config.phi:
        case "rectified_tanh":
            return top * np.maximum(np.tanh(z / (4 * math.e)), 0)
        case "relu":
            return np.maximum(z, 0)
        case "clamped_relu":
            return np.clip(z, 0, top)
        case "softplus":
            rate = np.exp(z)
        case "softmax":
            total = logsumexp(np.where(seen, z, -np.inf), axis=1, keepdims=True)
            rate = config.target_sum * np.exp(z - total)
    return np.log1p(rate if logits is None else rate * expit(-logits))


def expected_loss(model, module, cells, draw):
    """The mean over cells of the mean over their own genes, in float64, and that of its terms."""
    config = model.config
    with torch.no_grad():
        tokens = module.tokens(cells, config.n_tokens, draw)
        hidden = module.decoder.hidden(module.encode(*tokens)).double()
        linear = module.decoder.genes
        z = (hidden @ linear.weight.double().T + linear.bias.double()).numpy()
        logits = theta = None
        if module.dropout is not None:
            lost = module.dropout
            logits = (hidden @ lost.weight.double().T + lost.bias.double()).numpy()
        if module.log_inverse_dispersion is not None:
            theta = np.exp(module.log_inverse_dispersion.double().numpy())
    seen = np.ones(z.shape, bool)
    if cells.observed is not None:
        seen = cells.observed.mask[cells.observed.panel_id.long()].numpy() != 0
    counts = cells.dense().double().numpy()
    size = np.ones((len(counts), 1))
    if config.normalise:
        size = cells.library.double().numpy()[:, None] / config.target_sum
    x, x_hat = np.log1p(counts / size), expected_expression(config, z, seen, None)
    terms = 0
    match config.loss:
        case "poisson":
            each = np.exp(x_hat) - x_hat * np.exp(x)
            terms = np.exp(x_hat) + x_hat * np.exp(x)
        case "mse":
            each = (x_hat - x) ** 2
        case "smooth_l1":
            off = np.abs(x_hat - x)
            each = np.where(off < 1, 0.5 * off**2, off - 0.5)
        case "negative_binomial" | "zinb":
            mean = size * np.expm1(x_hat)
            p = nbinom.pmf(counts, theta, theta / (theta + mean))
            if logits is not None:
                p = expit(logits) * (counts == 0) + expit(-logits) * p
            each = -np.log(p)
    size = np.abs(each) + terms
    return tuple(float(((v * seen).sum(1) / seen.sum(1)).mean()) for v in (each, size))


@pytest.mark.parametrize(("loss", "activation"), COMBINATIONS)
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("sets", ["one", "two"])
def test_the_loss_is_the_formula_in_float64(
    adata, two_sets, monkeypatch, loss, activation, normalise, sets
):
    if activation == "softmax" and not normalise:
        pytest.skip("refused")
    monkeypatch.setattr(in_chunks, "ENTRIES_AT_A_TIME", 8 * 60)  # chunks of 8 cells
    cells = adata if sets == "one" else two_sets
    model = tiny(cells, loss=loss, activation=activation, normalise=normalise)
    module = perturbed(model)
    batch = model.cells.batch(np.arange(90, 110))
    found = module.reconstruction_loss(batch, 5)
    # Outputs are sums of 17 terms of a few units, off by some 1e-6, and so are logarithms of rates.
    expected, size = expected_loss(model, module, batch, 5)
    assert abs(found.item() - expected) <= 1e-5 * size
    assert found.requires_grad


@pytest.mark.parametrize(("loss", "activation"), ABLATIONS)
def test_gradients_are_those_of_the_loss_by_differences(two_sets, loss, activation):
    model = tiny(two_sets, loss=loss, activation=activation)
    module = perturbed(model)
    batch = model.cells.batch(np.arange(90, 110))
    module.reconstruction_loss(batch, 5).backward()
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if not name.startswith(("decoder.genes", "dropout", "log_inverse")):
            continue
        direction = torch.randn(parameter.shape)
        if parameter.dim() > 1:
            direction /= 4  # as wide as the outputs of a bias
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-2 * direction
                ends.append(expected_loss(model, module, batch, 5)[0])
                parameter -= sign * 1e-2 * direction
        slope = float((parameter.grad * direction).sum())
        size = float((parameter.grad * direction).norm())
        # A third derivative of the size of the first leaves 1e-4; a kink of a rectification more.
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-2, abs=1e-2 * size), name


@pytest.mark.parametrize(("loss", "activation"), COMBINATIONS)
def test_no_gene_starts_where_it_has_no_gradient(adata, loss, activation):
    model = tiny(adata, loss=loss, activation=activation)
    module = model._module()
    module.reconstruction_loss(model.cells.batch(model.split.train), 0).backward()
    gradient = module.decoder.genes.weight.grad.abs().sum(1)
    assert bool(gradient.isfinite().all())
    assert bool((gradient > 0).all())


# -- where training starts -------------------------------------------------------------------------


def constants(model):
    """Return the best constant expression of each gene, from the training cells that have it."""
    cells = model.cells.batch(model.split.train)
    counts = cells.dense().double().numpy()
    size = cells.library.double().numpy()[:, None] / 1e5
    seen = np.ones(counts.shape)
    if cells.observed is not None:
        seen = cells.observed.mask[cells.observed.panel_id.long()].double().numpy()
    if model.config.loss == "poisson":
        return np.log1p((counts / size).sum(0) / seen.sum(0))
    if model.config.loss in ("mse", "smooth_l1"):
        return np.log1p(counts / size).sum(0) / seen.sum(0)
    return np.log1p(counts.sum(0) / (size * seen).sum(0))


@pytest.mark.parametrize(
    ("loss", "activation"),
    # Shares of a softmax add up to 1, means of logarithms to nothing in particular.
    [(a, b) for a, b in COMBINATIONS if b != "softmax" or a == "poisson"],
)
@pytest.mark.parametrize("sets", ["one", "two"])
def test_every_gene_starts_at_the_best_constant(adata, two_sets, loss, activation, sets):
    if activation == "softmax" and sets == "two":
        pytest.skip("what is constant in both sets is not so as a share of either's genes")
    model = tiny(adata if sets == "one" else two_sets, loss=loss, activation=activation)
    module = model._module()
    with torch.no_grad():
        found = module.expression(torch.zeros(1, 16))[0]
    # Where counts may be lost, `expression` is of the counts to expect, and that is what fits.
    np.testing.assert_allclose(found, constants(model), rtol=1e-4, atol=1e-5)


def test_a_gene_that_no_training_cell_has_starts_finite(adata, two_sets):
    never = adata.copy()
    never.X = never.X.multiply(np.arange(60) != 7).tocsr()
    for loss, activation in COMBINATIONS:
        for cells in (never, two_sets):
            model = tiny(cells, loss=loss, activation=activation, genes=list(adata.var_names))
            if cells is two_sets:  # the genes of the second set alone are nobody's
                model.split = dataclasses.replace(model.split, train=np.arange(80))
            with pytest.warns(UserWarning, match="have no counts in any training cell"):
                module = model._module()
            assert all(bool(p.isfinite().all()) for p in module.parameters())
            loss_there = module.reconstruction_loss(model.cells.batch([0, 5]), 0)
            assert math.isfinite(loss_there.item())


def test_the_inverse_dispersion_starts_at_that_of_the_counts():
    # One state of cells, in which variance = μ + 0.25·μ² of every gene: θ = 4.
    cells = datasets.simulate(3000, 40, 1, 0, mean_counts=2000.0, dispersion=0.25, seed=1)
    module = tiny(cells, loss="negative_binomial")._module()
    theta = module.log_inverse_dispersion.detach().exp()
    assert float(theta.median()) == pytest.approx(4, rel=0.1)
    assert 0.01 <= float(theta.min()) <= float(theta.max()) <= 100


# -- training --------------------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[ABLATIONS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in ABLATIONS[1:])],
    ids=str,
)
def trained(adata, request):
    loss, activation = request.param
    return train(tiny(adata, loss=loss, activation=activation))


def train(model):
    options = {"batch_size": 16, "learning_rate": 3e-3, "validate_every": 1, "progress": False}
    return model.train(24, **options)


def assert_learnt(model):
    for name in ("train", "validation"):
        figures = [record["loss"] for record in model.history.select(name)]
        assert figures[-1] < figures[0], name


def test_training_lowers_the_loss_of_training_and_validation_cells(trained):
    assert_learnt(trained)


@pytest.mark.parametrize(
    ("loss", "activation"),
    [
        ("mse", None),
        *(
            pytest.param(*a, marks=pytest.mark.slow)
            for a in [("zinb", None), ("poisson", "softmax")]
        ),
    ],
)
def test_two_sets_with_different_genes_train_together(two_sets, loss, activation):
    model = train(tiny(two_sets, loss=loss, activation=activation))
    assert_learnt(model)
    assert model.get_latent_representation().shape == (200, 16)


@pytest.mark.parametrize(("loss", "activation"), ABLATIONS)
def test_a_gene_that_a_cells_set_lacks_learns_nothing_from_the_cell(two_sets, loss, activation):
    model = tiny(two_sets, loss=loss, activation=activation)
    module = perturbed(model)
    cells = model.cells.batch([0])
    module.reconstruction_loss(cells, 0).backward()
    lacking = cells.observed.mask[cells.observed.panel_id.long()][0] == 0
    per_gene = [module.decoder.genes.weight, module.decoder.genes.bias, module.embedding.table]
    if module.log_inverse_dispersion is not None:
        per_gene.append(module.log_inverse_dispersion)
    if module.dropout is not None:
        per_gene += [module.dropout.weight, module.dropout.bias]
    for parameter in per_gene:
        assert (parameter.grad[lacking] == 0).all()
        assert (parameter.grad[~lacking] != 0).any()


def test_the_negative_binomials_learn_their_own_parameters(adata):
    model = tiny(adata, loss="zinb")
    before = model._module()
    module = model.train(2, batch_size=32, progress=False).trained.module
    for name in ("log_inverse_dispersion", "dropout.weight", "dropout.bias"):
        after, at_first = module.get_parameter(name), before.get_parameter(name)
        assert not torch.equal(after, at_first), name
    assert tiny(adata)._module().head[2:] == (None, None, None)


def test_bf16_changes_the_loss_little(adata):
    found = {}
    for precision in ("float32", "bf16"):
        model = tiny(adata, loss="zinb", activation="softmax")
        model.train(2, batch_size=32, precision=precision, progress=False)
        found[precision] = model.history.select("train")[-1]["loss"]
    assert found["bf16"] == pytest.approx(found["float32"], rel=0.02)


# -- afterwards ------------------------------------------------------------------------------------


def test_expression_is_of_normalised_counts_whatever_the_loss(adata, trained):
    found = trained.get_normalized_expression(adata, n_tokens=24)  # as in so short a training
    assert found.shape == (200, len(trained.genes))
    assert found.dtype == np.float32
    x = trained.module.targets(trained.cells.batch(np.arange(200))).dense().numpy()
    of_logarithms = trained.config.loss in ("mse", "smooth_l1")
    wanted = x.mean(0) if of_logarithms else np.log1p(np.expm1(x).mean(0))
    assert np.corrcoef(found.mean(0), wanted)[0, 1] > 0.9
    if not of_logarithms:  # after so few cells; without 1 − π or L it would be far off
        assert np.expm1(found).mean(0).sum() == pytest.approx(1e5, rel=0.1)


@pytest.mark.parametrize(("loss", "activation"), COMBINATIONS)
def test_expression_is_the_formula_in_float64(two_sets, loss, activation):
    model = tiny(two_sets, loss=loss, activation=activation)
    module = perturbed(model).double()
    cells = model.cells.batch(np.arange(90, 110))
    seen = cells.observed.mask[cells.observed.panel_id.long()].numpy() != 0
    with torch.no_grad():
        hidden = torch.randn(20, 16, dtype=torch.float64)
        z = module.decoder.genes(hidden).numpy()
        logits = None if module.dropout is None else module.dropout(hidden).numpy()
        found = module.expression(hidden, cells.observed)
    # torch's softplus drops an e^−20.
    expected = expected_expression(model.config, z, seen, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_softmax_shares_out_the_counts_of_the_genes_there_are(two_sets):
    model = tiny(two_sets, activation="softmax").train(1, batch_size=32, progress=False)
    rates = np.expm1(model.get_normalized_expression().astype(np.float64))
    cells = model.cells.batch(np.arange(200))
    seen = cells.observed.mask[cells.observed.panel_id.long()].numpy() != 0
    assert seen[0].sum() == seen[199].sum() == 45
    np.testing.assert_allclose((rates * seen).sum(1), 1e5, rtol=1e-4)


def test_expression_of_some_genes_is_that_of_all(adata, trained):
    whole = trained.get_normalized_expression(adata)
    some = trained.get_normalized_expression(adata, genes=list(trained.genes[[4, 1]]))
    np.testing.assert_allclose(some, whole[:, [4, 1]], rtol=1e-4, atol=1e-5)


def test_saving_and_loading_keeps_every_parameter(adata, trained, tmp_path):
    trained.save(tmp_path / "model")
    loaded = CellEncoder.load(tmp_path / "model")
    assert loaded.config == trained.config
    before, after = trained.module.state_dict(), loaded.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    np.testing.assert_array_equal(
        loaded.get_normalized_expression(adata), trained.get_normalized_expression(adata)
    )


def test_a_resumed_run_equals_an_uninterrupted_one(adata, tmp_path):
    class Stop(Exception):
        pass

    settings = {"loss": "zinb", "activation": "softmax"}
    options = {"batch_size": 32, "progress": False, "checkpoint_every_epochs": 1}
    whole = tiny(adata, **settings).train(4, **options)
    model = tiny(adata, **settings)
    made = model._module

    def stopping():
        module = made()
        on_step = module.on_step

        def stop(step, total):
            if step == 11 and total > 1:
                raise Stop
            on_step(step, total)

        module.on_step = stop
        return module

    model._module = stopping
    with pytest.raises(Stop):
        model.train(4, run_dir=tmp_path / "run", **options)
    again = tiny(adata, **settings).train(4, run_dir=tmp_path / "run", resume=True, **options)
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name
