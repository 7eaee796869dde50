"""GIL: a masked model of expression that learns new genes stage by stage (arXiv 2511.13762)."""

from typing import TYPE_CHECKING

from kernomics._lazy import later

if TYPE_CHECKING:
    from kernomics.models.gil.config import GILConfig
    from kernomics.models.gil.expression_model import ExpressionModel
    from kernomics.models.gil.model import GIL

__all__ = ["GIL", "ExpressionModel", "GILConfig"]

__getattr__ = later(
    __name__,
    {"GIL": "model", "ExpressionModel": "expression_model", "GILConfig": "config"},
)
