"""What the designer of a panel asks about it."""

from kernomics.evaluation.panels.comparison import (
    SplitComparison,
    compare_over_splits,
    score_panels,
)
from kernomics.evaluation.panels.contributions import Contributions, contributions
from kernomics.evaluation.panels.curve import PanelCurve, panel_curve
from kernomics.evaluation.panels.embedding import PanelEmbedding, panel_embedding
from kernomics.evaluation.panels.evaluate import PanelEvaluation, evaluate_panel
from kernomics.evaluation.panels.redundancy import Redundancy, redundancy
from kernomics.evaluation.panels.stability import Stability, panel_stability

__all__ = [
    "Contributions",
    "PanelCurve",
    "PanelEmbedding",
    "PanelEvaluation",
    "Redundancy",
    "SplitComparison",
    "Stability",
    "compare_over_splits",
    "contributions",
    "evaluate_panel",
    "panel_curve",
    "panel_embedding",
    "panel_stability",
    "redundancy",
    "score_panels",
]
