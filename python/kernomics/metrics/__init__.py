"""Metrics on numpy arrays; unlabelled cells (code −1 or NaN) are skipped everywhere."""

from kernomics.metrics.classification import (
    accuracy,
    auprc,
    classification_metrics,
    confusion_matrix,
    f1_per_class,
    macro_f1,
)
from kernomics.metrics.expression import ClassExpression, class_expression
from kernomics.metrics.regression import mae, pearson, r2, regression_metrics
from kernomics.metrics.representation import probe_metrics

__all__ = [
    "ClassExpression",
    "accuracy",
    "auprc",
    "class_expression",
    "classification_metrics",
    "confusion_matrix",
    "f1_per_class",
    "macro_f1",
    "mae",
    "pearson",
    "probe_metrics",
    "r2",
    "regression_metrics",
]
