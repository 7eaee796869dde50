"""A run's report: one HTML file that needs nothing beside it."""

from kernomics.metrics.panel_score import MethodScore
from kernomics.report.builder import render_report, write_report
from kernomics.report.data import ReportData, SplitReport, TaskReport

__all__ = [
    "MethodScore",
    "ReportData",
    "SplitReport",
    "TaskReport",
    "render_report",
    "write_report",
]
