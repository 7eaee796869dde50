"""Small modules on the ops, from which the models are built."""

from kernomics.nn.count_decoder import CountDecoder
from kernomics.nn.encoder import Encoder
from kernomics.nn.gene_selector import GeneSelector, Selection
from kernomics.nn.masked_linear import MaskedLinear
from kernomics.nn.token_embedding import TokenEmbedding

__all__ = [
    "CountDecoder",
    "Encoder",
    "GeneSelector",
    "MaskedLinear",
    "Selection",
    "TokenEmbedding",
]
