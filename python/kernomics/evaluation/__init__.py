"""How good a panel or a representation is: on held-out cells, beside others, with its errors."""

from typing import TYPE_CHECKING

from kernomics._lazy import parts

if TYPE_CHECKING:
    from kernomics.evaluation import (
        forgetting,
        panels,
        perturbations,
        relationships,
        representations,
    )

__all__ = ["forgetting", "panels", "perturbations", "relationships", "representations"]

__getattr__ = parts(__name__, __all__)
