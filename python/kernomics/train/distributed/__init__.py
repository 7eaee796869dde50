"""Many processes, or ranks, that train one model: the only place that knows torch.distributed.

Every rank takes its part of each global batch, and they add up their gradients, each weighed by its
share of the cells, so that all make the step that one process would make. What is a mean over
something else than cells asks :func:`over_ranks` what to divide by. One process has no group, and
every method here is then a way of returning its argument.
"""

from kernomics.train.distributed.alone import Alone
from kernomics.train.distributed.current import (
    first_alone,
    over_ranks,
    own_device,
    ranks,
    together,
)
from kernomics.train.distributed.many import Ranks
from kernomics.train.distributed.part import Part

__all__ = [
    "Alone",
    "Part",
    "Ranks",
    "first_alone",
    "over_ranks",
    "own_device",
    "ranks",
    "together",
]
