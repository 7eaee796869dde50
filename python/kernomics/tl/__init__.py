"""One-liners on AnnData, in the manner of scanpy: results land in `.var`, `.varm` and `.uns`."""

from typing import TYPE_CHECKING

from kernomics._lazy import later

if TYPE_CHECKING:
    from kernomics.tl._attribution import attribute
    from kernomics.tl._panels import (
        evaluate_panel,
        panel_contributions,
        panel_redundancy,
        select_genes,
    )
    from kernomics.tl._panels_again import panel_curve, panel_stability
    from kernomics.tl._perturbations import evaluate_perturbations
    from kernomics.tl._representations import relationship_recall, represent_cells

__all__ = [
    "attribute",
    "evaluate_panel",
    "evaluate_perturbations",
    "panel_contributions",
    "panel_curve",
    "panel_redundancy",
    "panel_stability",
    "relationship_recall",
    "represent_cells",
    "select_genes",
]

__getattr__ = later(
    __name__,
    {
        "attribute": "_attribution",
        "evaluate_panel": "_panels",
        "evaluate_perturbations": "_perturbations",
        "panel_contributions": "_panels",
        "panel_curve": "_panels_again",
        "panel_redundancy": "_panels",
        "panel_stability": "_panels_again",
        "relationship_recall": "_representations",
        "represent_cells": "_representations",
        "select_genes": "_panels",
    },
)
