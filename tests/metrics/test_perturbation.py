"""Perturbation consistency equals its definition, written out cell by cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from kernomics.data.rng import Stream, permutation
from kernomics.errors import ConfigError, DataError
from kernomics.metrics import align, alignment, perturbation_consistency
from kernomics.metrics.alignment import ControlPCA


def screen(
    seed: int = 0, sizes: tuple[int, ...] = (40, 12, 9, 5, 2), d: int = 5, effect: float = 3.0
) -> tuple[Any, Any, Any]:
    """Cells of a control and of perturbations, of which the first two have an effect."""
    random = np.random.default_rng(seed)
    names = np.repeat(["ctrl", "p1", "p2", "p3", "p4"][: len(sizes)], sizes)
    x = random.normal(size=(len(names), d)) * np.arange(1, d + 1)
    for i, name in enumerate(("p1", "p2")):
        x[names == name, i] += effect * (i + 1)
    batches = random.permutation(np.arange(len(names)) % 2)
    batches[:4] = [0, 0, 1, 1]
    return x, names, batches


def cosine(a: Any, b: Any) -> float:
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm else 0.0


def typical(x: Any, controls: Any, batches: Any, k: int | None = None) -> Any:
    pca = ControlPCA.fit(x[controls], k)
    return align(pca.transform(x), controls, batches, "standardise")


def literal(
    x: Any, names: Any, batches: Any, n_null: int, seed: int, k: int | None = None
) -> pd.DataFrame:
    z = typical(x, names == "ctrl", batches, k)
    perturbations = [p for p in np.unique(names) if p != "ctrl" and (names == p).sum() > 1]
    null = []
    for i in permutation(len(z), seed, Stream.NULL_CELLS)[:n_null]:
        for p in perturbations:
            if names[i] != p:
                null.append(cosine(z[i], z[names == p].mean(axis=0)))
    rows = {}
    for p in perturbations:
        own = np.flatnonzero(names == p)
        s = np.mean([cosine(z[i], z[own[own != i]].mean(axis=0)) for i in own])
        rows[p] = (len(own), s, (1 + sum(c >= s for c in null)) / (1 + len(null)), len(null))
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["n_cells", "statistic", "p", "n_null"]
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_null", [7, 1000])
@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("block", [2**22, 11])
def test_equals_the_definition_cell_by_cell(
    seed: int, n_null: int, k: int | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "NUMBERS_AT_A_TIME", block)
    x, names, batches = screen(seed)
    expected = literal(x, names, batches, n_null, seed, k)
    found = perturbation_consistency(
        x, names, control="ctrl", batches=batches, n_null=n_null, seed=seed, n_components=k
    )
    assert found.table.index.tolist() == expected.index.tolist()
    np.testing.assert_array_equal(found.table["n_cells"], expected["n_cells"])
    # A cosine of unit-free values: a few tens of roundings of size ε.
    np.testing.assert_allclose(found.table["statistic"], expected["statistic"], atol=1e-13)
    np.testing.assert_array_equal(found.table["p"], expected["p"])
    assert found.n_null == expected["n_null"].iloc[0] == found.null_histogram.sum()
    assert found.score == (expected["p"] < 0.01).mean()


@pytest.mark.parametrize("block", [2**22, 11])
def test_groups_are_compared_with_random_groups_of_their_size(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "NUMBERS_AT_A_TIME", block)
    x, names, batches = screen(1)
    z = typical(x, names == "ctrl", batches)
    found = perturbation_consistency(
        x, names, control="ctrl", batches=batches, n_null=25, seed=5, null="groups"
    )
    for p, row in found.table.iterrows():
        size, null = int(row["n_cells"]), []
        for i in range(25):
            per_order = len(z) // size
            order = permutation(len(z), 5, Stream.NULL_CELLS, (size << 32) + i // per_order)
            start = (i % per_order) * size
            group = order[start : start + size]
            null.append(np.mean([cosine(z[j], z[group[group != j]].mean(axis=0)) for j in group]))
        assert row["p"] == (1 + sum(s >= row["statistic"] for s in null)) / 26, p
    assert found.null_histogram.sum() == 25 * found.table["n_cells"].nunique()


def test_strong_effects_are_consistent_and_none_are_not() -> None:
    sizes = (400, 40, 40, 40, 40)
    x, names, batches = screen(2, sizes, effect=30.0)
    found = perturbation_consistency(x, names, control="ctrl", batches=batches)
    assert found.table.index[found.table["consistent"]].tolist() == ["p1", "p2"]
    assert found.score == 0.5
    x, names, batches = screen(2, sizes, effect=0.0)
    assert perturbation_consistency(x, names, control="ctrl", batches=batches).score == 0


def test_p_of_groups_is_uniform_without_effects() -> None:
    # 300 perturbations of 10 cells each, none with an effect: p ≤ α in a share α of them. The
    # number at or below 0.2 is binomial(300, 0.2): mean 60, deviation 7; five deviations allowed.
    random = np.random.default_rng(0)
    names = np.array(["ctrl"] * 1000 + [f"p{i}" for i in range(300) for _ in range(10)])
    found = perturbation_consistency(
        random.normal(size=(len(names), 6)), names, control="ctrl", null="groups", n_null=999
    )
    for alpha in (0.2, 0.5, 0.8):
        count = (found.table["p"] <= alpha).sum()
        assert abs(count - 300 * alpha) < 5 * np.sqrt(300 * alpha * (1 - alpha))


def test_groups_find_weak_effects_that_single_cells_do_not_show() -> None:
    x, names, batches = screen(3, (2000, 300, 300, 300, 300), effect=0.8)
    options: dict[str, Any] = {"control": "ctrl", "batches": batches}
    assert perturbation_consistency(x, names, **options).score == 0
    found = perturbation_consistency(x, names, **options, null="groups")
    assert found.table.index[found.table["consistent"]].tolist() == ["p1", "p2"]


def test_p_is_never_zero() -> None:
    x, names, _ = screen(0, (40, 12, 9), effect=1e6)
    found = perturbation_consistency(x, names, control="ctrl", n_null=50)
    assert found.table["p"].min() == 1 / (1 + found.n_null)


@pytest.mark.parametrize("null", ["cells", "groups"])
def test_the_seed_alone_decides(null: Any) -> None:
    x, names, batches = screen(0)
    kept = {"control": "ctrl", "batches": batches, "n_null": 20, "null": null}
    first, again, other = (
        perturbation_consistency(x, names, seed=seed, **kept) for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first.table, again.table)
    assert (first.null_histogram != other.null_histogram).any()


def test_a_rotation_and_scaling_of_the_representation_changes_nothing() -> None:
    x, names, _ = screen(0)
    turned = x @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0] * 7 + 3
    first, second = (perturbation_consistency(v, names, control="ctrl") for v in (x, turned))
    np.testing.assert_allclose(first.table["statistic"], second.table["statistic"], atol=1e-11)


def test_cells_without_a_perturbation_count_nowhere() -> None:
    x, names, batches = screen(0)
    more = np.concatenate([x, 1e3 * np.ones((3, 5))])
    labels = np.concatenate([names.astype(object), [None, np.nan, None]])
    there = np.concatenate([batches, [0, 1, 1]])
    expected = perturbation_consistency(x, names, control="ctrl", batches=batches)
    found = perturbation_consistency(more, labels, control="ctrl", batches=there)
    pd.testing.assert_frame_equal(found.table, expected.table)
    categories = pd.Categorical(labels)
    found = perturbation_consistency(more, categories, control="ctrl", batches=there)
    pd.testing.assert_frame_equal(found.table, expected.table)


def test_a_perturbation_with_one_cell_is_named_and_not_scored() -> None:
    x, names, batches = screen(0, (40, 12, 9, 1))
    with pytest.warns(UserWarning, match="1 of 3 perturbations have one cell .* first 'p3'"):
        found = perturbation_consistency(x, names, control="ctrl", batches=batches, threshold=1)
    assert found.table.loc["p3"].isna().tolist() == [False, True, True, False]
    assert not found.table.loc["p3", "consistent"]
    kept = names != "p3"
    # Of p3's cell the null may still hold cosines with the others' means.
    alone = perturbation_consistency(x[kept], names[kept], control="ctrl", batches=batches[kept])
    np.testing.assert_array_equal(found.table["statistic"][:2], alone.table["statistic"])
    assert found.n_null == alone.n_null + 2
    assert found.score == found.table["consistent"][:2].mean()


def test_a_cosine_with_nothing_is_zero() -> None:
    x = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1], [0, 0], [0, 0]])
    names = ["ctrl"] * 4 + ["p", "p"]
    found = perturbation_consistency(x, names, control="ctrl")
    assert found.table["statistic"].tolist() == [0.0]
    assert found.table["p"].tolist() == [1.0]


def test_it_becomes_json() -> None:
    import json

    x, names, batches = screen(0)
    found = perturbation_consistency(x, names, control="ctrl", batches=batches)
    read = json.loads(json.dumps(found.to_dict()))
    assert read["score"] == found.score
    assert [row["perturbation"] for row in read["perturbations"]] == ["p1", "p2", "p3", "p4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control": "crtl"}, "no cell is a control.*'crtl'; closest: 'ctrl'"),
        ({"control": "N", "perturbations": ["a"] * 9 + ["z"] * 59}, "there are: 'z', 'a'"),
        ({"batches": ["a"] * 66 + ["b", "b"]}, r"'b' \(0 of 2 cells\)"),
        ({"perturbations": ["ctrl"] * 67 + ["p"]}, "none of the 1 perturbations"),
        ({"perturbations": ["ctrl"] * 68}, "none of the 0 perturbations"),
        ({"perturbations": ["ctrl"]}, "must name one for each of 68 cells"),
        ({"n_null": 0}, "n_null is 0"),
        ({"n_components": 0}, "n_components is 0"),
        ({"threshold": 0}, "threshold is 0"),
        ({"null": "all"}, "must be one of cells, groups"),
        ({"perturbations": ["ctrl", "ctrl"] + ["p"] * 66, "n_null": 1, "seed": 1}, "raise n_null"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    x, names, _ = screen(0)
    fields = {"perturbations": names, "control": "ctrl"} | change
    with pytest.raises((DataError, ConfigError), match=message):
        perturbation_consistency(x, **fields)


def test_several_controls_are_one_and_no_perturbation() -> None:
    random = np.random.default_rng(0)
    names = random.choice(["NT-1", "NT-2", "A", "B"], 400)
    x = random.normal(size=(400, 6)) + 3.0 * (names == "A")[:, None]
    joined = np.where(np.char.startswith(names, "NT"), "NT-1", names)
    one = perturbation_consistency(x, joined, control="NT-1")
    several = perturbation_consistency(x, names, control=["NT-1", "NT-2"])
    pd.testing.assert_frame_equal(several.table, one.table)
    assert several.table.index.tolist() == ["A", "B"]
    assert perturbation_consistency(x, names, control="NT-1").table.index.tolist() == [
        "A", "B", "NT-2",
    ]  # fmt: skip
    with pytest.raises(DataError, match="has the perturbation 'NT-3'; closest: 'NT-"):
        perturbation_consistency(x, names, control=["NT-1", "NT-3"])
    with pytest.raises(ConfigError, match="control is an empty list"):
        perturbation_consistency(x, names, control=[])
