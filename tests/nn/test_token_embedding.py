import pytest
import torch

from kernomics.errors import ConfigError
from kernomics.nn import TokenEmbedding
from kernomics.ops import reference


def drawn(combine: str):
    torch.manual_seed(0)
    layer = TokenEmbedding(30, 8, combine)
    gene_ids = torch.randint(-1, 30, (5, 7))
    values = torch.rand((5, 7) if combine == "concat" else (5, 7, 8))
    return layer, gene_ids, values


@pytest.mark.parametrize("combine", ["concat", "add"])
def test_tokens_are_cls_then_genes_with_their_values(combine):
    layer, gene_ids, values = drawn(combine)
    concat = combine == "concat"
    expected = reference.embed_tokens(
        gene_ids,
        values if concat else None,
        layer.table,
        combine=combine,
        value_embedding=None if concat else values,
        cls=layer.cls,
    )
    assert torch.equal(layer(gene_ids, values), expected)
    assert torch.equal(expected[:, 0], layer.cls.expand(5, 8))


def test_initial_embeddings_are_normal():
    torch.manual_seed(0)
    layer = TokenEmbedding(2000, 65)
    # 128,000 draws: the mean's standard error is 0.0028, that of the standard deviation 0.002.
    assert abs(layer.gene_embeddings.mean().item()) < 0.014
    assert layer.gene_embeddings.std().item() == pytest.approx(1, abs=0.01)
    assert layer.cls.std().item() == pytest.approx(0.02, rel=0.5)
    assert not layer.table[:, -1].any()
    added = TokenEmbedding(2000, 65, "add").table
    assert added.std().item() == pytest.approx(0.02, abs=2e-4)
    assert added[:, -1].all()


def test_gene_embeddings_are_a_view_without_the_unused_column():
    concat, add = TokenEmbedding(30, 8), TokenEmbedding(30, 8, "add")
    assert concat.gene_embeddings.shape == (30, 7)
    assert add.gene_embeddings.shape == (30, 8)
    assert concat.gene_embeddings.data_ptr() == concat.table.data_ptr()
    assert concat.n_parameters == 30 * 7 + 8
    assert add.n_parameters == 30 * 8 + 8


@pytest.mark.parametrize("optimizer_class", [torch.optim.AdamW, torch.optim.SGD])
def test_training_with_weight_decay_never_moves_the_unused_column(optimizer_class):
    layer, gene_ids, values = drawn("concat")
    before = layer.gene_embeddings.detach().clone()
    optimizer = optimizer_class(layer.parameters(), lr=0.1, weight_decay=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        layer(gene_ids, values).square().sum().backward()
        optimizer.step()
    assert not layer.table[:, -1].any()
    assert bool((layer.gene_embeddings != before).any(1).all())


def test_an_embedding_of_the_values_learns_with_add():
    layer, gene_ids, values = drawn("add")
    values.requires_grad_()
    tokens = layer(gene_ids, values)
    tokens.sum().backward()
    expected = (gene_ids >= 0)[..., None].expand(5, 7, 8).float()
    assert torch.equal(values.grad, expected)


def test_an_unknown_way_to_combine_is_refused():
    with pytest.raises(ConfigError, match="combine is 'multiply'; it must be one of concat, add"):
        TokenEmbedding(3, 4, "multiply")
