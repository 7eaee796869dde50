"""Small pieces of HTML. Every text that comes in is escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Cell:
    """One table cell: text, CSS class, a smaller line below, and the share that a bar fills."""

    text: str
    css: str = ""
    small: str = ""
    bar: float | None = None
    heads_row: bool = False

    def html(self) -> str:
        """Return the ``td`` element, or ``th`` for a cell that heads its row."""
        css = " ".join(filter(None, [self.css, "" if self.bar is None else "bar"]))
        attributes = f' class="{css}"' if css else ""
        if self.bar is not None:
            filled = 100 * min(max(self.bar, 0.0), 1.0)
            attributes += f' style="background-size:calc({filled:.0f}% - .7rem) .22rem"'
        inner = escape(self.text)
        if self.small:
            inner += f'<span class="small">{escape(self.small)}</span>'
        if self.heads_row:
            return f'<th scope="row"{attributes}>{inner}</th>'
        return f"<td{attributes}>{inner}</td>"


def number(value: float | None, digits: int = 3) -> Cell:
    """Return a right-aligned cell; a dash stands for what was not computed."""
    return Cell(show(value, digits), "number")


def show(value: float | None, digits: int = 3) -> str:
    """Write a number with fixed digits, or a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:,.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Write a duration with the two units that matter: ``"2 min 13 s"``."""
    if not math.isfinite(seconds) or seconds < 0:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(
    columns: Sequence[Cell],
    rows: Sequence[Sequence[Cell] | str],
    *,
    caption: str,
    tall: bool = False,
) -> str:
    """Return a table in a container of its own that scrolls, so that the page never does.

    A row given as plain text is a heading for the rows that follow it.
    """
    head = "".join(
        f'<th scope="col" class="{cell.css}">{escape(cell.text)}</th>'
        if cell.css
        else f'<th scope="col">{escape(cell.text)}</th>'
        for cell in columns
    )
    body = []
    for row in rows:
        if isinstance(row, str):
            body.append(
                f'</tbody><tbody><tr class="group"><th scope="rowgroup" colspan="{len(columns)}">'
                f"{escape(row)}</th></tr>"
            )
        else:
            body.append(f"<tr>{''.join(cell.html() for cell in row)}</tr>")
    inner = f"<tbody>{''.join(body)}</tbody>".replace("<tbody></tbody>", "")
    css = "scroll tall" if tall else "scroll"
    return (
        f'<div class="{css}" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{head}</tr></thead>"
        f"{inner}</table></div>"
    )


def paragraph(text: str, css: str = "") -> str:
    """Return a paragraph of plain text."""
    return f'<p class="{css}">{escape(text)}</p>' if css else f"<p>{escape(text)}</p>"


def figures(drawn: Sequence[str]) -> str:
    """Return figures side by side, as many as fit."""
    return f'<div class="figures">{"".join(drawn)}</div>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return a list of terms and values."""
    inner = "".join(
        f"<div><dt>{escape(term)}</dt><dd>{escape(value)}</dd></div>" for term, value in pairs
    )
    return f'<dl class="facts">{inner}</dl>'


def count(n: int, one: str, many: str | None = None) -> str:
    """Write a count with its noun: ``"1 gene"``, ``"2,000 genes"``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
