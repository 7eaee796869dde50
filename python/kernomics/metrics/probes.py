"""How well classes can be read off a representation of cells by classifiers fitted on others."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kernomics._arguments import checked, codes_of, numbers_of
from kernomics._optional import require_extra
from kernomics._warnings import quietly
from kernomics.data import make_split
from kernomics.data.rng import Stream, permutation
from kernomics.errors import ConfigError, DataError
from kernomics.metrics.classification import accuracy, classification_metrics, macro_f1
from kernomics.nn.philox import Draws, ReluDropout, drawing_from

N_NEIGHBOURS = 15

HIDDEN = (512, 256)
DROPOUT = 0.5
LEARNING_RATES = (1e-4, 5e-4, 1e-5)
"""Of the two-layer probe, as in TxFM's evaluation (arXiv 2605.31562)."""

MLP_BATCH, MLP_EPOCHS, MLP_PATIENCE, INNER_SHARE = 64, 100, 10, 0.2
"""Ours, where the paper says nothing."""


@checked
def probe_metrics(
    train: ArrayLike,
    train_codes: ArrayLike,
    test: ArrayLike,
    test_codes: ArrayLike,
    *,
    n_neighbours: int = N_NEIGHBOURS,
) -> dict[str, float]:
    """Score a representation by two classifiers fitted on training cells.

    Parameters
    ----------
    train, test
        [n, d], the representation of training and held-out cells.
    train_codes, test_codes
        int [n], classes, −1 for unlabelled cells, which count nowhere.
    n_neighbours
        Of the nearest-neighbour vote, by Euclidean distance in the representation as it is.

    Returns
    -------
    dict
        ``knn_accuracy``, ``knn_macro_f1``; and ``linear_accuracy``, ``linear_macro_f1`` of a
        logistic regression (L2, C = 1) on the standardised representation.

    Raises
    ------
    DataError
        When no labelled cell is there to train or to score on, or all to train on are of one class.
    """
    return probe_scores(
        *probe_predictions(train, train_codes, test, test_codes, n_neighbours=n_neighbours)
    )


def probe_scores(
    truth: NDArray[np.int64], predictions: Mapping[str, NDArray[np.int64]]
) -> dict[str, float]:
    """Return what `probe_metrics` returns, of what `probe_predictions` returned."""
    found: dict[str, float] = {}
    for name, predicted in predictions.items():
        scores = classification_metrics(truth, predicted)
        for metric in ("accuracy", "macro_f1"):
            found[f"{name}_{metric}"] = scores[metric]
    return found


