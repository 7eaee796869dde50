"""Combinations of TxFM's settings: which are refused, and what one leaves to another."""

import pytest

from kernomics.errors import ConfigError
from kernomics.models import TxFMConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "negative_binomal"}, "loss is 'negative_binomal'; closest: 'negative_binomial'"),
        ({"activation": "soft"}, "activation is 'soft'; closest: 'soft"),
        (
            {"loss": "zinb", "activation": "relu"},
            "loss is 'zinb' and activation 'relu', which can give counts a mean of 0.*'softplus'",
        ),
        ({"activation": "softmax", "normalise": False}, "'softmax' and normalise false.*to true"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TxFMConfig(**options)


def test_the_activation_is_that_of_the_loss_if_none_is_chosen():
    assert TxFMConfig().phi == TxFMConfig(loss="mse").phi == "rectified_tanh"
    assert TxFMConfig(loss="zinb").phi == TxFMConfig(loss="negative_binomial").phi == "softplus"
    assert TxFMConfig(loss="zinb", activation="softmax").phi == "softmax"
