"""The engines: their formulas, Captum, completeness, and pairs one by one."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from phenotyped_cells import collection, module_of, plain_network
from torch import nn

from kernomics.attribution import (
    PhenotypeSource,
    attribute_pairs,
    deeplift_pairs,
    grad_x_delta,
    integrated_gradients,
    make_pairs,
)
from kernomics.attribution.complete_engines import deeplift_empty
from kernomics.attribution.gradient_engines import empty_baselines
from kernomics.models import PhenotypeModel

DRUG, CONTROL = 1, 0


@pytest.fixture(scope="module")
def cells():
    return collection()


def source_of(cells, *, given=(), output="logits", double=True, **settings) -> PhenotypeSource:
    module = module_of(**settings)
    model = PhenotypeModel(module.double() if double else module, cells.genes.tolist(), {})
    return PhenotypeSource(model, cells, "treatment", given, output=output)


def some_pairs(cells, n=9):
    pairs = make_pairs(cells.labels["treatment"], "drug", "control", np.arange(240), n_pairs=n)
    return pairs.case, pairs.baseline


def dense(source, scores, values):
    """Scores [P, G] of a flat result."""
    found = torch.zeros(len(scores.outputs), len(source.genes), dtype=torch.float64)
    found[scores.blend.pairs, scores.blend.gene_ids] = values.double()
    return found


class Padded(nn.Module):
    """The padded network, with an embedding layer that Captum can hold on to."""

    class Embedding(nn.Module):
        def __init__(self, plain, module):
            super().__init__()
            self.plain, self.module = plain, module

        def forward(self, gene_ids, bins):
            found = self.plain.embed(self.module, gene_ids.clamp_min(0), bins.clamp_min(0))
            return found * (gene_ids >= 0)[..., None]

    def __init__(self, plain, source):
        super().__init__()
        self.plain, self.source = plain, source
        self.module = source.model.module
        self.embedding = self.Embedding(plain, self.module)

    def forward(self, gene_ids, bins, codes):
        n_first = codes.shape[1]
        phenotypes = self.module.embed_phenotypes(codes).view(len(codes), n_first, -1)
        genes = self.embedding(gene_ids, bins)
        states = self.plain.states(self.module, phenotypes, genes, gene_ids >= 0)
        return self.module.heads[self.source.at](states[:, self.source.at])


def blended_ids(source, case, baseline):
    """Genes and bins of pairs at common positions, [P, longest] each, −1 where a cell has none."""
    module, parts = source.model.module, []
    for rows in (case, baseline):
        tokens = module.gene_tokens(source.view.batch(rows))
        bins = torch.full((len(rows), len(source.genes)), -1)
        bins[tokens.cells, tokens.gene_ids] = tokens.bins
        parts.append(bins)
    either = (parts[0] >= 0) | (parts[1] >= 0)
    longest = int(either.sum(1).max())
    order = torch.argsort(either.int(), dim=1, descending=True, stable=True)[:, :longest]
    found = []
    for bins in parts:
        own = bins.gather(1, order)
        found.append((torch.where(own >= 0, order, -1), own))
    return found, order, either.gather(1, order)


@pytest.mark.parametrize("given", [(), ("cell_type",)])
def test_grad_x_delta_is_what_captum_returns_on_a_transformer(cells, given):
    attr = pytest.importorskip("captum.attr")
    source = source_of(cells, given=given)
    model = Padded(plain_network(), source)
    case, baseline = some_pairs(cells)
    (of_case, of_base), genes, there = blended_ids(source, case, baseline)
    codes = [torch.from_numpy(source.codes[rows]) for rows in (case, baseline)]
    found = grad_x_delta(source, case, baseline, DRUG)
    lift = attr.LayerDeepLift(model, model.embedding)
    directions = ((of_case, of_base, codes[0], found.forward),
                  (of_base, of_case, codes[1], found.backward))  # fmt: skip
    for inputs, reference, shown, ours in directions:
        theirs = lift.attribute(
            inputs, reference, target=DRUG, additional_forward_args=(shown,)
        ).sum(-1)
        expected = torch.zeros(len(case), len(source.genes), dtype=torch.float64)
        expected.scatter_add_(1, genes, torch.where(there, theirs.detach(), 0.0))
        torch.testing.assert_close(dense(source, found, ours), expected, rtol=1e-6, atol=1e-9)


def test_hooks_miss_the_rules_so_captum_is_not_complete(cells):
    """The published figures are gradient times difference: the sum is far from the effect."""
    source = source_of(cells)
    found = grad_x_delta(source, *some_pairs(cells), DRUG)
    total = dense(source, found, found.forward).sum(1)
    effect = found.outputs[:, 0] - found.outputs[:, 1]
    assert ((total - effect).abs() > 0.1 * effect.abs()).any()


def test_one_pair_by_hand(cells):
    source = source_of(cells)
    case, baseline = (rows[:1] for rows in some_pairs(cells))
    sides = []
    for rows in (case, baseline):
        inputs = source.inputs(rows)
        features = inputs.features.clone().requires_grad_()
        (slope,) = torch.autograd.grad(source.outputs(inputs, features)[0, DRUG], features)
        sides.append((inputs.gene_ids.tolist(), inputs.features, slope))
    found = grad_x_delta(source, case, baseline, DRUG)
    for values, (own, other) in (
        (found.forward, sides), (found.backward, sides[::-1])
    ):  # fmt: skip
        for gene, value in zip(found.blend.gene_ids.tolist(), values.tolist(), strict=True):
            if gene not in own[0]:
                assert value == 0
                continue
            at = own[0].index(gene)
            delta = own[1][at] - (other[1][other[0].index(gene)] if gene in other[0] else 0)
            assert value == pytest.approx(float(own[2][at] @ delta), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("engine", [grad_x_delta, deeplift_pairs, integrated_gradients])
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_many_pairs_are_their_pairs_one_by_one(cells, engine, output):
    source = source_of(cells, output=output)
    case, baseline = some_pairs(cells, 7)
    together = engine(source, case, baseline, DRUG)
    for values, name in ((together.forward, "forward"), (together.backward, "backward"),
                         (together.change, "change")):  # fmt: skip
        whole = dense(source, together, values)
        for i in range(7):
            one = engine(source, case[i : i + 1], baseline[i : i + 1], DRUG)
            alone = dense(source, one, getattr(one, name))[0]
            torch.testing.assert_close(whole[i], alone, rtol=1e-6, atol=1e-12)


def test_integrated_gradients_add_up_to_the_effect(cells):
    source = source_of(cells)
    case, baseline = some_pairs(cells, 12)
    found = integrated_gradients(source, case, baseline, DRUG)
    total = dense(source, found, found.forward).sum(1)
    effect = found.outputs[:, 0] - found.outputs[:, 1]
    size = dense(source, found, found.forward).abs().sum(1)
    error = (total - effect).abs() / torch.maximum(effect.abs(), 0.1 * size)
    assert error.max() < 1e-4
    assert torch.equal(found.backward, -found.forward)


def test_integrated_gradients_of_cells_with_equal_genes_are_captums(cells):
    attr = pytest.importorskip("captum.attr")
    source = source_of(cells)
    case = some_pairs(cells, 1)[0]
    inputs = source.inputs(case)
    module = source.model.module
    start = module.embed_genes(inputs.gene_ids, torch.ones_like(inputs.gene_ids))

    class Same:
        genes, view = source.genes, source.view

        def inputs(self, rows):
            found = source.inputs(np.repeat(case, len(rows)))
            own = len(inputs.features)
            parts = [inputs.features if row == 1 else start for row in rows]
            return found.__class__(
                found.gene_ids[: own * len(rows)], found.lengths, torch.cat(parts),
                found.expression, np.repeat(case, len(rows)),
            )  # fmt: skip

        outputs = staticmethod(source.outputs)

    found = integrated_gradients(Same(), np.array([1]), np.array([0]), DRUG)

    def forward(features):
        parts = [source.outputs(inputs, one)[0] for one in features]
        return torch.stack(parts)

    theirs = attr.IntegratedGradients(forward).attribute(
        inputs.features[None], start[None], target=DRUG, n_steps=64, method="gausslegendre"
    )[0].sum(1)  # fmt: skip
    torch.testing.assert_close(found.forward, theirs, rtol=1e-4, atol=1e-7)


def test_captums_path_between_cells_of_other_genes_does_not_add_up_and_ours_does(cells):
    """A mask that is switched jumps, and no number of steps converges."""
    attr = pytest.importorskip("captum.attr")
    source = source_of(cells)
    model = Padded(plain_network(), source)
    case, baseline = some_pairs(cells, 6)
    (of_case, of_base), _, _ = blended_ids(source, case, baseline)
    codes = torch.from_numpy(source.codes[case])
    lift = attr.LayerIntegratedGradients(model, model.embedding)
    errors = []
    for n_steps in (32, 128):
        theirs = lift.attribute(
            of_case, of_base, target=DRUG, additional_forward_args=(codes,), n_steps=n_steps
        )  # fmt: skip
        ours = integrated_gradients(source, case, baseline, DRUG)
        effect = ours.outputs[:, 0] - ours.outputs[:, 1]
        errors.append((theirs.sum((1, 2)).detach() - effect).abs() / effect.abs())
    assert (errors[1] > 0.05).any()
    assert (errors[1] > 0.5 * errors[0]).all()  # four times the steps hardly help
    total = dense(source, ours, ours.forward).sum(1)
    assert ((total - effect).abs() < 1e-4 * effect.abs().clamp_min(0.1)).all()


def test_empty_baselines_are_gradient_times_features_of_each_cell(cells):
    source = source_of(cells)
    case, baseline = some_pairs(cells, 3)
    found = empty_baselines(source, case, baseline, DRUG, CONTROL)
    for rows, output, values, sign in (
        (case, DRUG, found.forward, 1), (baseline, CONTROL, found.backward, -1)
    ):  # fmt: skip
        inputs = source.inputs(rows)
        features = inputs.features.clone().requires_grad_()
        value = source.outputs(inputs, features)[:, output].sum()
        (slope,) = torch.autograd.grad(value, features)
        expected = torch.zeros(3, len(source.genes), dtype=torch.float64)
        pair = torch.repeat_interleave(torch.arange(3), inputs.lengths)
        expected[pair, inputs.gene_ids] = sign * (slope * inputs.features).sum(1)
        torch.testing.assert_close(dense(source, found, values), expected, rtol=1e-9, atol=1e-12)


def test_the_change_is_that_of_log_expression(cells):
    source = source_of(cells)
    case, baseline = some_pairs(cells, 5)
    found = grad_x_delta(source, case, baseline, DRUG)

    def expression(rows):
        batch = cells.batch(rows)
        return torch.log1p(batch.dense() * 1e4 / batch.library[:, None])

    expected = (expression(case) - expression(baseline)).double()
    torch.testing.assert_close(dense(source, found, found.change), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("double", "bound"), [(True, 1e-9), (False, 1e-4)])
@pytest.mark.parametrize("given", [(), ("cell_type",)])
def test_deeplift_adds_up_for_every_pair(cells, double, bound, given):
    source = source_of(cells, double=double, given=given)
    labels = [cells.labels[name] for name in given]
    pairs = make_pairs(
        cells.labels["treatment"], "drug", "control", np.arange(240), n_pairs=40, controlled=labels
    )
    case, baseline = pairs.case, pairs.baseline
    found = deeplift_pairs(source, case, baseline, DRUG)
    scores = dense(source, found, found.forward)
    effect = (found.outputs[:, 0] - found.outputs[:, 1]).double()
    with torch.no_grad():
        sides = [source.inputs(rows) for rows in (case, baseline)]
        alone = [source.outputs(side, side.features)[:, DRUG] for side in sides]
    torch.testing.assert_close(found.outputs, torch.stack(alone, 1), rtol=1e-5, atol=1e-6)
    error = (scores.sum(1) - effect).abs() / torch.maximum(effect.abs(), 0.1 * scores.abs().sum(1))
    assert error.max() <= bound
    assert torch.equal(found.backward, -found.forward)
    there = deeplift_pairs(source, baseline, case, DRUG)
    scale = scores.abs().sum(1, keepdim=True)
    assert ((scores + dense(source, there, there.forward)).abs() <= bound * scale).all()


def test_genes_of_one_cell_have_presence_alone_and_genes_of_both_none(cells):
    source = source_of(cells)
    found = deeplift_pairs(source, *some_pairs(cells, 12), DRUG)
    one_sided = (found.blend.first < 0) | (found.blend.second < 0)
    assert torch.equal(found.presence[one_sided], found.forward[one_sided])
    assert found.presence[one_sided].ne(0).all()
    assert not found.presence[~one_sided].any()
    assert found.forward[~one_sided].ne(0).any()


def test_against_an_empty_cell_everything_is_presence_and_adds_up(cells):
    source = source_of(cells)
    case, baseline = some_pairs(cells, 6)
    found = deeplift_empty(source, case, baseline, DRUG, CONTROL)
    total = dense(source, found, found.forward).sum(1)
    torch.testing.assert_close(
        total, found.outputs[:, 0] - found.outputs[:, 1], rtol=1e-9, atol=1e-11
    )
    assert torch.equal(found.presence, found.forward)
    of_baseline = dense(source, found, found.backward).sum(1)
    inputs = source.inputs(baseline)
    with torch.no_grad():
        own = source.outputs(inputs, inputs.features)[:, CONTROL]
        none = torch.full_like(inputs.expression, -torch.inf)
        empty = source.outputs(inputs, inputs.features, none)[:, CONTROL]
    torch.testing.assert_close(of_baseline, empty - own, rtol=1e-9, atol=1e-11)


def test_deeplift_and_integrated_gradients_agree_about_what_is_large(cells):
    source = source_of(cells)
    pair = some_pairs(cells, 5)
    one, two = (engine(source, *pair, DRUG) for engine in (deeplift_pairs, integrated_gradients))
    assert np.corrcoef(one.forward.numpy(), two.forward.numpy())[0, 1] > 0.9
    assert np.corrcoef(one.presence.numpy(), two.presence.numpy())[0, 1] > 0.9


def test_the_table_tells_the_part_of_presence(cells):
    source = source_of(cells)
    pairs = make_pairs(cells.labels["treatment"], "drug", "control", np.arange(240), n_pairs=30)
    found = attribute_pairs(source, pairs, DRUG, engine="deeplift")
    assert found.completeness.max() <= 1e-9
    assert (found.table["presence"].abs() > 0).any()
    assert "presence" not in attribute_pairs(source, pairs, DRUG).table
    unlike = attribute_pairs(source, pairs, DRUG, engine="deeplift", normalise=True).table
    assert not np.allclose(unlike["presence"], found.table["presence"])


@pytest.mark.parametrize("engine", ["grad_x_delta", "deeplift", "integrated_gradients"])
def test_no_kernel_is_compiled_and_kept_for_each_shape(cells, engine, capfd):
    """Memory grew with the pairs, as oneDNN's kernels of past shapes stood among the tensors."""
    source = source_of(cells, double=False)
    pairs = make_pairs(cells.labels["treatment"], "drug", "control", np.arange(240), n_pairs=9)
    onednn, flush = torch.backends.mkldnn, ctypes.CDLL(None).fflush
    before = onednn.enabled
    with onednn.verbose(onednn.VERBOSE_ON):
        attribute_pairs(source, pairs, DRUG, engine=engine)
        flush(None)
        assert "gelu" not in capfd.readouterr().out
        assert onednn.enabled == before
        torch.nn.functional.gelu(torch.ones(3, 5))
        flush(None)
        assert before == ("gelu" in capfd.readouterr().out)
