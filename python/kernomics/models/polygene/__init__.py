"""PolyGene: a masked transformer of phenotypes and expressed genes, after POLYGENE."""

from typing import TYPE_CHECKING

from kernomics._lazy import later

if TYPE_CHECKING:
    from kernomics.models.polygene.config import PolyGeneConfig
    from kernomics.models.polygene.model import PolyGene
    from kernomics.models.polygene.phenotype_model import PhenotypeModel

__all__ = ["PhenotypeModel", "PolyGene", "PolyGeneConfig"]

__getattr__ = later(
    __name__,
    {"PhenotypeModel": "phenotype_model", "PolyGene": "model", "PolyGeneConfig": "config"},
)
