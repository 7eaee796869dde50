"""Intervals of a panel's scores over held-out donors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.metrics import f1_score

from kernomics import datasets
from kernomics.evaluation.panels.donors import DRAWS, OverGroups, intervals, over_groups
from kernomics.models import YOTO


def test_intervals_are_those_of_draws_of_whole_donors():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 5, 400)
    truth = rng.integers(0, 3, 400)
    told = np.where(rng.random(400) < 0.5 + 0.1 * groups, truth, rng.integers(0, 3, 400))
    found = intervals(truth, told, groups)
    drawn = np.random.default_rng(0).multinomial(4, np.full(5, 0.2), size=DRAWS)
    scores = []
    for counts in drawn[:300]:  # by hand, with each cell as often as its donor is drawn
        cells = np.repeat(np.arange(400), counts[groups])
        labels = np.unique(truth[cells])
        f1 = f1_score(truth[cells], told[cells], labels=labels, average="macro")
        scores.append([np.mean(truth[cells] == told[cells]), f1])
    low, high = np.quantile(scores, [0.025, 0.975], axis=0)
    for i, name in enumerate(("accuracy", "macro_f1")):
        # Quantiles of 300 of the 2,000 draws: four standard errors of a share of 300.
        reach = 4 * np.sqrt(0.025 * 0.975 / 300)
        for bound, q in zip(found[name], (0.025, 0.975), strict=True):
            share = np.mean(np.array(scores)[:, i] <= bound)
            assert abs(share - q) < reach
        assert low[i] < np.mean(truth == told) + 0.1
        assert high[i] > low[i]


def test_a_class_of_one_donor_alone_counts_where_it_is_drawn():
    truth, told = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0])
    found = intervals(truth, told, np.array(["a", "a", "b", "b", "b"]))
    # One of two donors is drawn: class 0 alone, or classes 1 and 2.
    assert found == {"accuracy": (pytest.approx(2 / 3), 1.0), "macro_f1": (pytest.approx(0.5), 1.0)}


def test_one_donor_tells_nothing():
    assert intervals([0, 1], [0, 1], ["a", "a"]) == {}
    said = OverGroups("donor", 1, {}).sentence()
    assert said == "All held-out cells are of one donor: what others would give is not known."


def test_a_split_by_donors_has_intervals_and_others_have_none():
    adata = datasets.simulate(240, 30, 3, 4, n_batches=8, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = YOTO(adata, "cell_type", 6, split="group", split_key="batch")
        model.train(max_epochs=3, progress=False)
        other = YOTO(adata, "cell_type", 6).train(max_epochs=2, progress=False)
    found = over_groups(model)["cell_type"]
    held_out = adata.obs["batch"].iloc[model.split.test].unique()
    assert (found.by, found.n_groups) == ("batch", len(held_out))
    accuracy = model.test_metrics()["cell_type"]["accuracy"]
    low, high = found.intervals["accuracy"]
    assert low <= accuracy <= high
    assert "95% intervals over the" in found.sentence()
    assert over_groups(other) == {}
