"""Metrics on numpy arrays; unlabelled cells (code −1 or NaN) are skipped everywhere."""

from kernomics.metrics.alignment import align
from kernomics.metrics.classification import (
    accuracy,
    auprc,
    classification_metrics,
    confusion_matrix,
    f1_per_class,
    macro_f1,
)
from kernomics.metrics.expression import ClassExpression, class_expression
from kernomics.metrics.invertibility import (
    rank_correlations,
    spearman_inversion,
    structural_integrity,
)
from kernomics.metrics.perturbation import PerturbationConsistency, perturbation_consistency
from kernomics.metrics.regression import mae, pearson, r2, regression_metrics
from kernomics.metrics.representation import probe_metrics

__all__ = [
    "ClassExpression",
    "PerturbationConsistency",
    "accuracy",
    "align",
    "auprc",
    "class_expression",
    "classification_metrics",
    "confusion_matrix",
    "f1_per_class",
    "macro_f1",
    "mae",
    "pearson",
    "perturbation_consistency",
    "probe_metrics",
    "r2",
    "rank_correlations",
    "regression_metrics",
    "spearman_inversion",
    "structural_integrity",
]
