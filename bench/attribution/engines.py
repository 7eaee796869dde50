"""Pairs per second of the engines beside Captum's LayerDeepLift; for memory see `memory`.

    python -m bench.attribution.engines

Captum gives the same numbers (tests/attribution/test_engines.py). It is run pair by pair, as the
attribution paper does, and in batches padded to the longest pair; both directions count, as a pair
needs both.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import kernomics
from bench.machine import describe
from bench.polygene import eager
from kernomics.attribution import PhenotypeSource, attribute_pairs, make_pairs
from kernomics.models import PolyGene

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "bench" / "results" / "systems" / "attribution-engines.jsonl"


class Padded(nn.Module):
    """The padded network with its embedding as a layer, which Captum attributes to."""

    class Embedding(nn.Module):
        """Genes and bins [B, L] to tokens; −1 is a pad of zeros."""

        def __init__(self, module: Any) -> None:
            super().__init__()
            self.module = module

        def forward(self, gene_ids: Tensor, bins: Tensor) -> Tensor:
            """Embed."""
            found = eager.embed(self.module, gene_ids.clamp_min(0), bins.clamp_min(0))
            return found * (gene_ids >= 0)[..., None]

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module, self.embedding = module, self.Embedding(module)

    def forward(self, gene_ids: Tensor, bins: Tensor) -> Tensor:
        """Return the logits of the one phenotype, masked."""
        codes = torch.full((len(gene_ids), 1), -1)
        phenotypes = self.module.embed_phenotypes(codes).view(len(gene_ids), 1, -1)
        states = eager.states(
            self.module, phenotypes, self.embedding(gene_ids, bins), gene_ids >= 0
        )
        logits: Tensor = self.module.heads[0](states[:, 0])
        return logits


def blended(source: PhenotypeSource, case: Any, baseline: Any) -> list[tuple[Tensor, Tensor]]:
    """Return genes and bins of both sides at common positions, −1 where one has none."""
    module, sides = source.model.module, []
    for rows in (case, baseline):
        tokens = module.gene_tokens(source.view.batch(rows))
        bins = torch.full((len(rows), len(source.genes)), -1)
        bins[tokens.cells, tokens.gene_ids] = tokens.bins
        sides.append(bins)
    either = (sides[0] >= 0) | (sides[1] >= 0)
    order = torch.argsort(either.int(), dim=1, descending=True, stable=True)
    order = order[:, : int(either.sum(1).max())]
    found = []
    for bins in sides:
        own = bins.gather(1, order)
        found.append((torch.where(own >= 0, order, -1), own))
    return found


def captum_rate(source: PhenotypeSource, pairs: Any, batch: int) -> float:
    """Return Captum's pairs per second, both directions."""
    from captum.attr import LayerDeepLift

    model = Padded(source.model.module)
    lift = LayerDeepLift(model, model.embedding)
    begun = time.perf_counter()
    for start in range(0, len(pairs), batch):
        part = slice(start, start + batch)
        sides = blended(source, pairs.case[part], pairs.baseline[part])
        for inputs, reference in (sides, sides[::-1]):
            lift.attribute(inputs, reference, target=1).sum(-1)
    return len(pairs) / (time.perf_counter() - begun)


def our_rate(source: PhenotypeSource, pairs: Any, engine: str = "grad_x_delta") -> float:
    """Return our pairs per second, both directions, reduced to genes; the best of three."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        attribute_pairs(source, pairs, 1, engine=engine)
        seconds.append(time.perf_counter() - begun)
    return len(pairs) / min(seconds)


def prepared(data: Path, n_tokens: int | None = None) -> tuple[PhenotypeSource, Any]:
    """Return an untrained PolyGene of Kang's cells, and its cells; weights cost no time."""
    model = PolyGene(data / "kang_ifnb_harmony.h5ad", "perturbation")
    trained = kernomics.models.PhenotypeModel(model._module(), model.genes.tolist(), {})
    return PhenotypeSource(trained, model.cells, "perturbation", n_tokens=n_tokens), model


def pairs_of(model: PolyGene, n: int) -> Any:
    """Return n pairs of training cells."""
    label = model.cells.labels["perturbation"]
    return make_pairs(label, "IFNB", "control", model.split.train, n_pairs=n)


def main() -> None:
    """Measure rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("KERNOMICS_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    source, model = prepared(args.data)
    pairs = pairs_of(model, args.pairs)
    captum_rate(source, pairs_of(model, 4), 4)
    rates = {
        "grad_x_delta": our_rate(source, pairs),
        "deeplift": our_rate(source, pairs, "deeplift"),
        "integrated_gradients": our_rate(source, pairs_of(model, 8), "integrated_gradients"),
        "Captum, pair by pair": captum_rate(source, pairs, 1),
        "Captum, padded batches": captum_rate(source, pairs, args.batch),
        "grad_x_delta, 8 baselines a cell": our_rate(source, pairs_of(model, 8 * 700)),
    }
    line = {
        "bench": "attribution-engines",
        "version": kernomics.__version__,
        **describe(torch.device("cpu")),
        "load_average": round(os.getloadavg()[0], 1),
        "pairs": args.pairs,
        "batch": args.batch,
        "pairs_per_second": rates,
        "ratios": {
            name: rates["grad_x_delta"] / rate
            for name, rate in rates.items()
            if name.startswith("Captum")
        },
        "deeplift_share": rates["deeplift"] / rates["grad_x_delta"],
        "tokens": float(np.mean(source.inputs(np.unique(pairs.case)).lengths.numpy())),
    }
    with args.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print({k: round(v, 1) for k, v in rates.items()}, line["ratios"])


if __name__ == "__main__":
    main()
