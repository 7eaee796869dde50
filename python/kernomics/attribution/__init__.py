"""Attribution: which genes make a model call a cell diseased, and how far to trust the answer."""

from typing import TYPE_CHECKING

from kernomics._lazy import later

if TYPE_CHECKING:
    from kernomics.attribution.attribution import Attribution, attribute
    from kernomics.attribution.blending import Blend, blend
    from kernomics.attribution.comparison import (
        gene_statistics,
        overlap,
        rankings_of,
        read_gene_sets,
        recall_of_sets,
        recurring,
        top_genes,
    )
    from kernomics.attribution.complete_engines import deeplift_pairs, integrated_gradients
    from kernomics.attribution.engines import ENGINES
    from kernomics.attribution.gradient_engines import grad_x_delta
    from kernomics.attribution.multipliers import DeepLift, deeplift
    from kernomics.attribution.pairs import Pairs, make_pairs
    from kernomics.attribution.pruning import Pruning, prune, retrain
    from kernomics.attribution.reduction import GeneScores, attribute_pairs
    from kernomics.attribution.sources import (
        Inputs,
        PanelSource,
        PhenotypeSource,
        ReconstructionSource,
        Source,
    )

__all__ = [
    "ENGINES",
    "Attribution",
    "Blend",
    "DeepLift",
    "GeneScores",
    "Inputs",
    "Pairs",
    "PanelSource",
    "PhenotypeSource",
    "Pruning",
    "ReconstructionSource",
    "Source",
    "attribute",
    "attribute_pairs",
    "blend",
    "deeplift",
    "deeplift_pairs",
    "gene_statistics",
    "grad_x_delta",
    "integrated_gradients",
    "make_pairs",
    "overlap",
    "prune",
    "rankings_of",
    "read_gene_sets",
    "recall_of_sets",
    "recurring",
    "retrain",
    "top_genes",
]

__getattr__ = later(
    __name__,
    {
        "ENGINES": "engines",
        "Attribution": "attribution",
        "Blend": "blending",
        "GeneScores": "reduction",
        "Inputs": "sources",
        "Pairs": "pairs",
        "PanelSource": "sources",
        "PhenotypeSource": "sources",
        "ReconstructionSource": "sources",
        "Source": "sources",
        "attribute": "attribution",
        "attribute_pairs": "reduction",
        "blend": "blending",
        "DeepLift": "multipliers",
        "deeplift": "multipliers",
        "deeplift_pairs": "complete_engines",
        "grad_x_delta": "gradient_engines",
        "integrated_gradients": "complete_engines",
        "make_pairs": "pairs",
        "Pruning": "pruning",
        "gene_statistics": "comparison",
        "overlap": "comparison",
        "prune": "pruning",
        "rankings_of": "comparison",
        "read_gene_sets": "comparison",
        "recall_of_sets": "comparison",
        "recurring": "comparison",
        "retrain": "pruning",
        "top_genes": "comparison",
    },
)
