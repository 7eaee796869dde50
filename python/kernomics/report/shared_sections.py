"""Sections that every report has: training curves, warnings, and how to make the run again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np

from kernomics import pl
from kernomics.report.figures import figure_html
from kernomics.report.html import Cell, count, figures, paragraph, table


def training(history: Sequence[Mapping[str, Any]]) -> str:
    """Return one small plot per recorded quantity."""
    panels = pl.training_panels(history)
    if not panels:
        return paragraph("The run recorded no training history.")
    drawn = []
    for shown in panels:
        ends = "; ".join(
            f"{curve.split} from {curve.values[0]:.3g} to {curve.values[-1]:.3g}"
            for curve in shown.curves
        )
        drawn.append(
            figure_html(
                partial(pl.training_panel, shown),
                alt=f"Training curve, {shown.title} by step: {ends}.",
            )
        )
    return figures(drawn)


def cells_drawn(found: Any) -> str:
    """Say which cells a map shows: all of a part, or so many drawn from it with a seed."""
    n = len(found.rows)
    which = {"all": "cells", "held-out": "held-out cells"}[found.part]
    if n < found.n_from:
        return f"{n:,} of {found.n_from:,} {which}, drawn at random (seed {found.seed})"
    return f"all {n:,} {which}"


def warning_jump(warnings: Sequence[str], purpose: str) -> str:
    """Return a line that leads to the warnings, or nothing without any."""
    if not warnings:
        return ""
    return (
        f'<p class="notice jump">{count(len(warnings), "warning")} to read before using '
        f'{escape(purpose)}: <a href="#warnings">see below</a>.</p>'
    )


def warning_list(warnings: Sequence[str]) -> str:
    """Return the warnings as a list."""
    if not warnings:
        return paragraph("None.")
    return f'<ul class="notice">{"".join(f"<li>{escape(w)}</li>" for w in warnings)}</ul>'


def reproducibility(
    *,
    command: str,
    sentence: str,
    config: Mapping[str, Any],
    versions: Mapping[str, str],
    genes: Sequence[str] = (),
) -> str:
    """Return the command, a sentence on seed and split, the genes to copy, settings and versions.

    Without genes their list is left out, and so are settings that are empty.
    """
    packages = table(
        [Cell("Package"), Cell("Version")],
        [[Cell(name, heads_row=True), Cell(v)] for name, v in versions.items()],
        caption="Package versions.",
    )
    parts = [
        "<h3>Command</h3>",
        f'<pre class="copy" tabindex="0">{_command(command)}</pre>',
        paragraph(sentence),
    ]
    if genes:
        ranked = "\n".join(genes)
        parts += [
            "<h3>Genes, ranked</h3>",
            paragraph("Click to select the list.", "note"),
            f'<pre class="copy" tabindex="0">{escape(ranked)}</pre>',
        ]
    if config:
        text = json.dumps(dict(config), indent=2, ensure_ascii=False, default=_plain)
        parts += ["<h3>Configuration</h3>", f'<pre tabindex="0">{escape(text)}</pre>']
    return "\n".join([*parts, "<h3>Versions</h3>", packages])


def _command(command: str) -> str:
    """Escape a command line, in which no option is broken at its hyphens."""
    words = (
        f'<span class="option">{escape(word)}</span>' if word.startswith("--") else escape(word)
        for word in command.split(" ")
    )
    return " ".join(words)


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
