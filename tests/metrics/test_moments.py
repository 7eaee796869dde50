"""How much of a component the genes' mean and variance explain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernomics.errors import DataError
from kernomics.metrics import moments_explained


def moments(n=200, seed=0):
    random = np.random.default_rng(seed)
    mean = np.exp(random.normal(size=n))
    return mean, mean * (1 + np.exp(random.normal(size=n)))


def test_a_component_made_of_the_moments_is_explained_by_them_alone():
    mean, variance = moments()
    noise = np.random.default_rng(1).normal(size=200)
    x = np.stack([3 * np.log(mean) - 7, np.log(mean) + 2 * np.log(variance), noise], axis=1)
    found = moments_explained(x, mean, variance)
    assert found["mean"][0] == pytest.approx(1, abs=1e-12)
    assert found["mean"][1] < 0.99
    assert found["both"][1] == pytest.approx(1, abs=1e-12)
    # R² of independent features is Beta(1, 98.5): above 0.1 with probability 0.9^98.5 = 3e-5.
    assert found["both"][2] < 0.1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_shares_lie_between_0_and_1_and_both_is_the_most(seed):
    mean, variance = moments(40, seed)
    x = np.random.default_rng(seed + 1).normal(size=(40, 3)) + np.log(mean)[:, None]
    found = moments_explained(x, mean, variance)
    for name in ("mean", "variance"):
        assert (found[name] >= -1e-12).all()
        assert (found["both"] >= found[name] - 1e-12).all()
        r = [np.corrcoef(np.log({"mean": mean, "variance": variance}[name]), c)[0, 1] for c in x.T]
        np.testing.assert_allclose(found[name], np.square(r), atol=1e-9)
    assert (found["both"] <= 1).all()


def test_a_constant_component_has_no_share():
    mean, variance = moments(10)
    assert np.isnan(moments_explained(np.ones((10, 1)), mean, variance)["both"]).all()


def test_what_does_not_fit_is_named():
    mean, variance = moments(10)
    with pytest.raises(DataError, match=r"mean has shape \(9,\)"):
        moments_explained(np.ones((10, 1)), mean[:9], variance)
    variance[4] = 0
    with pytest.raises(DataError, match=r"1 of 10 genes have a variance that is not above 0.*4"):
        moments_explained(np.ones((10, 1)), mean, variance)
