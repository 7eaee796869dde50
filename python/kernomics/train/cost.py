"""What a training on many processes costs: bytes in memory, bytes sent, and a step's time.

Tests hold the bytes against what is measured; a time is no better than the speeds it is made of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kernomics._arguments import checked, require_least
from kernomics.errors import ConfigError

OF_A_COUNT = 8
"""Bytes of a count that is not 0: its value, float32, and its gene, int32."""
OF_A_CELL = 20
"""Bytes of a cell: where its counts begin, its library size, and a reference to its name."""
OF_A_LABEL = 8
"""Bytes of a cell's label."""


@checked
def bytes_in_memory(n_cells: int, n_counts: int, n_labels: int = 0) -> int:
    """Return the bytes that cells take in the memory of a process.

    Parameters
    ----------
    n_cells
        Cells.
    n_counts
        Counts that are not 0, of all cells together.
    n_labels
        Label columns.
    """
    require_least(0, n_cells=n_cells, n_counts=n_counts, n_labels=n_labels)
    return OF_A_COUNT * n_counts + n_cells * (OF_A_CELL + OF_A_LABEL * n_labels)


@checked
def bytes_sent(
    n_parameters: int, world: int, *, element_size: int = 4, n_gathered_again: int = 0
) -> float:
    """Return the bytes that each process sends in a step: 2 (w − 1)/w of its gradients' bytes.

    Parameters
    ----------
    n_parameters
        Parameters that have a gradient; of a table of which a step draws some rows these alone.
    world
        w, the processes.
    element_size
        Bytes of a parameter.
    n_gathered_again
        With ``shard=True``, those of the blocks, which are gathered for backward once more. (By
        gloo a step then sends (w − 1)/w of all gradients' bytes more: it adds them up for all.)
    """
    require_least(0, n_parameters=n_parameters, n_gathered_again=n_gathered_again)
    require_least(1, world=world, element_size=element_size)
    return (world - 1) / world * element_size * (2 * n_parameters + n_gathered_again)


@dataclass(frozen=True)
class Projection:
    """What a training is expected to take.

    Attributes
    ----------
    compute_seconds, network_seconds
        Of a step: of what each process computes, and of what it sends after that.
    bytes_sent
        By each process in a step.
    steps
        Of an epoch.
    """

    compute_seconds: float
    network_seconds: float
    bytes_sent: float
    steps: int

    @property
    def step_seconds(self) -> float:
        """Seconds of a step: nothing is sent while it computes."""
        return self.compute_seconds + self.network_seconds

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch, without validation."""
        return self.steps * self.step_seconds

    @property
    def efficiency(self) -> float:
        """Share of a step that is computing."""
        return self.compute_seconds / self.step_seconds


@checked
def project(
    n_cells: int,
    *,
    batch_size: int,
    world: int,
    n_parameters: int,
    cells_per_second: float,
    bandwidth: float,
    latency: float = 0.0,
    exchanges: int = 1,
) -> Projection:
    """Project the time of a training from its sizes and from two speeds.

    Parameters
    ----------
    n_cells
        Training cells.
    batch_size
        Cells of all processes together in a step.
    world
        Processes.
    n_parameters
        As for `bytes_sent`.
    cells_per_second
        What one process computes, by itself, forward and backward.
    bandwidth
        Bytes a second that one process sends while all others send too.
    latency
        Seconds that an exchange of a few numbers takes.
    exchanges
        In a step: 1 for YOTO and TxFM, 2 for PolyGene and, without further methods, GIL.

    Returns
    -------
    Projection
        A step is what the fullest process computes, then the gradients' way.
    """
    require_least(1, n_cells=n_cells, batch_size=batch_size, world=world, exchanges=exchanges)
    for name, speed in (("cells_per_second", cells_per_second), ("bandwidth", bandwidth)):
        if not 0 < speed < math.inf:
            raise ConfigError(f"{name} is {speed}: it must be above 0")
    if not 0 <= latency < math.inf:
        raise ConfigError(f"latency is {latency}: seconds, 0 or more, are needed")
    sent = bytes_sent(n_parameters, world)
    alone = world == 1
    return Projection(
        compute_seconds=math.ceil(batch_size / world) / cells_per_second,
        network_seconds=0.0 if alone else sent / bandwidth + exchanges * latency,
        bytes_sent=sent,
        steps=math.ceil(n_cells / batch_size),
    )
