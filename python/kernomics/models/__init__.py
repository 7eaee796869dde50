"""The systems, a package each: a configuration, a module and a class with the same verbs."""

from typing import TYPE_CHECKING

from kernomics._lazy import later

if TYPE_CHECKING:
    from kernomics.models.gil import GIL, ExpressionModel, GILConfig
    from kernomics.models.loading import load
    from kernomics.models.polygene import PhenotypeModel, PolyGene, PolyGeneConfig
    from kernomics.models.txfm import CellEncoder, TxFM, TxFMConfig
    from kernomics.models.yoto import YOTO, Panel, YOTOConfig

__all__ = [
    "GIL",
    "YOTO",
    "CellEncoder",
    "ExpressionModel",
    "GILConfig",
    "Panel",
    "PhenotypeModel",
    "PolyGene",
    "PolyGeneConfig",
    "TxFM",
    "TxFMConfig",
    "YOTOConfig",
    "load",
]

__getattr__ = later(
    __name__,
    {
        "GIL": "gil.model",
        "GILConfig": "gil.config",
        "ExpressionModel": "gil.expression_model",
        "CellEncoder": "txfm.cell_encoder",
        "Panel": "yoto.panel",
        "PhenotypeModel": "polygene.phenotype_model",
        "PolyGene": "polygene.model",
        "PolyGeneConfig": "polygene.config",
        "TxFM": "txfm.model",
        "TxFMConfig": "txfm.config",
        "YOTO": "yoto.model",
        "YOTOConfig": "yoto.config",
        "load": "loading",
    },
)
