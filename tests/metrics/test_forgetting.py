"""Forgetting and transfer, by hand; probes whose settings score nothing."""

import importlib

import numpy as np
import pandas as pd
import pytest

from kernomics.errors import DataError
from kernomics.metrics import forgetting, tuned_probes


def losses():
    table = [[4.0, 5.0, 6.0], [1.0, 4.5, 5.0], [1.5, 2.0, 5.5], [1.25, 3.0, 2.5]]
    return pd.DataFrame(table, ["start", "a", "b", "c"], ["a", "b", "c"])


def test_what_was_forgotten_is_the_loss_now_less_that_when_learnt():
    found = forgetting(losses())
    assert found.groups["learned"].tolist() == [1.0, 2.0, 2.5]
    assert found.groups["last"].tolist() == [1.25, 3.0, 2.5]
    assert found.groups["before"].tolist() == [4.0, 4.5, 5.5]
    assert found.groups["delta"].tolist() == [0.25, 1.0, 0.0]
    assert found.backward_transfer == -0.625
    assert found.forward_transfer == ((5.0 - 4.5) + (6.0 - 5.5)) / 2
    assert found.to_dict()["groups"][1]["delta"] == 1.0


def test_a_training_on_all_at_once_forgets_nothing():
    found = forgetting(losses().iloc[[0, 3]])
    assert found.groups["delta"].tolist() == [0.0, 0.0, 0.0]
    assert found.groups["learned"].tolist() == [1.25, 3.0, 2.5]


def test_another_table_is_refused():
    with pytest.raises(DataError, match="losses have 3 rows and 3 columns"):
        forgetting(losses().iloc[:3])


def features(n=200, spread=0.3, seed=0):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 3, n)
    x = np.eye(3)[codes] + spread * random.normal(size=(n, 3))
    return np.hstack([x, random.normal(size=(n, 5))]), codes


def test_classes_that_differ_are_told_and_noise_is_not():
    pytest.importorskip("sklearn")
    x, codes = features()
    found = tuned_probes(x, codes)
    assert found["linear_accuracy"] > 0.9
    assert found["knn_accuracy"] > 0.7
    noise = tuned_probes(np.random.default_rng(1).normal(size=x.shape), codes)
    assert noise["linear_accuracy"] < 0.6
    assert tuned_probes(x, codes) == found
    assert tuned_probes(x, codes, seed=1) != found


def test_settings_are_not_chosen_on_the_cells_that_score(monkeypatch):
    pytest.importorskip("sklearn")
    home = importlib.import_module("kernomics.metrics.tuned_probes")
    seen, score = [], home._score

    def noted(classifier, x, y, fitted, scored):
        seen.append((set(fitted), set(scored)))
        return score(classifier, x, y, fitted, scored)

    monkeypatch.setattr(home, "_score", noted)
    home.tuned_probes(*features())
    final = seen[len(home.STRENGTHS)][1]
    assert len(final) == 60
    for fitted, scored in seen:
        assert not fitted & scored
        assert not fitted & final
        assert scored == final or not scored & final


def test_unlabelled_cells_and_small_classes_are_left_out_and_groups_kept_whole():
    pytest.importorskip("sklearn")
    x, codes = features()
    codes[:20], codes[20:22] = -1, 3
    x[:20] = np.nan
    assert tuned_probes(x, codes)["linear_accuracy"] > 0.9
    groups = np.arange(200) % 8
    assert tuned_probes(*features(), groups=groups)["linear_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("x", "codes", "message"),
    [
        (np.zeros((4, 2)), [0, 0, 0], "features have shape"),
        (np.zeros((4, 2)), [0, 0, 0, -1], "1 classes have 3 cells or more, of 3 labelled cells"),
    ],
)
def test_cells_that_cannot_be_scored_are_refused(x, codes, message):
    pytest.importorskip("sklearn")
    with pytest.raises(DataError, match=message):
        tuned_probes(x, codes)


def test_a_table_of_words_is_refused():
    table = losses().astype(object)
    table.iloc[1, 1] = "much"
    with pytest.raises(DataError, match="which does not contain numbers"):
        forgetting(table)
