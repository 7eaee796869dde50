"""One page for every report: a head of facts, then sections, in a file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from kernomics.report.html import facts

Section = tuple[str, str, str]
"""The id of a section, its title, and the HTML below its heading; empty HTML leaves it out."""


def render_page(
    *,
    title: str,
    kind: str,
    head: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    version: str,
    created: str,
) -> str:
    """Return a page as one HTML document.

    Styles and images are inside it, no script is, and it asks for nothing over the network.
    """
    shown = [section for section in sections if section[2]]
    return Template(_resource("template.html")).substitute(
        title=escape(title),
        kind=escape(kind),
        version=escape(version),
        created=escape(created),
        css=_resource("style.css"),
        facts=facts(head),
        navigation="\n".join(f'<li><a href="#{key}">{name}</a></li>' for key, name, _ in shown),
        sections="\n".join(
            f'<section id="{key}" aria-labelledby="{key}-title">\n'
            f'<h2 id="{key}-title">{name}</h2>\n{body}\n</section>'
            for key, name, body in shown
        ),
    )


def write_page(path: str | os.PathLike[str], text: str) -> Path:
    """Write a page to a file, whole or not at all; a file that is there is replaced."""
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    return target


def _resource(name: str) -> str:
    return files("kernomics.report").joinpath(name).read_text(encoding="utf-8")
