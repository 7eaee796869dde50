"""Panels of several sizes: which size is suggested, what the table holds, and the command."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import kernomics as kn
from kernomics import datasets
from kernomics.cli import main
from kernomics.data import CellCollection, Labels
from kernomics.errors import ConfigError
from kernomics.evaluation.panels import panel_curve, panel_stability
from kernomics.evaluation.panels.curve import suggested_size
from kernomics.evaluation.panels.retraining import N_BOOTSTRAP, resampled_figures
from kernomics.models import YOTO, Panel
from kernomics.train import override

pytest.importorskip("sklearn", reason="the report extra is not installed")

SEED = 2
SIZES = [2, 4, 8]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Trainings are compared to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def adata():
    adata = datasets.simulate(300, 60, 3, 2, fold_change=10, seed=9)
    markers = (adata.var["marker_of"] == "type_1").to_numpy()
    adata.obs["age"] = np.log1p(np.asarray(adata.X[:, markers].sum(axis=1)).ravel())
    return adata


@pytest.fixture(scope="module")
def cells(adata):
    return CellCollection.from_anndata(adata, labels_key=["cell_type", "age"])


def untrained(cells, n_genes=4, *, seed=SEED, max_epochs=5, **options):
    model = YOTO(cells, n_genes=n_genes, seed=seed, **options)
    model.training = override(model.training, max_epochs=max_epochs, batch_size=64)
    return model


@pytest.fixture(scope="module")
def model(cells):
    """A trained model of 4 genes; changed by no test."""
    return untrained(cells).train(progress=False)


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory):
    """The curve of two seeds, and the folder that its trainings are kept in."""
    folder = tmp_path_factory.mktemp("curve")
    return panel_curve(model, [8, 2, 4, 2], seeds=2, folder=folder, progress=False), folder


@pytest.fixture
def trainings(monkeypatch):
    """The size and seed of each training that is begun."""
    begun = []
    train = YOTO.train

    def counted(self, *args, **settings):
        begun.append((self.config.n_genes, self.seed))
        return train(self, *args, **settings)

    monkeypatch.setattr(YOTO, "train", counted)
    return begun


# -- the size that is suggested --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "errors", "expected"),
    [
        ([0.50, 0.80, 0.90, 0.91], [0.02, 0.02, 0.02, 0.02], 32),
        ([0.50, 0.80, 0.90, 0.91], [0.02, 0.02, 0.02, 0.12], 16),
        ([0.50, 0.80, 0.90, 0.91], [0.9, 0.9, 0.9, 0.0], 64),  # the error of the best counts
        ([0.50, 0.75, 1.00, 0.90], [0.0, 0.0, 0.25, 0.0], 16),  # just within is within
        ([0.70, 0.70, 0.70, 0.70], [0.0, 0.0, 0.0, 0.0], 8),
        ([-3.0, -1.0, -1.5, -2.0], [0.1, 0.1, 0.1, 0.1], 16),  # R² may be negative
        ([np.nan, 0.80, 0.81, np.nan], [np.nan, 0.02, 0.02, np.nan], 16),
        ([0.50, 0.80, 0.90, 0.91], [np.nan] * 4, 64),
    ],
)
def test_smallest_size_within_one_standard_error_of_the_best_is_suggested(values, errors, expected):
    table = pd.DataFrame({"value": values, "standard_error": errors}, index=[8, 16, 32, 64])
    assert suggested_size(table) == expected
    assert suggested_size(table.iloc[::-1]) == expected


def test_no_size_is_suggested_without_a_score():
    table = pd.DataFrame({"value": [np.nan] * 2, "standard_error": [np.nan] * 2}, index=[8, 16])
    with pytest.raises(ConfigError, match="none of the 2 sizes has a score on the validation"):
        suggested_size(table)


def test_size_is_chosen_on_the_validation_cells_alone(cells, model, kept):
    """Other labels of the test cells change the scores on these, and nothing else."""
    changed = {}
    for name, label in cells.labels.items():
        values = label.values.copy()
        values[model.split.test] = values[model.split.test[::-1]]
        changed[name] = Labels(name, label.kind, values, label.categories)
    other = untrained(cells.with_labels(changed), split=model.split)
    found = panel_curve(other, SIZES, seeds=2, progress=False)
    expected = kept[0]
    assert found.chosen == expected.chosen
    assert found.summary.equals(expected.summary)
    assert found.suggested == expected.suggested
    part = {name: table.groupby("part")["value"].sum() for name, table in
            (("old", expected.table), ("new", found.table))}  # fmt: skip
    assert part["old"]["validation"] == part["new"]["validation"]
    assert part["old"]["test"] != part["new"]["test"]


def test_value_is_the_mean_over_tasks_and_seeds_of_macro_f1_and_r2(kept):
    found, _ = kept
    rows = found.table.query("part == 'validation' and predictor == 'its own network'")
    main = rows[
        ((rows["task"] == "cell_type") & (rows["metric"] == "macro_f1"))
        | ((rows["task"] == "age") & (rows["metric"] == "r2"))
    ]
    means = main.groupby("n_genes")["value"].mean()
    assert found.summary["value"].tolist() == pytest.approx(means.tolist())
    assert (found.summary["standard_error"] > 0).all()


def test_standard_error_is_that_of_resampled_validation_cells(model, kept):
    figures = resampled_figures(model, model.trained)
    assert figures.shape == (N_BOOTSTRAP,)
    assert np.array_equal(figures, resampled_figures(model, model.trained))
    # Around the figure on the cells themselves, and as wide as 30 cells let it be.
    scores = kept[0].table.query(
        "n_genes == 4 and seed == @SEED and part == 'validation' and "
        "predictor == 'its own network' and metric in ('macro_f1', 'r2')"
    )
    assert figures.mean() == pytest.approx(scores["value"].mean(), abs=figures.std())
    single = panel_curve(model, [4], progress=False)
    assert single.summary.loc[4, "standard_error"] == pytest.approx(figures.std(ddof=1))


# -- the table -------------------------------------------------------------------------------------


def test_table_holds_every_score_of_every_training(kept, model, adata):
    found, _ = kept
    assert found.summary.index.tolist() == SIZES
    columns = ["n_genes", "seed", "task", "predictor", "metric", "value", "part"]
    assert found.table.columns.tolist() == columns
    # Two labels with three metrics each, by two predictors, on two parts.
    assert len(found.table) == len(SIZES) * 2 * 2 * 3 * 2 * 2
    assert not found.table.duplicated(columns[:5] + columns[6:]).any()
    assert found.table["value"].notna().all()
    predictors = found.table.groupby("task")["predictor"].unique()
    assert predictors["cell_type"].tolist() == ["its own network", "logistic regression"]
    assert predictors["age"].tolist() == ["its own network", "ridge regression"]
    own = model.test_metrics()
    rows = found.table.query(
        "n_genes == 4 and seed == @SEED and part == 'test' and predictor == 'its own network'"
    )
    for row in rows.itertuples():
        assert row.value == own[row.task][row.metric]
    assert {size: len(genes) for size, genes in found.chosen.items()} == {2: 2, 4: 4, 8: 8}
    assert found.chosen[4] == model.genes


def test_trained_model_stands_for_its_size_and_seed(model, trainings):
    panel_curve(model, [4, 2], seeds=2, progress=False)
    assert trainings == [(2, SEED), (2, SEED + 1), (4, SEED + 1)]


def test_finished_trainings_are_not_repeated_and_shared_with_the_stability(model, kept, trainings):
    found, folder = kept
    second = panel_curve(model, SIZES, seeds=2, folder=folder, progress=False)
    assert trainings == []
    assert second.to_dict() == found.to_dict()
    assert second.table.equals(found.table)
    stability = panel_stability(model, 2, predictor=False, folder=folder, progress=False)
    assert trainings == []
    assert list(stability.panels) == [SEED, SEED + 1]


def test_kept_trainings_give_the_same_as_none(cells, kept):
    found = panel_curve(untrained(cells), SIZES, seeds=2, progress=False)
    assert found.to_dict() == kept[0].to_dict()


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "options", "said"),
    [
        ([4, 61, 80], {}, "2 of 3 sizes of the curve are above the 60 of 60 genes that are usable,"
                          " first 61; leave them out"),
        ([4, 58], {"forbidden_genes": ["gene_1", "gene_2", "gene_3"]}, "above the 57 of 60"),
        ([1, 4], {"forced_genes": ["gene_1", "gene_2"]}, "asks for 1 genes, but 2 are forced"),
        ([0, 4], {}, "n_genes is 0: a panel needs at least 1 gene"),
        ([4, "8"], {}, "'8': it must be an integer"),
        ([], {}, "no sizes are given"),
        (8, {}, "n_genes is 8: it must be a list of integers"),
        ([4, 8], {"start_genes": 6}, "start_genes is 6, below n_genes = 8"),
        ([4, 8], {"fractions": (0.8, 0.0, 0.2)}, "validation cells, and of the split's 0 none"),
        ([4, 8], {"gene_costs": {f"gene_{i}": 1.0 for i in range(60)}, "budget": 5.0},
         "budget is 5, but the cheapest 8 usable genes cost 8"),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_had_are_refused_before_anything_runs(
    cells, trainings, sizes, options, said
):
    with pytest.raises(ConfigError, match=said):
        panel_curve(untrained(cells, **options), sizes)
    assert trainings == []


def test_seeds_are_needed(cells):
    with pytest.raises(ConfigError, match="seeds is 0: at least 1 are needed"):
        panel_curve(untrained(cells), [4], seeds=0)


# -- one line, and the command ---------------------------------------------------------------------


def test_one_liner_adds_what_a_file_can_hold(adata, tmp_path):
    adata = adata.copy()
    found = kn.tl.panel_curve(adata, "cell_type", [6, 3], max_epochs=1, progress=False)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    stored = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["panel_curve"]
    assert stored["suggested"] == found.suggested
    assert stored["table"]["value"].tolist() == found.table["value"].tolist()
    assert stored["table"]["part"].tolist() == found.table["part"].tolist()
    assert stored["summary"]["n_genes"].tolist() == [3, 6]
    assert stored["params"]["n_genes"].tolist() == [6, 3]


@pytest.fixture
def shown(monkeypatch):
    """What the report is given, in place of the report, which takes longer than all the rest."""
    given = []
    monkeypatch.setattr(
        "kernomics.workflows.select.report_data", lambda *_, **found: given.append(found)
    )
    monkeypatch.setattr("kernomics.workflows.select.write_plots", lambda *_: None)
    monkeypatch.setattr("kernomics.workflows.select.write_report", lambda path, data: path.touch())
    return given


def test_command_writes_stability_and_curve(adata, tmp_path, shown, trainings, capsys):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "run"
    command = [
        "select", str(tmp_path / "cells.h5ad"), "--labels-key", "cell_type", "--n-genes", "6",
        "--max-epochs", "3", "--compare", "--out", str(out), "--quiet",
    ]  # fmt: skip
    more = ["--stability", "2", "--curve", "4", "8"]
    assert main([*command, *more]) == 0
    assert sorted(trainings) == [(4, 0), (6, 0), (6, 0), (6, 1), (8, 0)]  # a 6, 0 is the consensus
    printed = capsys.readouterr().out
    assert "stability  2 seeds: mean Jaccard index " in printed
    assert "on the validation cells; " in printed

    panel = pd.read_csv(out / "panel.csv", index_col="gene")
    seeds = pd.read_csv(out / "stability.csv", index_col="gene")
    consensus = pd.read_csv(out / "consensus.csv", index_col="gene")
    curve = pd.read_csv(out / "curve.csv")
    assert seeds["seed_0"].dropna().sort_values().index.tolist() == panel.index.tolist()
    assert seeds.index[seeds["consensus"]].tolist() == consensus.index.tolist()
    assert Panel.load(out / "consensus").genes == consensus.index.tolist()
    assert set(curve["n_genes"]) == {4, 8}
    results = json.loads((out / "results.json").read_text())
    assert results["stability"]["panels"]["0"] == panel.index.tolist()
    assert results["stability"]["consensus"] == consensus.index.tolist()
    assert results["curve"]["suggested"] in (4, 8)
    (given,) = shown
    assert given["stability"].consensus == consensus.index.tolist()
    assert given["curve"].suggested == results["curve"]["suggested"]

    written = {name: (out / name).read_bytes() for name in
               ("stability.csv", "consensus.csv", "curve.csv")}  # fmt: skip
    trainings.clear()
    assert main([*command, *more, "--resume"]) == 0
    assert trainings == [(6, 0)]  # the run's own, which is finished
    assert written == {name: (out / name).read_bytes() for name in written}
    again = json.loads((out / "results.json").read_text())
    assert again["stability"] == results["stability"]
    assert again["curve"] == results["curve"]


def test_finished_run_can_be_asked_for_more(adata, tmp_path, shown, trainings):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "run"
    command = [
        "select", str(tmp_path / "cells.h5ad"), "--labels-key", "cell_type", "--n-genes", "6",
        "--max-epochs", "2", "--compare", "--out", str(out), "--quiet",
    ]  # fmt: skip
    assert main(command) == 0
    assert shown[0]["stability"] is None
    assert shown[0]["curve"] is None
    assert "stability" not in json.loads((out / "results.json").read_text())
    assert not (out / "trainings").exists()
    trainings.clear()
    assert main([*command, "--curve", "4", "6", "--resume"]) == 0
    assert trainings == [(6, 0), (4, 0)]
    assert (out / "curve.csv").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--stability", "1"], "seeds is 1: at least 2 are needed"),
        (["--curve", "4", "100"], "1 of 2 sizes of the curve are above the 60 of 60 genes"),
    ],
)
def test_command_refuses_before_anything_is_written(adata, tmp_path, more, said, capsys):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "run"
    command = ["select", str(tmp_path / "cells.h5ad"), "--labels-key", "cell_type", "--n-genes",
               "6", "--out", str(out), "--quiet"]  # fmt: skip
    assert main([*command, *more]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
