"""What the network sees, predicts and loses, and how its vocabulary grows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from staged_example import SMALL, collection, staged

from kernomics.models.gil.config import GILConfig
from kernomics.models.gil.module import GILModule
from kernomics.models.gil.tokens import expressed_genes
from kernomics.nn import drawing_from


def module_of(n_genes: int = 40, seed: int = 0, **settings) -> GILModule:
    config = GILConfig(**{**SMALL, "layer_scale": 0.5, **settings})
    with drawing_from(seed):
        module = GILModule(n_genes, config, seed)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn(parameter.shape) * 0.1)
    return module


def plain(module: GILModule, tokens):
    """The network in plain torch, a cell at a time."""
    states, of_tokens, of_queries = [], [], []
    for cell in range(len(tokens.lengths)):
        mine = tokens.cells == cell
        genes, hidden = tokens.gene_ids[mine], tokens.hidden[mine]
        values = torch.where(hidden, -1.0, tokens.values[mine]).to(module.genes.dtype)
        if module.values is None:
            x = torch.cat([module.genes[genes][:, :-1], values[:, None]], 1)
        else:
            x = module.genes[genes] + module.values(values[:, None])
        x = torch.cat([module.cls[None], x])[None]
        for block in module.encoder.blocks:
            x = block(x, None, None)
        x = module.encoder.norm(x)[0]
        states.append(x[0])
        of_tokens.append(module.token_head(x[1:][hidden])[:, 0])
        query = torch.sigmoid(module.query[0](module.genes[genes[hidden]].detach()))
        state = module.query_head(x[0])
        of_queries.append((query @ state) / query.shape[1] ** 0.5 + module.query_bias(query)[:, 0])
    return torch.stack(states), torch.cat(of_tokens), torch.cat(of_queries)


def plain_detection(module: GILModule, tokens, states):
    """The loss of telling hidden genes from unexpressed ones, a gene at a time."""
    losses = [[], []]
    for cell, state in enumerate(states):
        hidden = (tokens.cells == cell) & tokens.hidden
        absent = tokens.unexpressed[cell][tokens.unexpressed[cell] >= 0]
        asked = [(0, gene, 0.0) for gene in absent]
        asked += [
            (1, g, v) for g, v in zip(tokens.gene_ids[hidden], tokens.values[hidden], strict=True)
        ]
        for which, gene, value in asked:
            query = module.query(module.genes[gene].detach())
            found = module.detection_head(state) @ query / query.shape[0] ** 0.5
            losses[which].append((found + module.detection_bias(query)[0] - value) ** 2)
    return (torch.stack(losses[0]).mean() + torch.stack(losses[1]).mean()) / 2


@pytest.mark.parametrize("combine", ["add", "concat"])
def test_predictions_and_gradients_are_those_of_the_plain_network(combine):
    module = module_of(combine=combine).double()
    batch = collection().batch(np.arange(12))
    tokens = module.tokens(batch, module.at(4))
    found, expected = module(tokens), plain(module, tokens)
    for one, other in zip((found.cls, found.tokens, found.queries), expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)
    loss = module.value_losses(found)["loss"]
    truth = tokens.values[tokens.hidden].double()
    plain_loss = F.mse_loss(expected[1], truth) + F.mse_loss(expected[2], truth)
    plain_loss = plain_loss + 2 * plain_detection(module, tokens, expected[0])
    torch.testing.assert_close(loss, plain_loss, rtol=1e-6, atol=1e-6)
    parameters = list(module.parameters())
    for one, other in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(plain_loss, parameters),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_hidden_values_are_not_seen():
    module = module_of()
    tokens = module.tokens(collection().batch(np.arange(12)), module.at(4))
    planted = tokens._replace(values=torch.where(tokens.hidden, 1e6, tokens.values))
    for one, other in zip(module(tokens)[:3], module(planted)[:3], strict=True):
        assert torch.equal(one, other)


def test_a_gene_that_is_asked_for_learns_nothing_from_that():
    module = module_of()
    cls = torch.randn(2, 16, requires_grad=True)
    asked = module.ask(cls, torch.tensor([0, 1, 1]), torch.tensor([3, 3, 5]))
    assert asked.shape == (3,)
    asked.sum().backward()
    assert module.genes.grad is None
    assert cls.grad is not None


def test_poisson_loss_is_least_where_the_prediction_is_the_value():
    module = module_of(loss="poisson")
    values = torch.tensor([0.5, 2.0, 6.0])
    outputs = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([outputs], lr=0.05)
    for _ in range(2000):
        optimizer.zero_grad()
        (module.losses(outputs, values) / torch.expm1(values)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(module.predicted(outputs.detach()), values, rtol=1e-3, atol=1e-3)
    rate = torch.expm1(values)
    at = module.losses(outputs.detach(), values)
    torch.testing.assert_close(at, rate - rate * rate.log(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("loss", ["mse", "poisson"])
def test_predictions_start_from_the_value_given(loss):
    module = module_of(loss=loss, layer_scale=1e-3)
    module.start_from(2.5)
    with torch.no_grad():
        for layer in (module.token_head[2], module.query_bias, module.query_head):
            layer.weight.zero_()
        module.query_head.bias.zero_()
    outputs = module(module.tokens(collection().batch(np.arange(5)), module.at(0)))
    for part in (outputs.tokens, outputs.queries):
        torch.testing.assert_close(part, torch.full_like(part, 2.5), rtol=1e-3, atol=1e-3)


def test_growing_leaves_what_is_known_and_adds_the_same_rows_whenever_it_comes():
    one, other = module_of(28), module_of(28)
    before = one.genes.detach().clone()
    one.grow(34)
    one.grow(40)
    assert torch.equal(one.genes[:28], before)
    assert torch.equal(other.grown([28, 34, 40]).genes, one.genes)
    assert other.n_genes == 28
    one.grow(34)
    assert one.n_genes == 40
    assert not torch.equal(one.genes[28:34], one.genes[34:40])


def test_a_batch_without_hidden_genes_has_a_loss_of_zero_that_can_be_learnt_from():
    module = module_of()
    tokens = expressed_genes(collection().batch(np.arange(3)), 1e4)
    losses = module.value_losses(module(tokens))
    assert losses["loss"].item() == 0
    losses["loss"].backward()


def test_genes_of_other_stages_are_not_among_the_tokens():
    found, module = staged(), module_of()
    group = torch.from_numpy(found.stages.group_of_gene())
    for stage in range(3):
        cells = found.cells.batch(found.rows(stage))
        tokens = module.tokens(cells, module.at(0))
        assert set(group[tokens.gene_ids].tolist()) == {0, stage}
