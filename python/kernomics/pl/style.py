"""The look shared by all plots: colours, sizes and labels.

Figures are made without pyplot, so nothing global changes: no back end is chosen, no figure stays
registered. Sizes are in inches and text in points, so a figure is legible at its natural size on a
phone, and every plot accepts an ``ax`` of the caller's instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kernomics._optional import require_extra
from kernomics.errors import ConfigError, closest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

ThemeName = Literal["light", "dark"]

TEXT = 9.0  # points, 12 pixels on a screen
SMALL = 7.5
CHARACTER = 0.077  # inches a character of TEXT takes on average
PHONE = 3.7  # inches across the text column of a phone


@dataclass(frozen=True)
class Theme:
    """Colours of one theme.

    Attributes
    ----------
    ink, muted, grid, ground
        Text, secondary text, thin lines, and the background that the colours were chosen for.
    palette
        Colours of categories, Okabe and Ito's, told apart by colour-blind readers.
    quiet
        Bars and marks that stand beside the coloured ones.
    low, high
        Ends of the sequential scale, a single hue whose lightness changes steadily.
    """

    ink: str
    muted: str
    grid: str
    ground: str
    palette: tuple[str, ...]
    quiet: str
    low: str
    high: str


THEMES: dict[str, Theme] = {
    "light": Theme(
        ink="#1c2430",
        muted="#5b6675",
        grid="#d9dee6",
        ground="#ffffff",
        palette=("#0072B2", "#D55E00", "#009E73", "#B5568F", "#A67C00", "#56B4E9", "#5b6675"),
        quiet="#a3adb9",
        low="#dbe7f2",
        high="#0b3f73",
    ),
    "dark": Theme(
        ink="#e6eaf0",
        muted="#a0abba",
        grid="#364152",
        ground="#171c24",
        palette=("#56B4E9", "#F08A4B", "#2CC295", "#DE8FBF", "#E6C13A", "#9DB7FF", "#a0abba"),
        quiet="#5d6877",
        low="#2c3b4d",
        high="#a5d4ff",
    ),
}


def get_theme(name: str) -> Theme:
    """Return a theme by name, or raise a `ConfigError` that lists the names."""
    if name not in THEMES:
        raise ConfigError(f"there is no theme {name!r}; {closest(name, THEMES)}")
    return THEMES[name]


def matplotlib_module(name: str) -> Any:
    """Import a submodule of matplotlib, or raise an error that names the extra."""
    return require_extra(f"matplotlib.{name}", purpose="plotting")


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    """Return an empty figure of the given size in inches, unknown to pyplot."""
    figure: Figure = matplotlib_module("figure").Figure(figsize=(width, height))
    figure.patch.set_facecolor(theme.ground)
    return figure


def new_axes(
    width: float,
    height: float,
    theme: Theme,
    *,
    left: float = 0.0,
    bottom: float = 0.0,
    right: float = 0.1,
    top: float = 0.1,
) -> Axes:
    """Return axes of ``width`` × ``height`` inches, with margins around for labels."""
    total_width, total_height = left + width + right, bottom + height + top
    figure = new_figure(total_width, total_height, theme)
    return figure.add_axes(
        (
            left / total_width,
            bottom / total_height,
            width / total_width,
            height / total_height,
        )
    )


def dress(
    ax: Axes,
    theme: Theme,
    *,
    grid: Literal["x", "y", "none"] = "none",
    x: str = "",
    y: str = "",
    title: str = "",
) -> None:
    """Give axes their names and the house style: no box, quiet ticks, a thin grid behind."""
    if x:
        ax.set_xlabel(x)
    if y:
        ax.set_ylabel(y)
    if title:
        text = shorten([title], 40)[0]
        ax.set_title(text, loc="left", fontsize=TEXT, color=theme.ink, parse_math=False)
    ax.set_facecolor("none")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    ax.tick_params(colors=theme.ink, labelsize=TEXT, length=0, pad=4)
    for label in (ax.xaxis.label, ax.yaxis.label, ax.title):
        label.set_color(theme.ink)
        label.set_fontsize(TEXT)
    if grid != "none":
        ax.grid(axis=grid, color=theme.grid, linewidth=0.7)
        ax.set_axisbelow(True)


def sequential(theme: Theme) -> Colormap:
    """Return the sequential colour map of a theme; it is not registered anywhere."""
    colors = matplotlib_module("colors")
    scale: Colormap = colors.LinearSegmentedColormap.from_list("kernomics", [theme.low, theme.high])
    return scale


def readable_on(color: Any) -> str:
    """Return black or white, whichever has more contrast with the colour: 4.5 or more (WCAG 2)."""
    red, green, blue = matplotlib_module("colors").to_rgb(color)

    def linear(c: float) -> float:
        return c / 12.92 if c <= 0.03928 else float(((c + 0.055) / 1.055) ** 2.4)

    luminance = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
    return "#000000" if luminance > 0.179 else "#ffffff"


def shorten(names: Sequence[str], longest: int = 24) -> list[str]:
    """Cut long names in the middle, so that both ends stay; equal results are numbered."""
    short: list[str] = []
    seen: dict[str, int] = {}
    for name in map(str, names):
        text = " ".join(name.split())
        if len(text) > longest:
            tail = (longest - 1) // 3
            text = f"{text[: longest - 1 - tail]}…{text[-tail:]}"
        seen[text] = seen.get(text, 0) + 1
        short.append(text if seen[text] == 1 else f"{text} ({seen[text]})")
    return short


def label_width(labels: Sequence[str]) -> float:
    """Return the inches that the longest of some labels takes, roughly and generously."""
    return CHARACTER * max((len(label) for label in labels), default=0) + 0.18


def name_ticks(
    axis: Axis, labels: Sequence[str], *, rotation: float = 0, size: float = TEXT
) -> None:
    """Put names at 0, 1, 2, … of an axis, exactly as written (a ``$`` starts no formula)."""
    axis.set_ticks(range(len(labels)), labels, rotation=rotation, fontsize=size)
    for label in axis.get_ticklabels():
        label.set_parse_math(False)


def nice_ceiling(value: float) -> float:
    """Return the next of 1, 2, 2.5, 5 × 10ⁿ that is not below the value; 1 for 0 or NaN."""
    if not value > 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))


def legend_below(ax: Axes, theme: Theme) -> None:
    """Put a legend of two columns under the label of the x axis."""
    inches = ax.get_window_extent().height / ax.figure.dpi
    ax.legend(
        frameon=False,
        fontsize=SMALL,
        labelcolor=theme.ink,
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.45 / inches),
        ncols=2,
        borderpad=0,
        columnspacing=1.2,
    )
