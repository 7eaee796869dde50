"""One block read from genes and values: the numbers of their tokens, which are never made."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernomics.nn import Encoder, TokenEmbedding, gene_attention
from kernomics.ops import _native


def made(genes: int, width: int, heads: int, n_layers: int = 1) -> tuple[Encoder, TokenEmbedding]:
    """An encoder whose norms, biases and scales are not those of the start."""
    torch.manual_seed(1)
    encoder = Encoder(width, n_layers, heads, layer_scale=0.5)
    embedding = TokenEmbedding(genes, width)
    with torch.no_grad():
        embedding.cls.normal_()
        for parameter in encoder.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return encoder, embedding


def revealed(cells: int, genes: int, k: int, padded: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(cells)
    ids = torch.rand(cells, genes, generator=generator).argsort(1)[:, :k].sort(1).values.int()
    values = 8 * torch.rand(cells, k, generator=generator)
    if not padded:
        return ids, values, None
    padding = torch.arange(k) >= torch.arange(cells)[:, None]  # the first cell has no gene
    return ids.masked_fill(padding, -1), values.masked_fill(padding, 0.0), padding


def by_tokens(
    encoder: Encoder, embedding: TokenEmbedding, ids: Tensor, values: Tensor, padding: Tensor | None
) -> Tensor:
    from bench.txfm.eager import block

    mask = None if padding is None else ~F.pad(padding, (1, 0))[:, None, None]
    x = block(encoder.blocks[0], embedding(ids, values), mask, None, True)  # type: ignore[arg-type]
    return encoder.norm(x[:, 0])  # type: ignore[no-any-return]


def by_genes(encoder: Encoder, embedding: TokenEmbedding, *genes: Any) -> Tensor:
    return encoder.of_genes(embedding, *genes)


def gradients(
    read: Callable[..., Tensor], encoder: Encoder, embedding: TokenEmbedding, *genes: Any
) -> list[Tensor]:
    ids, values, padding = genes
    values = values.to(embedding.table.dtype).requires_grad_()
    out = read(encoder, embedding, ids, values, padding)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out.dtype)
    leaves = [values, *embedding.parameters(), *encoder.parameters()]
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@settings(max_examples=25, deadline=None)
@given(
    cells=st.integers(1, 6),
    genes=st.integers(1, 30),
    heads=st.sampled_from([1, 2, 4]),
    padded=st.booleans(),
    gathered=st.booleans(),
    scatter=st.booleans(),
    swept=st.booleans(),
    data=st.data(),
)
def test_numbers_and_gradients_are_those_of_tokens(
    cells: int,
    genes: int,
    heads: int,
    padded: bool,
    gathered: bool,
    scatter: bool,
    swept: bool,
    data: Any,
) -> None:
    k = data.draw(st.integers(1, genes))
    encoder, embedding = (part.double() for part in made(genes, 8, heads))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gene_attention, "LONGER", 0 if gathered else 8)
        if not swept:
            patch.setattr(gene_attention.kernels, "usable", lambda *_: False)
        sums = gene_attention._sums_by_gene
        patch.setattr(gene_attention, "_sums_by_gene", lambda *of: sums(*of[:3], scatter))
        shown = revealed(cells, genes, k, padded)
        found = gradients(by_genes, encoder, embedding, *shown)
        expected = gradients(by_tokens, encoder, embedding, *shown)
    if padded:  # a value that is not shown has no gradient; as a token of zeros none either
        assert not found[1].masked_select(shown[2]).any()  # type: ignore[arg-type]
    for one, other in zip(found, expected, strict=True):
        # Gradients of values and embeddings go through 1/σ.
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("way", ["swept", "gathered", "whole"])
def test_float32_differs_by_rounding_alone(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(gene_attention, "LONGER", 0 if way == "gathered" else 8)
    if way != "swept":
        monkeypatch.setattr(gene_attention.kernels, "usable", lambda *_: False)
    shown = revealed(16, 700, 400, False)
    parts = made(700, 64, 4)
    with torch.no_grad():
        parts[1].table += 30  # a mean far from 0, of which the norm must not lose digits
    found, expected = (gradients(read, *parts, *shown) for read in (by_genes, by_tokens))
    exact = gradients(by_tokens, *(part.double() for part in parts), *shown)
    for one, other, true in zip(found, expected, exact, strict=True):
        error = (other - true).abs().max()
        assert (one - true).abs().max() <= 4 * error + 1e-6 * true.abs().max()


def test_a_gene_named_twice_counts_twice() -> None:
    encoder, embedding = (part.double() for part in made(9, 8, 2))
    ids, values = torch.tensor([[3, 3, 5], [0, 1, 1]]), torch.rand(2, 3)
    found = gradients(by_genes, encoder, embedding, ids, values, None)
    for one, other in zip(
        found, gradients(by_tokens, encoder, embedding, ids, values, None), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_reading_genes_is_reading_their_tokens(n_layers: int) -> None:
    encoder, embedding = made(30, 16, 4, n_layers)
    ids, values, padding = revealed(4, 30, 12, True)
    tokens = embedding(ids, values)
    found = encoder.of_genes(embedding, ids, values, padding)
    assert padding is not None
    torch.testing.assert_close(found, encoder(tokens, F.pad(padding, (1, 0))), rtol=1e-4, atol=1e-5)
    if n_layers == 1:
        torch.testing.assert_close(found, encoder.layers(tokens, F.pad(padding, (1, 0)))[0])


def test_autocast_leaves_it_in_float32() -> None:
    """Nothing in it is large enough to gain from bfloat16; the layers behind it are rounded."""
    encoder, embedding = made(60, 64, 4)
    shown = revealed(8, 60, 40, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = (
            gradients(read, encoder, embedding, *shown) for read in (by_genes, by_tokens)
        )
    exact = gradients(by_tokens, encoder, embedding, *shown)
    for one, other, true in zip(found, expected, exact, strict=True):
        assert (one - true).norm() <= 1.5 * (other.float() - true).norm() + 1e-6 * true.norm()


def test_the_unused_column_of_the_table_has_no_gradient() -> None:
    encoder, embedding = made(20, 16, 4)
    encoder.of_genes(embedding, *revealed(3, 20, 9, False)).square().sum().backward()
    assert embedding.table.grad is not None
    assert not embedding.table.grad[:, -1].any()
    assert embedding.table.grad[:, :-1].any()


@pytest.mark.parametrize("heads", [1, 3, 6])
@pytest.mark.parametrize("width", [6, 48])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_give_the_same_bits_for_any_threads_and_instructions(
    heads: int, width: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(3)
    ids, values, _ = revealed(40, 300, 200, True)  # of width 48 enough work for a team
    a, delta = (torch.randn(heads, n, width, generator=generator) for n in (1, 40))
    table = torch.randn(301, width, generator=generator)
    centred, means, squares = gene_attention._centred([table.to(dtype)])
    given = (ids.long(), values.to(dtype), torch.tensor([0.7], dtype=dtype), 1e-5)
    before, isa, found = torch.get_num_threads(), _native.cpu().isa(), []
    # A product of torch's, whose bits hang on threads.
    scores = centred @ a[:, 0].to(dtype).t()
    try:
        for threads, name in product((1, 2, 3), _native.cpu().isas()):
            torch.set_num_threads(threads)
            _native.cpu().use_isa(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.Tensor, "__matmul__", lambda *_: scores)
                out, kept = gene_attention.kernels.gene_means(
                    a[:, 0].to(dtype), centred, means, squares, *given
                )
            of = gene_attention.kernels.gene_means_backward(delta.to(dtype), kept, 1e-5)
            found.append([out, *of])
    finally:
        torch.set_num_threads(before)
        _native.cpu().use_isa(isa)
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert torch.equal(one, same)


def test_a_gene_that_does_not_exist_is_an_error() -> None:
    encoder, embedding = made(9, 8, 2)
    ids = torch.tensor([[1, 2], [3, 9]])
    with pytest.raises(ValueError, match=r"gene_ids\[1, 1\] = 9 is not one of 9 genes"):
        encoder.of_genes(embedding, ids, torch.ones(2, 2))
