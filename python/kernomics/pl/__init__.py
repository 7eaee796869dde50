"""Plots. Each returns its axes or figure, shows nothing and changes no global state.

matplotlib comes with the extra ``report`` and is imported when a plot is drawn.
"""

from kernomics.pl.confusion import CONFUSION_WITH_SHARES, confusion
from kernomics.pl.panel import dot_plot, method_comparison, panel_scores
from kernomics.pl.training import (
    Curve,
    TrainingPanel,
    training_curves,
    training_panel,
    training_panels,
)

__all__ = [
    "CONFUSION_WITH_SHARES",
    "Curve",
    "TrainingPanel",
    "confusion",
    "dot_plot",
    "method_comparison",
    "panel_scores",
    "training_curves",
    "training_panel",
    "training_panels",
]
