"""Plots. Each returns its axes or figure, shows nothing and changes no global state.

matplotlib comes with the extra ``report`` and is imported when a plot is drawn.
"""

from kernomics.pl.confusion import confusion, confusion_key
from kernomics.pl.panel import dot_plot, method_comparison, panel_scores
from kernomics.pl.training import (
    Curve,
    TrainingPanel,
    training_curves,
    training_panel,
    training_panels,
)

__all__ = [
    "Curve",
    "TrainingPanel",
    "confusion",
    "confusion_key",
    "dot_plot",
    "method_comparison",
    "panel_scores",
    "training_curves",
    "training_panel",
    "training_panels",
]
