"""Fine-tuning of a TxFM: what a training begins with, and by what settings (arXiv 2605.31562).

The paper fine-tunes on single data sets and does not say how: all that is marked "ours" is.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.data import CellCollection, Split
from kernomics.data.expression import most_variable_genes
from kernomics.data.genes import mismatch_cause
from kernomics.errors import ConfigError, DataError, percent
from kernomics.models.gene_components import mapped
from kernomics.models.trained import of_genes
from kernomics.models.txfm.cell_encoder import CellEncoder
from kernomics.models.txfm.config import TxFMConfig
from kernomics.models.txfm.module import TxFMModule
from kernomics.models.txfm.vocabulary import default_training
from kernomics.train import TrainConfig, override

CHANGEABLE = ("n_tokens", "masking_power", "loss", "stochastic_depth", "recompute")
"""Settings that do not decide what the weights mean."""

WELL_KNOWN = 0.8
"""Below this share of known genes a warning says so (ours)."""


def fine_tuning(split: Split, d_model: int) -> TrainConfig:
    """Return the settings of a fine-tuning on the cells of a split, for a width.

    Those of `default_training`, but (all ours) a learning rate of 0.0001, 50 epochs, and a
    validation before the first and after every 5, the best of which is kept: where no epoch makes
    the loss of the validation cells less, the model stays as it is. Without such cells the last
    weights are kept. The weight decay, which the paper ties to the steps of a training, stays that
    of the first one: tied to the fewer steps and the lower rate of this one, it would take as much
    off the weights as a whole pre-training does.
    """
    changes: dict[str, Any] = {"max_epochs": 50, "learning_rate": 1e-4, "validate_every": 5}
    if len(split.validation):
        changes |= {"validate_start": True, "patience": 10}
    return override(default_training(len(split.train), d_model), **changes)


def fine_tuned_config(config: TxFMConfig, **overrides: Any) -> TxFMConfig:
    """Return a trained model's settings with some replaced, if they may be."""
    changed = override(config, **overrides)
    for name, value in overrides.items():
        before = getattr(config, name)
        if name not in CHANGEABLE and value != before:
            raise ConfigError(
                f"{name} is {value!r}, but the model was trained with {before!r}, on which its "
                f"weights depend; fine-tuning may change {', '.join(CHANGEABLE)}"
            )
    return changed


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained model at the beginning of another training.

    All weights are copied, of the genes that both know by name. Where the model's genes began at
    principal components, the token of a gene that is new begins at its own in the new cells, mapped
    to the model's tokens as those of the known genes map best (ours); where they began at random,
    it is drawn from the normal distribution whose mean and standard deviation are, in each
    dimension, those of the model's tokens. Its rows of the decoder and of a linear path are zero
    and its bias that of the gene's best constant, so that nothing that the model says of it is
    wrong before something has been learnt.

    Attributes
    ----------
    encoder
        The model.
    kept
        Its genes that the data have, in its order.
    new
        Genes of the data that are added, in the data's order.
    left_out
        Genes of the data that are not: the model does not know them, and nobody asked for them.
    dropped
        Its genes that the data lack.
    """

    encoder: CellEncoder
    kept: list[str]
    new: list[str]
    left_out: list[str]
    dropped: list[str]

    @classmethod
    def match(
        cls,
        encoder: CellEncoder,
        cells: CellCollection,
        train: NDArray[np.int64],
        *,
        new_genes: int,
        min_cells: int,
        min_gene_overlap: float,
    ) -> Pretrained:
        """Find the model's genes in the data, and new ones; see `TxFM.from_pretrained`."""
        n_new = _checked_new_genes(new_genes)
        if min_cells < 1:
            raise ConfigError(
                f"min_cells is {min_cells}: a gene detected in no cell carries no information"
            )
        if not 0 <= min_gene_overlap <= 1:
            raise ConfigError(f"min_gene_overlap is a fraction from 0 to 1, not {min_gene_overlap}")
        here = np.isin(encoder.genes, cells.genes)
        kept, dropped = encoder.genes[here].tolist(), encoder.genes[~here].tolist()
        unknown = ~np.isin(cells.genes, encoder.genes)
        new = cells.genes[unknown & (cells.summary(train).n_expressing >= min_cells)].tolist()
        possible = min(len(encoder.genes), len(kept) + len(new))
        found = (
            f"{len(kept):,} of the model's {len(encoder.genes):,} genes are in the data, "
            f"{len(dropped):,} are missing{_first(dropped)}, and {len(new):,} genes detected in "
            f"{min_cells:,} training cells are new to the model{_first(new)}"
        )
        cause = mismatch_cause(encoder.genes, cells.genes, len(kept), cells.var)
        if not kept or len(kept) < min_gene_overlap * possible:
            needed = max(1, math.ceil(min_gene_overlap * possible))
            raise DataError(
                f"{found}; at least {needed:,} must be known to the model, "
                f"{min_gene_overlap:.0%} of the fewer of the two (min_gene_overlap){cause}"
            )
        if len(kept) < WELL_KNOWN * possible:
            share = f"{percent(len(kept) / possible)} of the fewer of the two"
            warn(f"{found}: {share} are known to the model, which is little to build on{cause}")
        if n_new > len(new):
            raise ConfigError(
                f"new_genes is {n_new:,}, and {len(new):,} genes detected in {min_cells:,} "
                f"training cells are new to the model: ask for at most {len(new):,}, or lower "
                "min_cells"
            )
        if n_new < len(new):
            of_new = cells.with_genes(new, 1.0)
            new = of_new.genes[most_variable_genes(of_new, train, n_new)].tolist() if n_new else []
        left_out = cells.genes[unknown & ~np.isin(cells.genes, new)].tolist()
        return cls(encoder, kept, new, left_out, dropped)

    @property
    def genes(self) -> list[str]:
        """The new vocabulary: `kept`, then `new`."""
        return self.kept + self.new

    @property
    def n_tokens(self) -> int:
        """How many genes to reveal, so that the known ones keep their share (ours).

        As many of `kept` as the model was trained with, on average; where it has no more than
        those, the share of its genes that was revealed.
        """
        of_kept, n_kept = self.encoder.config.n_tokens, len(self.kept)
        if of_kept >= n_kept:
            of_kept = max(1, of_kept * n_kept // len(self.encoder.genes))
        return max(1, round(of_kept * len(self.genes) / n_kept))

    @property
    def weight_decay(self) -> float:
        """The weight decay that the model was trained with; 0 where it is not on record."""
        return float(self.encoder.info.get("training", {}).get("weight_decay", 0.0))

    def apply(self, module: TxFMModule) -> None:
        """Copy the model's weights into an untrained module over `genes`."""
        given = self.encoder.module.state_dict()
        per_gene = of_genes(lambda n: TxFMModule(n, module.config))
        place = {gene: i for i, gene in enumerate(self.encoder.genes)}
        rows = torch.tensor([place[gene] for gene in self.kept])
        n_kept = len(rows)
        with torch.no_grad():
            began = module.embedding.gene_embeddings.clone()
            for name, tensor in module.state_dict().items():
                if name not in given or name == "gene_weights":  # these follow from the new data
                    continue
                if name in per_gene:
                    tensor[:n_kept] = given[name].cpu()[rows]
                else:
                    tensor.copy_(given[name])
            table = module.embedding.gene_embeddings
            if module.config.gene_start == "components":
                table[n_kept:] = mapped(began[n_kept:], began[:n_kept], table[:n_kept])
            else:
                known = self.encoder.module.embedding.gene_embeddings.cpu()
                drawn = torch.randn(table[n_kept:].shape)
                table[n_kept:] = drawn * known.std(0, correction=0) + known.mean(0)
            module.decoder.genes.weight[n_kept:] = 0
            if module.linear is not None:
                module.linear.weight[n_kept:] = 0

    @property
    def description(self) -> dict[str, Any]:
        """What the model was and what was taken of it, fit for JSON."""
        info = self.encoder.info
        past: dict[str, Any] = {
            name: info[name] for name in ("trained_on", "fine_tuned_from") if name in info
        }
        return {
            "version": info.get("version"),
            "sha256": model_sha256(self.encoder),
            **past,
            "genes": {
                "kept": len(self.kept),
                "new": len(self.new),
                "left_out": len(self.left_out),
                "dropped": len(self.dropped),
            },
        }


def _checked_new_genes(new_genes: int) -> int:
    """Return how many genes to add, if it is a number of genes."""
    what = "the number of genes to add, the most variable of those the model does not know"
    if isinstance(new_genes, bool | np.bool_) or not isinstance(new_genes, int | np.integer):
        raise ConfigError(f"new_genes is {new_genes!r}: {what}; 0 adds none")
    if new_genes < 0:
        raise ConfigError(f"new_genes is {new_genes}: {what}, 0 or more")
    return int(new_genes)


def model_sha256(encoder: CellEncoder) -> str:
    """Digest of a model's genes, settings and weights, wherever it is stored."""
    described = {"genes": encoder.genes.tolist(), "config": asdict(encoder.config)}
    whole = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(encoder.module.state_dict().items()):
        whole.update(name.encode() + tensor.cpu().contiguous().numpy().astype("<f4").tobytes())
    return whole.hexdigest()


def _first(genes: list[str]) -> str:
    shown = ", ".join(repr(gene) for gene in genes[:5])
    return f" ({shown}{', …' if len(genes) > 5 else ''})" if genes else ""
