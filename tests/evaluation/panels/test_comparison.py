"""The panel beside other methods over several splits: means, standard errors, verdicts."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from kernomics import datasets
from kernomics.cli import main
from kernomics.data import CellCollection
from kernomics.errors import ConfigError
from kernomics.evaluation.panels import SplitComparison, compare_over_splits, score_panels
from kernomics.evaluation.panels.comparison import certainty
from kernomics.metrics.panel_score import MethodScore, shared_ranks
from kernomics.models import YOTO
from kernomics.train import override

pytest.importorskip("sklearn", reason="the report extra is not installed")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Trainings are compared to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def adata():
    return datasets.simulate(200, 40, 3, 2, fold_change=10, seed=9)


def trained(adata, seed=4, **options):
    cells = CellCollection.from_anndata(adata, labels_key="cell_type")
    model = YOTO(cells, n_genes=4, seed=seed, **options)
    model.training = override(model.training, max_epochs=6, batch_size=64)
    return model.train(progress=False)


def compared(model, n_splits, compare=("random",), folder=None):
    scores, _ = score_panels(model, model.genes, model.test_metrics(), compare)
    return compare_over_splits(model, scores, n_splits, compare, folder=folder, progress=False)


def made(ours, theirs, test_share=0.25):
    """A comparison with the regressions' macro-F1 of each split as given."""
    rows = [
        {"seed": seed, "task": "t", "method": method, "predictor": "logistic regression",
         "metric": "macro_f1", "value": value}
        for method, values in {"YOTO": ours, **theirs}.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    return SplitComparison(pd.DataFrame(rows), test_share)


def test_mean_and_standard_error_are_those_of_the_splits():
    ours = [0.5, 0.6, 0.7, 0.9]
    (score,) = made(ours, {}).scores("t")
    assert score.metrics["macro_f1"] == pytest.approx(np.mean(ours))
    assert score.spread["macro_f1"] == pytest.approx(stats.sem(ours))


def test_standard_error_counts_the_splits_that_have_a_value():
    (score,) = made([0.4, math.nan, 0.5], {}).scores("t")
    assert score.metrics["macro_f1"] == pytest.approx(0.45)
    assert score.spread["macro_f1"] == pytest.approx(0.05)


def test_difference_has_nadeau_and_bengios_standard_error():
    ours, theirs = np.array([0.5, 0.6, 0.7, 0.9]), np.array([0.45, 0.5, 0.7, 0.8])
    row = made(ours, {"DE": theirs}, test_share=0.3).differences("t").loc["DE"]
    gap = ours - theirs
    assert row["difference"] == pytest.approx(gap.mean())
    assert row["standard_error"] == pytest.approx(math.sqrt(gap.var(ddof=1) * (1 / 4 + 0.3)))


def test_methods_are_told_apart_where_zero_is_outside_the_interval():
    base = np.array([0.5, 0.52, 0.48, 0.51, 0.49])
    wobble = np.array([0.01, -0.01, 0.02, -0.02, 0.0])
    error = math.sqrt(wobble.var(ddof=1) * (1 / 5 + 0.25))
    edge = stats.t.ppf(0.975, 4) * error
    found = made(
        base,
        {"worse": base - 1.01 * edge - wobble, "alike": base - 0.99 * edge - wobble,
         "better": base + 1.01 * edge - wobble},
    )  # fmt: skip
    assert found.differences("t")["told_apart"].tolist() == [True, False, True]
    said = found.verdict("t")
    assert said.startswith("Over 5 splits of these cells the panel is ahead of worse (+")
    assert "; behind better (−" in said
    assert "; not distinguishable from alike (+" in said


def test_first_split_is_the_models_own_and_each_is_what_a_model_of_that_seed_gives(adata):
    model = trained(adata)
    found = compared(model, 2)
    assert list(dict.fromkeys(found.table["seed"])) == [4, 5]
    for seed in (4, 5):
        other = model if seed == 4 else trained(adata, seed=5)
        own = found.table.query("seed == @seed and predictor == 'its own network'")
        expected = other.test_metrics()["cell_type"]
        assert dict(zip(own["metric"], own["value"], strict=True)) == {
            name: expected[name] for name in own["metric"]
        }
    assert found.n_splits == 2
    assert found.test_share == len(model.split.test) / len(model.split.train)


def test_kept_splits_are_not_trained_again(adata, tmp_path, monkeypatch):
    model = trained(adata)
    first = compared(model, 2, folder=tmp_path)
    monkeypatch.setattr(YOTO, "train", lambda *_, **__: pytest.fail("trained again"))
    again = compared(model, 2, folder=tmp_path)
    pd.testing.assert_frame_equal(first.table, again.table)


@pytest.mark.parametrize("n_splits", [0, -1, True, 1.5, "3"])
def test_number_of_splits_must_be_whole_and_positive(adata, n_splits):
    with pytest.raises(ConfigError, match=r"splits is .*(whole number|integer)"):
        compare_over_splits(trained(adata), {}, n_splits)


def test_given_split_cannot_be_repeated(adata):
    split = YOTO(adata, "cell_type", 4).split
    model = trained(adata, split=split)
    with pytest.raises(ConfigError, match="no other can be drawn"):
        compare_over_splits(model, {}, 2)


@pytest.mark.parametrize(
    ("compare", "message"),
    [("de", "list of names"), (["dee"], "cannot compare with 'dee'"), (["l1", "l1"], "twice")],
)
def test_methods_that_do_not_exist_are_refused(adata, compare, message):
    with pytest.raises(ConfigError, match=message):
        compare_over_splits(trained(adata), {}, 2, compare)


def test_one_split_says_how_little_it_can_tell():
    said = certainty([MethodScore(method="YOTO", metrics={"accuracy": 0.75})], 140)
    assert f"standard error of {math.sqrt(107 / 144 * 37 / 144 / 144):.3f}" in said
    sure = certainty([MethodScore(method="YOTO", metrics={"accuracy": 1.0})], 49)
    assert f"standard error of {math.sqrt(51 / 53 * 2 / 53 / 53):.3f}" in sure  # not of 0
    assert certainty([MethodScore(method="YOTO", metrics={"r2": 0.5})], 140) == ""


def test_scores_that_agree_to_three_digits_share_a_rank():
    ranks = shared_ranks([math.inf, math.inf, 2.5, 1.77104, 1.77101, 1.2])
    assert ranks.tolist() == [1, 1, 3, 4, 4, 6]


def test_command_prints_means_with_errors_and_keeps_them(adata, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kernomics.workflows.select.write_plots", lambda *_: None)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "run"
    line = [
        "select", str(tmp_path / "cells.h5ad"), "--labels-key", "cell_type", "--n-genes", "4",
        "--max-epochs", "2", "--compare", "random", "--splits", "2", "--quiet", "--out", str(out),
    ]  # fmt: skip
    assert main(line) == 0
    said = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    mean = results["splits"]["mean"]["cell_type"][0]
    shown = f"{mean['metrics']['macro_f1']:.3f} ± {mean['spread']['macro_f1']:.3f}"
    assert shown in said
    assert "Over 2 splits of these cells" in said
    report = (out / "report.html").read_text()
    assert "Over 2 splits of these cells" in report
    assert "standard error over splits" in report
    assert shown in report
