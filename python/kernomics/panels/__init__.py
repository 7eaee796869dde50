"""What the designer of a panel asks about it."""

from kernomics.panels.comparison import SplitComparison, compare_over_splits, score_panels
from kernomics.panels.contributions import Contributions, contributions
from kernomics.panels.curve import PanelCurve, panel_curve
from kernomics.panels.embedding import PanelEmbedding, panel_embedding
from kernomics.panels.evaluate import PanelEvaluation, evaluate_panel
from kernomics.panels.redundancy import Redundancy, redundancy
from kernomics.panels.stability import Stability, panel_stability

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
