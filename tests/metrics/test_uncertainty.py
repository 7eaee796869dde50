"""Standard errors of scores over held-out cells."""

import numpy as np
import pytest

from kernomics.errors import ConfigError, DataError
from kernomics.metrics import bootstrap_scores, macro_f1, proportion_error
from kernomics.metrics.uncertainty import spread


def predictions(n=400):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, n)
    wrong = rng.random(n) < 0.2
    return truth, np.where(wrong, (truth + 1) % 3, truth)


def test_error_of_accuracy_is_that_of_a_share():
    truth, guess = predictions()
    drawn = bootstrap_scores(truth, {"a": guess}, n_draws=2000)["a"]["accuracy"]
    share = np.mean(truth == guess)
    # The standard deviation of 2,000 draws is known to 1/√4000 = 1.6 %: four of these.
    assert spread(drawn) == pytest.approx(proportion_error(share, len(truth)), rel=0.064)
    assert drawn.mean() == pytest.approx(share, abs=4 * spread(drawn) / np.sqrt(2000))


def test_macro_f1_of_a_draw_is_that_of_its_cells():
    truth, guess = predictions(60)
    drawn = bootstrap_scores(truth, {"a": guess}, n_draws=5, seed=7)["a"]["macro_f1"]
    rng = np.random.default_rng(7)
    for found in drawn:
        cells = rng.integers(0, 60, 60)
        assert found == pytest.approx(macro_f1(truth[cells], guess[cells]))


def test_predictions_are_scored_on_the_same_draws_and_unlabelled_cells_count_nowhere():
    truth, guess = predictions()
    both = bootstrap_scores(truth, {"a": guess, "b": guess, "c": truth})
    np.testing.assert_array_equal(both["a"]["macro_f1"], both["b"]["macro_f1"])
    assert np.isnan(spread(both["c"]["accuracy"]))
    more = np.r_[truth, -1, -1], {"a": np.r_[guess, 5, 0]}
    np.testing.assert_array_equal(bootstrap_scores(*more)["a"]["accuracy"], both["a"]["accuracy"])


def test_a_share_of_none_or_all_has_no_error():
    assert proportion_error(0.5, 100) == pytest.approx(0.05)
    assert np.isnan(
        [proportion_error(0.0, 9), proportion_error(1.0, 9), proportion_error(0.5, 0)]
    ).all()


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(DataError, match="none of the 2 held-out cells is labelled"):
        bootstrap_scores([-1, -1], {"a": [0, 1]})
    with pytest.raises(ConfigError, match="n_draws is 1"):
        bootstrap_scores([0, 1], {"a": [0, 1]}, n_draws=1)
    with pytest.raises(DataError, match="same cells"):
        bootstrap_scores([0, 1], {"a": [0]})
