"""Metrics on numpy arrays; unlabelled cells (code −1 or NaN) are skipped everywhere."""

from kernomics.metrics.alignment import align
from kernomics.metrics.classification import (
    accuracy,
    auprc,
    class_scores,
    classification_metrics,
    confusion_matrix,
    f1_per_class,
    macro_f1,
)
from kernomics.metrics.clustering import ClusteringScores, clustering_scores, ilisi
from kernomics.metrics.expression import ClassExpression, class_expression
from kernomics.metrics.forgetting import Forgetting, forgetting
from kernomics.metrics.gene_pairs import read_relations
from kernomics.metrics.invertibility import (
    rank_correlations,
    spearman_inversion,
    structural_integrity,
)
from kernomics.metrics.moments import moments_explained
from kernomics.metrics.panel_judge import (
    PanelScore,
    RegressionScore,
    evaluate_genes,
    evaluate_genes_regression,
    score_panel,
)
from kernomics.metrics.perturbation import PerturbationConsistency, perturbation_consistency
from kernomics.metrics.probes import (
    linear_top_accuracy,
    mlp_probe,
    probe_metrics,
    probe_predictions,
)
from kernomics.metrics.regression import mae, pearson, r2, regression_metrics
from kernomics.metrics.relationships import RelationshipRecall, relationship_recall
from kernomics.metrics.tuned_probes import tuned_probes
from kernomics.metrics.uncertainty import bootstrap_scores, proportion_error

__all__ = [
    "ClassExpression",
    "ClusteringScores",
    "Forgetting",
    "PanelScore",
    "PerturbationConsistency",
    "RegressionScore",
    "RelationshipRecall",
    "accuracy",
    "align",
    "auprc",
    "bootstrap_scores",
    "class_expression",
    "class_scores",
    "classification_metrics",
    "clustering_scores",
    "confusion_matrix",
    "evaluate_genes",
    "evaluate_genes_regression",
    "f1_per_class",
    "forgetting",
    "ilisi",
    "linear_top_accuracy",
    "macro_f1",
    "mae",
    "mlp_probe",
    "moments_explained",
    "pearson",
    "perturbation_consistency",
    "probe_metrics",
    "probe_predictions",
    "proportion_error",
    "r2",
    "rank_correlations",
    "read_relations",
    "regression_metrics",
    "relationship_recall",
    "score_panel",
    "spearman_inversion",
    "structural_integrity",
    "tuned_probes",
]
