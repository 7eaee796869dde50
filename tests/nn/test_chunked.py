"""A sum over chunks is the sum, with its gradients, whatever the size of a chunk."""

import pytest
import torch
import torch.nn.functional as F

from kernomics.nn import chunked as in_chunks
from kernomics.nn.chunked import sum_over_chunks

GENES = 10
TARGET = torch.arange(70.0).double().reshape(7, GENES).sin()


def squared_softmax(start, stop, hidden, weight, bias, scale):
    """A loss of all genes of a cell together, with one parameter that may be None."""
    z = F.linear(hidden, weight, bias).log_softmax(1)
    z = z if scale is None else z * scale
    return (z - TARGET[start:stop].to(z)).square().sum()


def drawn(cells=7, scale=True):
    torch.manual_seed(0)
    shapes = [(cells, 4), (GENES, 4), (GENES,), (GENES,)]
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    return [*leaves[:3], leaves[3] if scale else None]


@pytest.mark.parametrize("entries", [1, 20, 35, 70, 10**6])
@pytest.mark.parametrize("scale", [True, False])
def test_loss_and_gradients_are_those_of_all_cells_at_once(monkeypatch, entries, scale):
    monkeypatch.setattr(in_chunks, "ENTRIES_AT_A_TIME", entries)
    inputs = drawn(scale=scale)
    leaves = [t for t in inputs if t is not None]
    found = sum_over_chunks(squared_softmax, GENES, *inputs)
    expected = squared_softmax(0, 7, *inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    for mine, its in zip(
        torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * expected, leaves),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-10)


def test_no_chunk_is_larger_than_allowed(monkeypatch):
    monkeypatch.setattr(in_chunks, "ENTRIES_AT_A_TIME", 3 * GENES + 1)
    seen = []

    def loss(start, stop, hidden):
        seen.append((start, stop, len(hidden)))
        return hidden.sum()

    hidden = torch.ones(7, 4)
    assert float(sum_over_chunks(loss, GENES, hidden)) == 28
    assert seen == [(0, 3, 3), (3, 6, 3), (6, 7, 1)]


def test_gradients_not_asked_for_are_not_made(monkeypatch):
    monkeypatch.setattr(in_chunks, "ENTRIES_AT_A_TIME", 20)
    hidden, weight, bias, scale = drawn()
    frozen = hidden.detach(), weight.detach()
    loss = sum_over_chunks(squared_softmax, GENES, *frozen, bias, scale)
    loss.backward()
    expected = drawn()
    squared_softmax(0, 7, *expected).backward()
    torch.testing.assert_close(bias.grad, expected[2].grad, rtol=1e-10, atol=1e-10)
    assert hidden.grad is None
    assert weight.grad is None
    with torch.no_grad():
        without = sum_over_chunks(squared_softmax, GENES, hidden, weight, bias, scale)
    assert not without.requires_grad
    assert without == loss.detach()
    assert not sum_over_chunks(squared_softmax, GENES, *frozen, None, None).requires_grad


def test_autocast_changes_nothing():
    inputs = [t.detach().float().requires_grad_() for t in drawn()]
    expected = torch.autograd.grad(sum_over_chunks(squared_softmax, GENES, *inputs), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(sum_over_chunks(squared_softmax, GENES, *inputs), inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_of_no_cells_it_is_zero():
    inputs = drawn(cells=0)
    loss = sum_over_chunks(squared_softmax, GENES, *inputs)
    loss.backward()
    assert loss == 0
    assert inputs[1].grad is None
