"""Other ways to choose genes and to represent cells."""

from kernomics.baselines.classifier import ClassifierConfig
from kernomics.baselines.de import DEBaseline, de_panel, round_robin
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
    "PersistBaseline",
    "PersistConfig",
    "PredictingBaseline",
    "RandomBaseline",
    "TopKBaseline",
    "TrainedBaseline",
    "de_panel",
    "hvg_panel",
    "l1_panel",
    "random_panel",
    "round_robin",
]
