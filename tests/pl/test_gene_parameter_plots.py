"""Figures of gene parameters, activations and likelihoods show the numbers they are given."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from kernomics import pl
from kernomics.errors import ConfigError

RECALL = pd.DataFrame(
    [
        ("tokens", size, database, 0.1 + 0.01 * place + extra)
        for place, size in enumerate((8, 32, 64))
        for database, extra in (("A", 0.0), ("B", 0.2))
    ]
    + [("profiles", 500, "A", 0.3), ("profiles", 500, "B", 0.4)],
    columns=["representation", "n_components", "database", "recall"],
)
MOMENTS = pd.DataFrame(
    {
        "representation": ["loadings"] * 3 + ["tokens"] * 2,
        "component": [1, 2, 3, 1, 2],
        "share": [0.5, 0.2, 0.1, 0.3, 0.3],
        "mean": [0.9, 0.2, 0.0, 0.1, 0.1],
        "variance": [0.8, 0.3, 0.1, 0.1, 0.1],
        "both": [0.95, 0.4, 0.1, 0.2, 0.1],
    }
)


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_render_and_take_the_callers_axes(theme):
    for draw in (
        lambda **options: pl.recall_curve(RECALL, **options),
        lambda **options: pl.component_moments(MOMENTS, "loadings", **options),
        lambda **options: pl.activation_curves(**options),
        lambda **options: pl.nll_curves(3, **options),
    ):
        buffer = io.BytesIO()
        draw(theme=theme).figure.savefig(buffer, format="png", bbox_inches="tight")
        assert buffer.getvalue().startswith(b"\x89PNG")
        ax = Figure(figsize=(5, 4)).add_subplot()
        assert draw(theme=theme, ax=ax) is ax


def test_recall_is_the_mean_of_the_databases_or_one_of_them():
    drawn = lines(pl.recall_curve(RECALL))
    assert drawn["tokens"].get_xdata().tolist() == [8, 32, 64]
    np.testing.assert_allclose(drawn["tokens"].get_ydata(), [0.2, 0.21, 0.22])
    np.testing.assert_allclose(drawn["profiles"].get_ydata(), 0.35)
    np.testing.assert_allclose(drawn["chance"].get_ydata(), 0.1)
    drawn = lines(pl.recall_curve(RECALL, database="A"))
    np.testing.assert_allclose(drawn["tokens"].get_ydata(), [0.1, 0.11, 0.12])


def test_one_number_of_components_gives_level_lines_alone():
    """None recalled, whose axis would have no logarithm."""
    one = RECALL[RECALL["n_components"].isin([8, 500])].assign(recall=0.0)
    ax = pl.recall_curve(one)
    ax.figure.savefig(io.BytesIO(), format="png")
    assert ax.get_xscale() == "linear"
    assert lines(ax)["tokens"].get_ydata() == [0.0, 0.0]


def test_what_is_on_its_own_scale_has_the_colour_of_the_standardised():
    own = RECALL[RECALL["representation"] == "tokens"].assign(representation="tokens, own scale")
    own["recall"] += 0.05
    ax = pl.recall_curve(pd.concat([RECALL, own]))
    first, second = (line for line in ax.get_lines() if len(line.get_xdata()) == 3)
    np.testing.assert_allclose(second.get_ydata(), first.get_ydata() + 0.05)
    assert second.get_color() == first.get_color()
    assert second.get_markerfacecolor() != first.get_markerfacecolor()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["tokens", "profiles", "on its own scale", "chance"]


def test_recall_is_drawn_by_epoch_where_the_table_has_epochs():
    table = RECALL[RECALL["n_components"] == 32]
    table = pd.concat([table.assign(epoch=2, recall=0.5), table.assign(epoch=1)])
    drawn = lines(pl.recall_curve(table, by="epoch"))
    assert drawn["tokens"].get_xdata().tolist() == [1, 2]
    np.testing.assert_allclose(drawn["tokens"].get_ydata(), [0.21, 0.5])


def test_shares_of_a_representation_are_drawn():
    ax = pl.component_moments(MOMENTS, "loadings", n_components=2)
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.2]
    assert lines(ax)["R² of both"].get_ydata().tolist() == [0.95, 0.4]


def test_what_the_tables_lack_is_named():
    with pytest.raises(ConfigError, match="by is 'epoch'"):
        pl.recall_curve(RECALL, by="epoch")
    with pytest.raises(ConfigError, match="no database 'C'"):
        pl.recall_curve(RECALL, database="C")
    with pytest.raises(ConfigError, match="no representation 'loading'; closest: 'loadings'"):
        pl.component_moments(MOMENTS, "loading")
    with pytest.raises(ConfigError, match="no activation 'tanh'"):
        pl.activation(0.0, "tanh")
    with pytest.raises(ConfigError, match="no loss 'poisson'"):
        pl.count_nll(0, 1.0, "poisson")
    with pytest.raises(ConfigError, match="inverse_dispersion is 0"):
        pl.count_nll(0, 1.0, "NB", inverse_dispersion=0)
    with pytest.raises(ConfigError, match="means above 0"):
        pl.count_nll(0, 0.0, "Poisson")


# -- the functions drawn ---------------------------------------------------------------------------


def test_activations_at_points_computed_by_hand():
    alpha = math.log(100_001)
    z = [-3.0, 0.0, 4 * math.e, 1e3]
    np.testing.assert_allclose(
        pl.activation(z, "rectified tanh"), [0, 0, alpha * math.tanh(1), alpha]
    )
    np.testing.assert_allclose(pl.activation(z, "ReLU"), [0, 0, 4 * math.e, 1e3])
    np.testing.assert_allclose(pl.activation(z, "clamped ReLU"), [0, 0, 4 * math.e, alpha])
    softmax = pl.activation([0.0, 1e3], "softmax-like", n_genes=50)
    np.testing.assert_allclose(softmax, [math.log(1 + 1e5 / 50), alpha])


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(0, 200),
    mean=st.floats(0.01, 500),
    theta=st.floats(0.1, 100),
    share=st.floats(0, 0.9),
)
def test_likelihoods_are_those_of_scipy(count, mean, theta, share):
    options = {"inverse_dispersion": theta, "zero_inflation": share}
    nb = stats.nbinom.logpmf(count, theta, theta / (theta + mean))
    expected = {
        "Poisson": -stats.poisson.logpmf(count, mean),
        "NB": -nb,
        "ZINB": -math.log(share * (count == 0) + (1 - share) * math.exp(nb))
        if nb > -600
        else -nb - math.log(1 - share),
    }
    # Differences of log Γ near 1e3 round at about 1e-13 of them.
    for kind, value in expected.items():
        assert float(pl.count_nll(count, mean, kind, **options)) == pytest.approx(
            value, rel=1e-9, abs=1e-9
        )


def test_likelihood_curves_have_their_lowest_point_at_the_count():
    for line in pl.nll_curves(5, zero_inflation=0.0).get_lines():
        at = line.get_xdata()[np.argmin(line.get_ydata())]
        assert abs(math.log(at / 5)) < math.log(line.get_xdata()[1] / line.get_xdata()[0])
