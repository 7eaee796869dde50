"""Builds the report, section by section, from `ReportData`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from kernomics.report import panel_sections, repeat_sections, sections
from kernomics.report.data import ReportData
from kernomics.report.html import count, duration, facts

__all__ = ["render_report", "write_report"]


def _resource(name: str) -> str:
    return files("kernomics.report").joinpath(name).read_text(encoding="utf-8")


def render_report(data: ReportData) -> str:
    """Return the report as one HTML document.

    Styles and images are inside it, no script is, and it asks for nothing over the network. The
    text depends on ``data`` alone, so equal data give equal bytes (with equal versions of
    matplotlib).

    Parameters
    ----------
    data
        What to show. All names are escaped.

    Returns
    -------
    str
        HTML 5, to be encoded as UTF-8.

    Raises
    ------
    ImportError
        Without matplotlib (extra ``report``).
    """
    parts = [
        ("key-figures", "Key figures", sections.key_figures(data)),
        ("panel", "The panel", sections.panel(data)),
        ("curve", "How many genes", repeat_sections.curve(data)),
        ("stability", "Other seeds", repeat_sections.stability(data)),
        ("expression", "Expression by class", sections.expression(data)),
        ("embedding", "All genes and the panel", panel_sections.embedding(data)),
        ("contributions", "What each gene is for", panel_sections.contributions(data)),
        ("redundancy", "Redundancy and substitutes", panel_sections.redundancy(data)),
        ("confusion", "Confusion matrices", sections.confusions(data)),
        ("training", "Training", sections.training(data)),
        ("warnings", "Warnings", sections.warning_list(data)),
        ("reproducibility", "Reproducibility", sections.reproducibility(data, _config_text(data))),
    ]
    parts = [(key, title, body) for key, title, body in parts if body]
    head = [
        ("Data set", data.dataset),
        ("Cells", f"{data.n_cells:,}"),
        ("Genes to choose from", f"{data.n_genes:,}"),
        ("Panel", count(len(data.genes), "gene")),
        ("Tasks", ", ".join(task.name for task in data.tasks)),
        ("Date", data.created),
        ("Duration", duration(data.duration_seconds)),
        ("Seed", str(data.seed)),
    ]
    return Template(_resource("template.html")).substitute(
        title=escape(data.title),
        version=escape(data.version),
        created=escape(data.created),
        css=_resource("style.css"),
        facts=facts(head),
        navigation="\n".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in parts),
        sections="\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title">\n'
            f'<h2 id="{key}-title">{title}</h2>\n{body}\n</section>'
            for key, title, body in parts
        ),
    )


def write_report(path: str | os.PathLike[str], data: ReportData) -> Path:
    """Write the report to a file, whole or not at all.

    Parameters
    ----------
    path
        Where to write, usually ``report.html`` in the run's directory, which must exist. A file
        that is already there is replaced.
    data
        What to show; see `render_report`.

    Returns
    -------
    Path
        The file written.
    """
    target = Path(path)
    text = render_report(data)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    return target


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def _config_text(data: ReportData) -> str:
    return json.dumps(dict(data.config), indent=2, ensure_ascii=False, default=_plain)
