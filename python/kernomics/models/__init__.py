"""The systems: each a configuration, a module and a class with the same verbs."""

from typing import TYPE_CHECKING

from kernomics._lazy import later

if TYPE_CHECKING:
    from kernomics.models.panel import Panel
    from kernomics.models.txfm import TxFM
    from kernomics.models.txfm_config import TxFMConfig
    from kernomics.models.txfm_model import CellEncoder
    from kernomics.models.yoto import YOTO
    from kernomics.models.yoto_config import YOTOConfig

__all__ = ["YOTO", "CellEncoder", "Panel", "TxFM", "TxFMConfig", "YOTOConfig"]

__getattr__ = later(
    __name__,
    {
        "CellEncoder": "txfm_model",
        "Panel": "panel",
        "TxFM": "txfm",
        "TxFMConfig": "txfm_config",
        "YOTO": "yoto",
        "YOTOConfig": "yoto_config",
    },
)
