"""How fast the ops are on this machine, beside plain torch: what `kernomics bench` runs."""

from kernomics.benchmark.run import measure_ops

__all__ = ["measure_ops"]
