"""TxFM (arXiv 2605.31562): a masked autoencoder of counts, and the encoder of cells it leaves."""

from typing import TYPE_CHECKING

from kernomics._lazy import later

if TYPE_CHECKING:
    from kernomics.models.txfm.cell_encoder import CellEncoder
    from kernomics.models.txfm.config import TxFMConfig
    from kernomics.models.txfm.model import TxFM

__all__ = ["CellEncoder", "TxFM", "TxFMConfig"]

__getattr__ = later(
    __name__, {"CellEncoder": "cell_encoder", "TxFM": "model", "TxFMConfig": "config"}
)
