"""Plots as images inside the HTML file, one for light and one for dark pages."""

from __future__ import annotations

import base64
import io
import re
import warnings
from html import escape
from typing import TYPE_CHECKING, Protocol, cast

from kernomics._optional import require_extra
from kernomics.pl.style import ThemeName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST_SVG = 300_000  # characters; beyond, a PNG at twice the screen's resolution is smaller
PIXELS_PER_INCH = 96
PHONE_COLUMN = 358  # pixels of text width on a phone 390 pixels wide
NARROWEST = 300  # pixels; a smaller image still gets a caption this wide
LEAST_SCALE = 0.8  # an image is never shown smaller than this: text of 12 pixels stays above 9


class Draw(Protocol):
    """A plot that can be drawn for either theme, such as a `functools.partial` of one in `pl`."""

    def __call__(self, *, theme: ThemeName) -> Axes | Figure:
        """Draw the plot and return its axes or figure."""
        ...


_TAG = re.compile(r"<[^>]*>")
_LONG_NUMBER = re.compile(r"\d+\.\d{3,}")


def _short_numbers(tag: re.Match[str]) -> str:
    """Round coordinates to 1/100 point, which halves the file; text between tags stays."""
    return _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", tag[0])


def _svg(figure: Figure) -> tuple[str, float, float]:
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        bbox_inches="tight",
        pad_inches=0.04,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = buffer.getvalue()
    text = _TAG.sub(_short_numbers, text[text.index("<svg") :])
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', text)
    if size is None:
        raise RuntimeError("matplotlib wrote an SVG whose size could not be found in points")
    width, height = (float(points) * PIXELS_PER_INCH / 72 for points in size.groups())
    return text, width, height


def _data_uri(figure: Figure) -> tuple[str, float, float]:
    """Return the figure as a data URI, with its natural width and height in pixels."""
    text, width, height = _svg(figure)
    if len(text) <= LARGEST_SVG:
        return f"data:image/svg+xml;base64,{_base64(text.encode())}", width, height
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="png",
        dpi=2 * PIXELS_PER_INCH,
        transparent=True,
        bbox_inches="tight",
        pad_inches=0.04,
    )
    return f"data:image/png;base64,{_base64(buffer.getvalue())}", width, height


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def figure_html(draw: Draw, *, alt: str, caption: str = "") -> str:
    """Draw a plot for both themes and return it as HTML."""
    matplotlib = require_extra("matplotlib", purpose="the report")
    uris: dict[ThemeName, str] = {}
    width = height = 0.0
    themes: tuple[ThemeName, ThemeName] = ("light", "dark")
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The browser has its own fonts: a glyph that matplotlib's lacks is no loss.
        warnings.filterwarnings("ignore", message=r"Glyph \d+", category=UserWarning)
        matplotlib.rcdefaults()  # a report looks the same whatever the caller has set
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "kernomics"})
        for theme in themes:
            drawn = draw(theme=theme)
            figure = cast("Figure", getattr(drawn, "figure", drawn))
            uris[theme], width, height = _data_uri(figure)
    least = round(LEAST_SCALE * width)
    image = (
        f'<picture><source media="screen and (prefers-color-scheme: dark)" '
        f'srcset="{uris["dark"]}">'
        f'<img src="{uris["light"]}" alt="{escape(alt)}" width="{width:.0f}" '
        f'height="{height:.0f}" style="min-width:{least}px"></picture>'
    )
    focus = ' tabindex="0" role="group" aria-label="wide figure"' if least > PHONE_COLUMN else ""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure style="width:{max(width, NARROWEST):.0f}px">'
        f'<div class="scroll"{focus}>{image}</div>{below}</figure>'
    )