@checked
def probe_predictions(
    train: ArrayLike,
    train_codes: ArrayLike,
    test: ArrayLike,
    test_codes: ArrayLike,
    *,
    n_neighbours: int = N_NEIGHBOURS,
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """Predict the classes of held-out cells by the two classifiers of `probe_metrics`.

    Parameters
    ----------
    train, train_codes, test, test_codes, n_neighbours
        As in `probe_metrics`.

    Returns
    -------
    ndarray, dict
        int64 [n] each: the classes of the labelled held-out cells, in their order, and what
        ``"knn"`` and ``"linear"`` take them for.

    Raises
    ------
    DataError
        When no labelled cell is there to train or to score on, or all to train on are of one class.
    """
    require_extra("sklearn", purpose="scoring a representation")
    from sklearn.neighbors import KNeighborsClassifier

    if n_neighbours < 1:
        raise ConfigError(f"n_neighbours is {n_neighbours}: at least 1 is needed")
    x, y = labelled_cells(train, train_codes, "training")
    x_test, y_test = labelled_cells(test, test_codes, "held-out")
    if np.unique(y).size < 2:
        raise DataError(f"all {len(y):,} labelled training cells are of one class: two are needed")
    knn = KNeighborsClassifier(min(n_neighbours, len(y)), algorithm="brute")
    classifiers = {"knn": knn, "linear": _linear()}
    return y_test, {name: c.fit(x, y).predict(x_test) for name, c in classifiers.items()}


def _linear() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


@checked
def linear_top_accuracy(
    train: ArrayLike,
    train_codes: ArrayLike,
    test: ArrayLike,
    test_codes: ArrayLike,
    *,
    top: int = 5,
) -> dict[str, float]:
    """Score a representation of many classes by whether the right one is among the likeliest.

    The linear probe of TxFM's evaluation of perturbations (arXiv 2605.31562), there on batches it
    was not fitted on: the mean of top-1 and top-5 accuracy.

    Parameters
    ----------
    train, train_codes, test, test_codes
        As in `probe_metrics`.
    top
        How many of the likeliest classes count.

    Returns
    -------
    dict
        ``linear_top1``, ``linear_top{top}`` and their mean, ``linear_top_mean``, of the classifier
        of `probe_metrics`. A cell whose class no training cell has is never right.

    Raises
    ------
    DataError
        When the training cells have no more than `top` classes, or there are no labelled cells.
    """
    require_extra("sklearn", purpose="scoring a representation")
    if top < 1:
        raise ConfigError(f"top is {top}: at least 1 is needed")
    x, y, x_test, y_test = _both_sides(train, train_codes, test, test_codes)
    n_classes = np.unique(y).size
    if n_classes <= top:
        raise DataError(
            f"the training cells have {n_classes} classes: the right one is always among the "
            f"{top} likeliest; use probe_metrics instead"
        )
    linear = _linear().fit(x, y)
    order = np.argsort(-linear.predict_proba(x_test), axis=1, kind="stable")
    right = linear.classes_[order] == y_test[:, None]
    first, among = float(right[:, 0].mean()), float(right[:, :top].any(axis=1).mean())
    return {"linear_top1": first, f"linear_top{top}": among, "linear_top_mean": (first + among) / 2}


# -- a network of two layers -----------------------------------------------------------------------


@checked
def mlp_probe(
    train: ArrayLike,
    train_codes: ArrayLike,
    test: ArrayLike,
    test_codes: ArrayLike,
    *,
    hidden: Sequence[int] = HIDDEN,
    dropout: float = DROPOUT,
    learning_rates: Sequence[float] = LEARNING_RATES,
    max_epochs: int = MLP_EPOCHS,
    batch_size: int = MLP_BATCH,
    seed: int = 0,
) -> dict[str, float]:
    """Score a representation by a network fitted on training cells.

    Layers of 512 and 256 units with ReLU and dropout 0.5, as in TxFM's evaluation of cell types
    (arXiv 2605.31562). A fifth of the training cells, of each class where it has enough, decides
    which learning rate and which epoch is best by cross-entropy; each training ends after 10
    epochs without a better one (ours, as are Adam and the batches).

    Parameters
    ----------
    train, train_codes, test, test_codes
        As in `probe_metrics`; the representation is standardised by the training cells.
    hidden, dropout
        Width of the layers, and the share of their units left out in training.
    learning_rates
        To choose from; at equal loss the first.
    max_epochs, batch_size
        Of each training.
    seed
        Of the inner division, the weights, the order and the dropout. On the CPU the same seed
        gives the same result.

    Returns
    -------
    dict
        ``mlp_accuracy``, ``mlp_macro_f1`` and the ``mlp_learning_rate`` chosen.

    Raises
    ------
    DataError
        When there are no labelled cells, or fewer than two classes to train on.
    ConfigError
        When a setting makes no sense.
    """
    if not len(learning_rates) or min(learning_rates) <= 0 or max_epochs < 1 or batch_size < 1:
        raise ConfigError(
            f"learning_rates are {list(learning_rates)}, max_epochs {max_epochs}, batch_size "
            f"{batch_size}: all must be above 0"
        )
    if not 0 <= dropout < 1 or any(width < 1 for width in hidden):
        raise ConfigError(
            f"dropout is {dropout} and hidden {list(hidden)}: a share from 0 to below 1, and "
            "widths of 1 or more, are needed"
        )
    x, y, x_test, y_test = _both_sides(train, train_codes, test, test_codes)
    classes, places = np.unique(y, return_inverse=True)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation == 0] = 1.0
    inputs, scored = (
        torch.from_numpy(((part - mean) / deviation).astype(np.float32)) for part in (x, x_test)
    )
    targets = torch.from_numpy(places.astype(np.int64))
    fitted, inner = _inner_split(places, seed)
    best: tuple[float, float, nn.Module] | None = None
    for rate in learning_rates:
        network = _network(inputs.shape[1], hidden, dropout, classes.size, seed)
        loss = _fit(network, inputs, targets, fitted, inner, rate, max_epochs, batch_size, seed)
        if best is None or loss < best[0]:
            best = loss, rate, network
    assert best is not None
    with torch.inference_mode():
        predicted = classes[best[2](scored).argmax(dim=1).numpy()]
    return {
        "mlp_accuracy": accuracy(y_test, predicted),
        "mlp_macro_f1": macro_f1(y_test, predicted),
        "mlp_learning_rate": best[1],
    }


