"""The model of poisson_in_torch.py as a LightningModule; needs the package lightning."""

import lightning
import torch
from poisson_in_torch import Model
from torch.utils.data import DataLoader, TensorDataset


class ExpressionModule(lightning.LightningModule):
    """Nothing of ours needs more than a training step."""

    def __init__(self, n_genes: int) -> None:
        super().__init__()
        self.model = Model(n_genes)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss; the step's number seeds which genes are revealed."""
        loss = self.model.loss(batch[0], self.global_step)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def train(counts: torch.Tensor, n_epochs: int = 20) -> ExpressionModule:
    """Train on raw counts [cells, genes]."""
    torch.manual_seed(0)
    module = ExpressionModule(counts.shape[1])
    trainer = lightning.Trainer(
        max_epochs=n_epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(counts), batch_size=32, shuffle=True))
    return module


if __name__ == "__main__":
    rates = torch.rand(4, 200) ** 4  # of four kinds of cells
    counts = torch.poisson(10 * rates.repeat(32, 1))
    print(f"loss {float(train(counts).model.loss(counts, 0)):.1f}")
