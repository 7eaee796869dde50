"""Planted truths are what they say, and rankings are scored right by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.polygene import papalexi, planted

pytest.importorskip("anndata")


def cells(kind: str, n_cells: int = 2000) -> tuple[np.ndarray, np.ndarray, pd.Series, list]:
    adata = planted.simulate(kind, 0, replace(planted.KINDS[kind], n_cells=n_cells))
    pairs = [adata.var_names.get_indexer(pair) for pair in adata.uns.get("pairs", [])]
    return adata.X.toarray(), (adata.obs["disease"] == "case").to_numpy(), adata.var["role"], pairs


@pytest.mark.parametrize("kind", list(planted.KINDS))
def test_the_genes_are_those_of_every_seed_and_the_cells_are_not(kind: str) -> None:
    settings = replace(planted.KINDS[kind], n_cells=50)
    one, two = (planted.simulate(kind, seed, settings) for seed in (0, 1))
    assert one.var["role"].equals(two.var["role"])
    assert (one.var["role"] == "true").sum() == settings.n_true
    assert (one.X != two.X).nnz


def test_genes_of_an_interaction_differ_in_pairs_alone() -> None:
    counts, is_case, role, pairs = cells("interaction", 4000)
    on = counts > 0
    for pair in pairs:
        assert set(role.iloc[pair]) == {"true"}
        for gene in pair:
            assert abs(on[is_case, gene].mean() - on[~is_case, gene].mean()) < 0.06
        agree = on[:, pair[0]] == on[:, pair[1]]
        assert agree[is_case].mean() > 0.8 > 0.2 > agree[~is_case].mean()


def test_a_decoy_has_the_values_of_a_true_gene_and_no_difference() -> None:
    counts, is_case, role, _ = cells("decoys")
    values = {tuple(np.sort(counts[:, i])) for i in np.flatnonzero(role == "true")}
    decoys = np.flatnonzero(role == "decoy")
    assert len(decoys) == 20
    assert all(tuple(np.sort(counts[:, i])) in values for i in decoys)
    ratio = counts[is_case][:, decoys].mean(0) / counts[~is_case][:, decoys].mean(0)
    assert np.abs(np.log2(ratio)).max() < 0.4


def test_the_confounded_cases_are_of_one_cell_type() -> None:
    adata = planted.simulate("confounded", 0, planted.KINDS["confounded"])
    share = pd.crosstab(adata.obs["disease"], adata.obs["cell_type"], normalize="index")["A"]
    assert share["case"] == pytest.approx(0.85, abs=0.03)
    assert share["healthy"] == pytest.approx(0.15, abs=0.03)


def test_a_ranking_is_scored_by_hand() -> None:
    role = pd.Series(["other", "true", "decoy", "true", "marker"], index=list("abcde"))
    found = planted.scored(pd.Series([1.0, 5.0, 4.0, 3.0, 2.0], index=role.index), role, 2)
    assert found == {
        "average_precision": pytest.approx((1 + 2 / 3) / 2),
        "recall": 0.5,
        "decoys": 0.5,
        "markers": 0.0,
        "best": ["b", "c"],
    }


def test_stability_of_two_seeds_by_hand() -> None:
    one = {"DE": pd.Series([4.0, 3.0, 2.0, 1.0], index=list("abcd"))}
    two = {"DE": pd.Series([4.0, 2.0, 3.0, 1.0], index=list("abcd"))}
    found = planted.stability("additive", [0, 1], [one, two], 2)["stability"]["DE"]
    assert found == {"spearman": pytest.approx(0.8), "shared": 0.5}


def test_the_target_of_a_knock_out_is_left_out_of_ranking_and_truth() -> None:
    ranking = {"DE": pd.Series([4.0, 3.0, 2.0, 1.0], index=["STAT1", "A", "JAK2", "B"])}
    found = papalexi.truth_of(ranking, ["STAT1", "JAK2"], "STAT1")
    assert found["with target"]["average_precision"]["DE"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["without target"]["average_precision"]["DE"] == pytest.approx(1 / 2)
    assert found["without target"]["genes"] == 1


def test_the_mean_of_models_counts_them_alike_and_t_counts_pairs_that_agree() -> None:
    found = papalexi.mean_of(
        [
            {"effect": pd.Series([30.0, 40.0], index=["A", "B"])},
            {"effect": pd.Series([0.08, 0.06], index=["A", "B"])},
        ]
    )
    assert found["effect"].tolist() == pytest.approx([0.7, 0.7])
    table = pd.DataFrame(
        {
            "absolute": [3.0, 1.0, 0.0],
            "effect": [-2.0, 1.0, 0.0],
            "effect_sd": [4.0, 1.0, 0.0],
            "signed_by_change": [3.0, 1.0, 0.0],
            "expression_change": [1.0, 1.0, 0.0],
        }
    )
    assert papalexi.scores_of(table)["t"].tolist() == [-0.5, 1.0, 0.0]
    assert papalexi.scores_of(table)["|t|"].tolist() == [0.5, 1.0, 0.0]