def _network(
    d: int, hidden: Sequence[int], dropout: float, n_classes: int, seed: int
) -> nn.Sequential:
    layers: list[nn.Module] = []
    draws = Draws(seed)
    with drawing_from(seed):
        for width in hidden:
            layers += [nn.Linear(d, width), ReluDropout(dropout, draws)]
            d = width
        return nn.Sequential(*layers, nn.Linear(d, n_classes))


def _inner_split(codes: NDArray[np.int64], seed: int) -> tuple[Tensor, Tensor]:
    """Divide training cells; classes of few cells are fitted on only."""
    if len(codes) < 5:
        raise DataError(f"{len(codes)} labelled training cells are too few for the probe")
    with quietly(UserWarning):  # it says so of each such class
        stratified = np.bincount(codes).max() >= 3  # else no class has a cell to spare
        split = make_split(
            len(codes),
            how="stratified" if stratified else "random",
            fractions=(1 - INNER_SHARE, INNER_SHARE, 0.0),
            labels=codes if stratified else None,
            seed=seed,
        )
    return torch.from_numpy(split.train), torch.from_numpy(split.validation)


def _fit(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    fitted: Tensor,
    inner: Tensor,
    rate: float,
    max_epochs: int,
    batch_size: int,
    seed: int,
) -> float:
    """Train a network, leave it as in its best epoch, and return its loss there."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    cross_entropy = nn.functional.cross_entropy
    best, state, waited = float("inf"), copy.deepcopy(network.state_dict()), 0
    for epoch in range(max_epochs):
        network.train()
        order = torch.from_numpy(permutation(len(fitted), seed, Stream.PROBE_ORDER, epoch))
        for rows in torch.split(fitted[order], batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(network(inputs[rows]), targets[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            found = float(cross_entropy(network(inputs[inner]), targets[inner]))
        if found < best:
            best, state, waited = found, copy.deepcopy(network.state_dict()), 0
        else:
            waited += 1
        if waited == MLP_PATIENCE:
            break
    network.load_state_dict(state)
    return best


def labelled_cells(
    values: ArrayLike, codes: ArrayLike, what: str
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return the representation and codes of the cells that have one, float64 [n, d], int [n]."""
    x = numbers_of(f"the representation of the {what} cells", values)
    y = codes_of(f"labels of {what} cells", codes)
    if x.ndim != 2 or len(x) != len(y):
        raise DataError(
            f"the {what} cells have a representation of shape {x.shape} and {len(y):,} labels"
        )
    if not (y >= 0).any():
        raise DataError(f"none of the {len(y):,} {what} cells has a label")
    wrong = (y >= 0) & ~np.isfinite(x).all(axis=1)
    if wrong.any():
        raise DataError(
            f"the representation of the {what} cells is not finite in {int(wrong.sum()):,} of "
            f"{len(y):,} cells, first in row {int(np.flatnonzero(wrong)[0]):,}; leave them out"
        )
    return x[y >= 0], y[y >= 0]


def _both_sides(
    train: ArrayLike, train_codes: ArrayLike, test: ArrayLike, test_codes: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.float64], NDArray[Any]]:
    """Return the labelled cells of both sides, in one space, of two classes at least to learn."""
    x, y = labelled_cells(train, train_codes, "training")
    x_test, y_test = labelled_cells(test, test_codes, "held-out")
    if x.shape[1] != x_test.shape[1] or not x.shape[1]:
        raise DataError(
            f"the training cells have {x.shape[1]} dimensions and the held-out cells "
            f"{x_test.shape[1]}: both must come from one representation"
        )
    if np.unique(y).size < 2:
        raise DataError(f"all {len(y):,} labelled training cells are of one class: two are needed")
    return x, y, x_test, y_test
