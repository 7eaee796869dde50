"""Small modules on the ops, from which the models are built."""

from kernomics.nn.gene_selector import GeneSelector, Selection
from kernomics.nn.masked_linear import MaskedLinear

__all__ = ["GeneSelector", "MaskedLinear", "Selection"]
