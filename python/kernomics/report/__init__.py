"""A run's report: one self-contained HTML file."""

from kernomics.metrics.panel_score import MethodScore
from kernomics.report.attribution_data import AttributionReport, PruningReport
from kernomics.report.data import ReportData, SplitReport, TaskReport
from kernomics.report.increment_data import IncrementReport
from kernomics.report.panel_report import render_report, write_report
from kernomics.report.phenotype_data import PhenotypeReport, PhenotypeScores
from kernomics.report.provenance import Provenance
from kernomics.report.representation_data import RepresentationReport
from kernomics.report.representation_report import (
    render_representation_report,
    write_representation_report,
)

__all__ = [
    "AttributionReport",
    "IncrementReport",
    "MethodScore",
    "PhenotypeReport",
    "PhenotypeScores",
    "Provenance",
    "PruningReport",
    "ReportData",
    "RepresentationReport",
    "SplitReport",
    "TaskReport",
    "render_report",
    "render_representation_report",
    "write_report",
    "write_representation_report",
]
