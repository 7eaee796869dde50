"""Scoring a representation by nearest neighbours and a linear probe."""

import numpy as np
import pytest
import torch

from kernomics.errors import ConfigError, DataError
from kernomics.metrics import (
    clustering_scores,
    ilisi,
    linear_top_accuracy,
    mlp_probe,
    probe_metrics,
)

pytest.importorskip("sklearn")


def test_separated_classes_are_told_apart_by_both():
    random = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], 30)
    x = random.normal(size=(90, 4)) + 10 * np.eye(4)[codes]
    found = probe_metrics(x[::2], codes[::2], x[1::2], codes[1::2])
    assert set(found) == {"knn_accuracy", "knn_macro_f1", "linear_accuracy", "linear_macro_f1"}
    assert all(value == 1.0 for value in found.values())


def test_neighbours_vote_as_counted_by_hand():
    train = [[0.0], [1.0], [2.0], [10.0], [11.0]]
    found = probe_metrics(train, [0, 0, 1, 1, 1], [[0.4], [9.0]], [0, 0], n_neighbours=3)
    # 0.4 has neighbours 0, 0, 1; 9.0 has 1, 1, 1: one of two is right.
    assert found["knn_accuracy"] == 0.5
    assert found["knn_macro_f1"] == pytest.approx(2 / 3)  # over the classes that there are


def test_a_feature_of_tiny_scale_counts_for_the_linear_probe():
    random = np.random.default_rng(1)
    codes = np.arange(200) % 2
    x = np.stack([random.normal(size=200), 1e-6 * codes], axis=1)
    found = probe_metrics(x[:100], codes[:100], x[100:], codes[100:])
    assert found["linear_accuracy"] == 1.0
    assert found["knn_accuracy"] < 0.7


def test_unlabelled_cells_count_nowhere():
    train, codes = [[0.0], [0.1], [1.0], [1.1], [0.5]], [0, 0, 1, 1, -1]
    found = probe_metrics(train, codes, [[0.0], [1.0], [9.0]], [0, 1, -1], n_neighbours=1)
    assert found["knn_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("train", "codes", "test", "truth", "message"),
    [
        ([[0.0]], [-1], [[0.0]], [0], "none of the 1 training cells has a label"),
        ([[0.0], [1.0]], [0, 1], [[0.0]], [-1], "none of the 1 held-out cells has a label"),
        ([[0.0], [1.0]], [0], [[0.0]], [0], r"shape \(2, 1\) and 1 labels"),
    ],
)
def test_bad_input_is_named(train, codes, test, truth, message):
    with pytest.raises(DataError, match=message):
        probe_metrics(train, codes, test, truth)


# -- many classes, and a network -------------------------------------------------------------------


def many_classes(n_classes=8, n=240, seed=0):
    random = np.random.default_rng(seed)
    codes = np.arange(n) % n_classes
    return random.normal(size=(n, 6)) + 2 * random.normal(size=(n_classes, 6))[codes], codes


def test_top_accuracies_are_those_of_sklearn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import top_k_accuracy_score
    from sklearn.preprocessing import StandardScaler

    x, codes = many_classes()
    found = linear_top_accuracy(x[:160], codes[:160], x[160:], codes[160:])
    scale = StandardScaler().fit(x[:160])
    linear = LogisticRegression(max_iter=2000).fit(scale.transform(x[:160]), codes[:160])
    p = linear.predict_proba(scale.transform(x[160:]))
    assert found["linear_top1"] == top_k_accuracy_score(codes[160:], p, k=1)
    assert found["linear_top5"] == top_k_accuracy_score(codes[160:], p, k=5)
    assert found["linear_top_mean"] == (found["linear_top1"] + found["linear_top5"]) / 2


def test_a_class_never_trained_on_is_never_right():
    x, codes = many_classes()
    unknown = np.full(80, 77)
    found = linear_top_accuracy(x[:160], codes[:160], x[160:], unknown)
    assert set(found.values()) == {0.0}
    assert mlp_probe(x[:160], codes[:160], x[160:], unknown, max_epochs=1)["mlp_accuracy"] == 0


def test_top_five_of_five_classes_is_refused():
    x, codes = many_classes(5, 50)
    with pytest.raises(DataError, match="have 5 classes: the right one is always"):
        linear_top_accuracy(x, codes, x, codes)


def test_the_network_tells_apart_what_no_line_does():
    random = np.random.default_rng(2)
    x = random.normal(size=(600, 2))
    codes = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)  # exclusive or
    parts = x[:400], codes[:400], x[400:], codes[400:]
    found = mlp_probe(*parts, max_epochs=40)
    assert found["mlp_accuracy"] > 0.9
    assert found["mlp_macro_f1"] > 0.9
    assert probe_metrics(*parts)["linear_accuracy"] < 0.7
    assert found["mlp_learning_rate"] == 5e-4  # the slower ones are not done after 200 steps


def test_the_network_is_the_same_for_the_same_seed_and_leaves_torch_as_it_was():
    x, codes = many_classes()
    codes[::7] = -1
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    parts = x[:160], codes[:160], x[160:], codes[160:]
    options = {"max_epochs": 3, "learning_rates": (1e-3,)}
    first = mlp_probe(*parts, **options)
    assert torch.equal(torch.rand(3), expected)
    assert mlp_probe(*parts, **options) == first
    others = [mlp_probe(*parts, **options, seed=seed) for seed in range(1, 5)]
    assert any(other != first for other in others)


def test_bad_settings_of_the_network_are_named():
    x, codes = many_classes()
    with pytest.raises(ConfigError, match="learning_rates are \\[\\]"):
        mlp_probe(x, codes, x, codes, learning_rates=())
    with pytest.raises(DataError, match="of one class: two are needed"):
        mlp_probe(x, codes * 0, x, codes)
    with pytest.raises(DataError, match="4 labelled training cells are too few"):
        mlp_probe(x[:4], codes[:4], x, codes)


def test_names_of_classes_and_one_class_alone_are_refused_by_name():
    x = np.random.default_rng(0).normal(size=(40, 3))
    names = np.array(["a", "b"] * 20)
    message = r"labels of .* cells must hold integer class codes, .* pandas.Categorical"
    for score in (
        lambda: probe_metrics(x, names, x, names),
        lambda: ilisi(x, names),
        lambda: clustering_scores(x, names),
    ):
        with pytest.raises(DataError, match=message):
            score()
    one = np.zeros(40, int)
    with pytest.raises(DataError, match="all 40 labelled training cells are of one class"):
        probe_metrics(x, one, x, one)
