"""Plots. Each returns its axes or figure, shows nothing and changes no global state.

matplotlib comes with the extra ``report`` and is imported when a plot is drawn.
"""

from kernomics.pl.attribution import (
    attribution_by_gene,
    attribution_distributions,
    attribution_heatmap,
)
from kernomics.pl.confusion import confusion, confusion_key
from kernomics.pl.contributions import contribution_table, contributions
from kernomics.pl.count_losses import activation, activation_curves, count_nll, nll_curves
from kernomics.pl.curve import PARTS, curve_parts, panel_curve
from kernomics.pl.embedding import embedding, embedding_map, shown_classes
from kernomics.pl.forgetting import forgetting_by_memory, losses_and_classes, stage_losses
from kernomics.pl.gene_parameters import component_moments, recall_curve
from kernomics.pl.panel import dot_plot, method_comparison, panel_scores
from kernomics.pl.perturbations import consistency_by_block, consistency_null
from kernomics.pl.pruning import pruning_curves
from kernomics.pl.redundancy import correlation_order, panel_correlation
from kernomics.pl.representation import LIBRARY_SIZE, representation_map, representation_maps
from kernomics.pl.stability import gene_frequency, panel_overlap
from kernomics.pl.training import (
    Curve,
    TrainingPanel,
    training_curves,
    training_panel,
    training_panels,
)

__all__ = [
    "LIBRARY_SIZE",
    "PARTS",
    "Curve",
    "TrainingPanel",
    "activation",
    "activation_curves",
    "attribution_by_gene",
    "attribution_distributions",
    "attribution_heatmap",
    "component_moments",
    "confusion",
    "confusion_key",
    "consistency_by_block",
    "consistency_null",
    "contribution_table",
    "contributions",
    "correlation_order",
    "count_nll",
    "curve_parts",
    "dot_plot",
    "embedding",
    "embedding_map",
    "forgetting_by_memory",
    "gene_frequency",
    "losses_and_classes",
    "method_comparison",
    "nll_curves",
    "panel_correlation",
    "panel_curve",
    "panel_overlap",
    "panel_scores",
    "pruning_curves",
    "recall_curve",
    "representation_map",
    "representation_maps",
    "shown_classes",
    "stage_losses",
    "training_curves",
    "training_panel",
    "training_panels",
]
