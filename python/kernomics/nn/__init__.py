"""Small modules on the ops, from which the models are built."""

from kernomics.nn.count_decoder import CountDecoder
from kernomics.nn.encoder import Encoder
from kernomics.nn.gene_selector import GeneSelector, Selection
from kernomics.nn.masked_linear import MaskedLinear
from kernomics.nn.philox import Draws, Dropout, ReluDropout, drawing_from
from kernomics.nn.token_embedding import TokenEmbedding

__all__ = [
    "CountDecoder",
    "Draws",
    "Dropout",
    "Encoder",
    "GeneSelector",
    "MaskedLinear",
    "ReluDropout",
    "Selection",
    "TokenEmbedding",
    "drawing_from",
]
