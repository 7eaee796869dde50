"""The functions between a decoder's output and the counts: activations and likelihoods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from kernomics._arguments import checked, numbers_of
from kernomics.errors import ConfigError, closest
from kernomics.pl import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BETA = 4 * math.e
LINES = ("-", "--", "-.", ":")


@checked
def activation(
    z: ArrayLike, kind: str, *, target_sum: float = 1e5, n_genes: int = 20_000
) -> NDArray[np.float64]:
    """Return log-normalised expression from a decoder's output.

    With α = log(L + 1), the largest value that x = log(1 + L·c/ℓ) can have, and β = 4e:

    - ``"rectified tanh"``: α·ReLU(tanh(z/β)), TxFM's (arXiv 2605.31562, Eq. 1);
    - ``"ReLU"``: ReLU(z), which has no upper end;
    - ``"clamped ReLU"``: min(ReLU(z), α);
    - ``"softmax-like"``: log(1 + L·eᶻ/(eᶻ + G − 1)), a softmax over G genes of which the others'
      outputs are 0.

    Parameters
    ----------
    z
        Float, any shape.
    kind
        One of the four.
    target_sum
        L.
    n_genes
        G, of the softmax.

    Raises
    ------
    ConfigError
        For another kind.
    """
    if target_sum <= 0 or n_genes < 1:
        raise ConfigError(f"target_sum is {target_sum} and n_genes {n_genes}: both must be above 0")
    x, alpha = numbers_of("z", z), math.log1p(target_sum)
    kinds: dict[str, Callable[[], Any]] = {
        "rectified tanh": lambda: alpha * np.maximum(np.tanh(x / BETA), 0),
        "ReLU": lambda: np.maximum(x, 0),
        "clamped ReLU": lambda: np.clip(x, 0, alpha),
        "softmax-like": lambda: np.log1p(target_sum / (1 + (n_genes - 1) * np.exp(-x))),
    }
    if kind not in kinds:
        raise ConfigError(f"there is no activation {kind!r}; {closest(kind, kinds)}")
    return np.asarray(kinds[kind]())


@checked
def count_nll(
    count: ArrayLike,
    mean: ArrayLike,
    kind: str,
    *,
    inverse_dispersion: float = 2.0,
    zero_inflation: float = 0.3,
) -> NDArray[np.float64]:
    """Return the negative log-likelihood of a count.

    - ``"Poisson"``: μ − c·log μ + log c!
    - ``"NB"``, inverse dispersion θ, variance μ + μ²/θ: −log Γ(c + θ) + log Γ(θ) + log c!
      − θ·log(θ/(θ + μ)) − c·log(μ/(θ + μ))
    - ``"ZINB"``, a further share π of zeros: −log(π·[c = 0] + (1 − π)·NB(c)) (Lopez et al., Nature
      Methods 15, 2018).

    Parameters
    ----------
    count, mean
        c, integers of 0 and more, and μ above 0; shapes that broadcast.
    kind
        One of the three.
    inverse_dispersion, zero_inflation
        θ above 0, and π from 0 to below 1.

    Raises
    ------
    ConfigError
        For another kind, or parameters that make no sense.
    """
    if inverse_dispersion <= 0 or not 0 <= zero_inflation < 1:
        raise ConfigError(
            f"inverse_dispersion is {inverse_dispersion} and zero_inflation {zero_inflation}: one "
            "must be above 0, the other from 0 to below 1"
        )
    c, mu = numbers_of("count", count), numbers_of("mean", mean)
    if not (c >= 0).all() or not (mu > 0).all():
        raise ConfigError("counts must be 0 or more and means above 0")
    theta = inverse_dispersion
    if kind == "Poisson":
        return np.asarray(mu - c * np.log(mu) + gammaln(c + 1))
    nb = (
        gammaln(theta)
        + gammaln(c + 1)
        - gammaln(c + theta)
        + theta * np.log1p(mu / theta)
        + c * np.log1p(theta / mu)
    )
    if kind == "NB":
        return np.asarray(nb)
    if kind == "ZINB":
        with np.errstate(divide="ignore"):
            zero = np.log(np.where(c == 0, zero_inflation, 0.0))
        return np.asarray(-np.logaddexp(zero, np.log1p(-zero_inflation) - nb))
    raise ConfigError(f"there is no loss {kind!r}; {closest(kind, ('Poisson', 'NB', 'ZINB'))}")


@checked
def activation_curves(
    kinds: Sequence[str] = ("rectified tanh", "ReLU", "clamped ReLU", "softmax-like"),
    *,
    target_sum: float = 1e5,
    n_genes: int = 20_000,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw the decoder's activations against its output z.

    Parameters
    ----------
    kinds, target_sum, n_genes
        As in `activation`.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; α = log(L + 1), the largest possible expression, is dotted.
    """
    colors = style.get_theme(theme)
    z = np.linspace(-10, 30, 401)
    curves = {kind: activation(z, kind, target_sum=target_sum, n_genes=n_genes) for kind in kinds}
    if ax is None:
        ax = style.new_axes(2.85, 2.1, colors, left=0.6, bottom=1.0, right=0.15, top=0.15)
    for (kind, values), color, line in zip(curves.items(), colors.palette, LINES, strict=False):
        ax.plot(z, values, line, color=color, linewidth=1.6, label=kind)
    alpha = math.log1p(target_sum)
    ax.axhline(alpha, color=colors.muted, linewidth=1.0, linestyle=":", zorder=1)
    ax.set_ylim(-0.3, 1.3 * alpha)
    style.dress(ax, colors, grid="y", x="decoder's output z", y="expression φ(z)")
    style.legend_below(ax, colors)
    return ax


@checked
def nll_curves(
    count: int,
    *,
    inverse_dispersion: float = 2.0,
    zero_inflation: float = 0.3,
    ax: Axes | None = None,
    theme: style.ThemeName = "light",
) -> Axes:
    """Draw the negative log-likelihood of one count by Poisson, NB and ZINB against the mean.

    Parameters
    ----------
    count
        c, 0 or more.
    inverse_dispersion, zero_inflation
        As in `count_nll`.
    ax
        Axes to draw on; by default a new figure.
    theme
        ``"light"`` or ``"dark"``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes. The three differ in how hard a mean far from the count is punished.
    """
    colors = style.get_theme(theme)
    mean = np.geomspace(0.05, max(20.0, 5.0 * count), 300)
    if ax is None:
        ax = style.new_axes(2.85, 2.1, colors, left=0.6, bottom=0.8, right=0.15, top=0.35)
    for kind, color, line in zip(("Poisson", "NB", "ZINB"), colors.palette, LINES, strict=False):
        values = count_nll(
            count,
            mean,
            kind,
            inverse_dispersion=inverse_dispersion,
            zero_inflation=zero_inflation,
        )
        ax.plot(mean, values, line, color=color, linewidth=1.6, label=kind)
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    style.dress(
        ax,
        colors,
        grid="y",
        x="mean μ",
        y="−log likelihood",
        title=f"count {count}, θ = {inverse_dispersion:g}, π = {zero_inflation:g}",
    )
    style.legend_below(ax, colors)
    return ax
