"""Our tokens and our Poisson loss in a plain torch model of expression.

K genes of each cell are revealed, a small network sees them as tokens and predicts all genes.
"""

import torch
from torch import nn

from kernomics.nn import TokenEmbedding
from kernomics.ops import linear_poisson_nll, sample_tokens


class Model(nn.Module):
    """Tokens of some genes, one hidden layer over their mean, and a layer that gives all genes."""

    def __init__(self, n_genes: int, width: int = 32) -> None:
        super().__init__()
        self.tokens = TokenEmbedding(n_genes, width)
        self.hidden = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.last = nn.Linear(width, n_genes)

    def loss(self, counts: torch.Tensor, step: int, n_tokens: int = 16) -> torch.Tensor:
        """Return the Poisson loss of all genes, given some, of raw counts [cells, genes]."""
        cells = torch.arange(len(counts), device=counts.device)
        seed = torch.tensor([0, step], device=counts.device)
        genes, values = sample_tokens(counts.to_sparse_csr(), n_tokens, cell_ids=cells, seed=seed)
        hidden = self.hidden(self.tokens(genes, values).mean(1))
        # The layer and the loss in one: the logits [cells, genes] are never held whole.
        return linear_poisson_nll(
            hidden, self.last.weight, self.last.bias, counts, target_kind="counts"
        )


def train(counts: torch.Tensor, n_steps: int = 60) -> list[float]:
    """Train on all cells at once and return the loss of each step."""
    torch.manual_seed(0)
    model = Model(counts.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(n_steps):
        loss = model.loss(counts, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    rates = torch.rand(4, 200) ** 4  # of four kinds of cells
    losses = train(torch.poisson(10 * rates.repeat(32, 1)))
    print(f"loss {losses[0]:.1f} at the start, {losses[-1]:.1f} at the end")
