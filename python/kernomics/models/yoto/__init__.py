"""YOTO (arXiv 2512.17678): one training gives a panel of genes and the predictor on it."""

from typing import TYPE_CHECKING

from kernomics._lazy import later

if TYPE_CHECKING:
    from kernomics.models.yoto.config import YOTOConfig
    from kernomics.models.yoto.model import YOTO
    from kernomics.models.yoto.panel import Panel

__all__ = ["YOTO", "Panel", "YOTOConfig"]

__getattr__ = later(__name__, {"Panel": "panel", "YOTO": "model", "YOTOConfig": "config"})
