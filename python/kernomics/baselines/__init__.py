"""Other ways to choose genes, and one judge for all of them."""

from kernomics.baselines.classifier import ClassifierConfig
from kernomics.baselines.de import DEBaseline, de_panel, round_robin
from kernomics.baselines.evaluate import (
    PanelScore,
    RegressionScore,
    evaluate_genes,
    evaluate_genes_regression,
)
from kernomics.baselines.hard_k import (
    HARD_K_OVERRIDES,
    TOP_K_OVERRIDES,
    HardKBaseline,
    TopKBaseline,
)
from kernomics.baselines.hvg import HVGBaseline, HVGFlavor, hvg_panel
from kernomics.baselines.l1 import L1Baseline, l1_panel
from kernomics.baselines.persist import PersistBaseline
from kernomics.baselines.persist_config import PersistConfig
from kernomics.baselines.protocol import Baseline, PredictingBaseline, TrainedBaseline
from kernomics.baselines.random import RandomBaseline, random_panel

__all__ = [
    "HARD_K_OVERRIDES",
    "TOP_K_OVERRIDES",
    "Baseline",
    "ClassifierConfig",
    "DEBaseline",
    "HVGBaseline",
    "HVGFlavor",
    "HardKBaseline",
    "L1Baseline",
    "PanelScore",
    "PersistBaseline",
    "PersistConfig",
    "PredictingBaseline",
    "RandomBaseline",
    "RegressionScore",
    "TopKBaseline",
    "TrainedBaseline",
    "de_panel",
    "evaluate_genes",
    "evaluate_genes_regression",
    "hvg_panel",
    "l1_panel",
    "random_panel",
    "round_robin",
]
