"""The systems: each a configuration, a module and a class with the same verbs."""

from kernomics.models.panel import Panel
from kernomics.models.yoto import YOTO
from kernomics.models.yoto_config import YOTOConfig

__all__ = ["YOTO", "Panel", "YOTOConfig"]
