"""Other ways to choose genes and to represent cells."""

from kernomics.baselines.de import DEBaseline, de_panel, round_robin
from kernomics.baselines.hvg import HVGBaseline, HVGFlavor, hvg_panel
from kernomics.baselines.l1 import L1Baseline, l1_panel
from kernomics.baselines.protocol import Baseline
from kernomics.baselines.random import RandomBaseline, random_panel
from kernomics.baselines.specific import SpecificGenes, share_out, specific_genes

__all__ = [
    "Baseline",
    "DEBaseline",
    "HVGBaseline",
    "HVGFlavor",
    "L1Baseline",
    "RandomBaseline",
    "SpecificGenes",
    "de_panel",
    "hvg_panel",
    "l1_panel",
    "random_panel",
    "round_robin",
    "share_out",
    "specific_genes",
]
