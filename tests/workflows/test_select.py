"""The run directory of `kernomics select`: what lies in it, and that it can be continued."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import kernomics
from kernomics import datasets
from kernomics.cli import main
from kernomics.errors import CheckpointError, ConfigError
from kernomics.models import YOTO, Panel
from kernomics.train import History, RunDirectory
from kernomics.workflows.select import run_selection

pytest.importorskip("sklearn", reason="the report extra is not installed")
pytest.importorskip("matplotlib", reason="the report extra is not installed")

SEED = int(os.environ.get("KERNOMICS_TEST_SEED", random.SystemRandom().randrange(10**6)))
EPOCHS, STEPS = 6, 6 * 4  # 210 training cells in batches of 64


@pytest.fixture(scope="module")
def adata():
    adata = datasets.simulate(300, 60, 3, 6, n_batches=4, seed=9)
    adata.obs["age"] = np.asarray(
        adata[:, adata.var["marker_of"] == "type_1"].X.sum(axis=1)
    ).ravel()
    adata.obs["age"] = np.log1p(adata.obs["age"])
    return adata


@pytest.fixture(scope="module")
def file(adata, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Runs are compared to the bit with those of other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(adata, tmp_path_factory):
    """A finished run with both comparisons, and its result; changed by no test."""
    out = tmp_path_factory.mktemp("run") / "run"
    return out, select(adata, out, compare=("de", "random"))


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the pictures out, which take longer than all the rest."""
    monkeypatch.setattr("kernomics.workflows.select.write_plots", lambda *_: None)
    monkeypatch.setattr("kernomics.workflows.select.write_report", lambda path, data: path.touch())


def select(adata, out, *, labels_key=("cell_type", "age"), resume=False, overwrite=False,
           compare=(), model=None, **training):  # fmt: skip
    model = model or YOTO(adata, list(labels_key), 6, seed=2)
    training = {"max_epochs": EPOCHS, "batch_size": 64, "progress": False, **training}
    return run_selection(
        model, out, dataset="cells.h5ad", resume=resume, overwrite=overwrite, compare=compare,
        **training,
    )  # fmt: skip


# -- what lies in it -------------------------------------------------------------------------------


def test_run_directory_holds_everything(finished):
    out, result = finished
    names = {path.name for path in out.iterdir()} - {".lock"}
    assert names == {
        "config.json", "split.json", "metrics.jsonl", "checkpoints", "model", "panel.csv",
        "results.json", "plots", "report.html",
    }  # fmt: skip
    run = RunDirectory.open(out)
    assert run.config["model"]["n_genes"] == 6
    assert run.config["train"]["max_epochs"] == EPOCHS
    assert run.config["train"]["restart_at"] == result.model.training.restart_at
    assert run.config["labels"] == ["cell_type", "age"]
    assert run.config["data_sha256"] == result.model.cells.fingerprint
    saved = json.loads(run.split.read_text())
    for part in ("train", "validation", "test"):
        assert saved[part] == getattr(result.model.split, part).tolist()
    history = History.read(run.metrics)
    assert history == result.model.history
    assert history.select("train")[-1]["step"] == STEPS
    assert Panel.load(out).genes == result.model.genes
    plots = {path.name for path in run.plots.iterdir()}
    assert plots == {
        "panel.svg", "training.svg", "expression-cell_type.svg", "confusion-cell_type.svg",
        "contributions-cell_type.svg", "contributions-age.svg", "correlation.svg", "embedding.svg",
    }  # fmt: skip
    assert all("</svg>" in path.read_text() for path in run.plots.iterdir())
    report = run.report.read_text()
    assert all(gene in report for gene in result.model.genes)


def test_panel_table_tells_rank_score_and_expression_over_the_training_cells(finished, adata):
    out, result = finished
    with (out / "panel.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["gene"] for row in rows] == result.model.genes
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    counts = adata[result.model.split.train, result.model.genes].X.toarray()
    for place, row in enumerate(rows):
        score = result.model.ranking["score"].iloc[place]
        assert float(row["score"]) == pytest.approx(score, rel=1e-5)
        assert float(row["detection_rate"]) == pytest.approx((counts[:, place] > 0).mean(), 1e-5)
        assert float(row["mean_count"]) == pytest.approx(counts[:, place].mean(), 1e-5)


def test_run_with_several_starts_tells_of_them(adata, tmp_path, undrawn):
    model = YOTO(adata, ["cell_type", "age"], 6, seed=2, n_starts=2, judge="both")
    result = select(adata, tmp_path / "run", model=model)
    starts = model.starts
    results = json.loads((tmp_path / "run" / "results.json").read_text())["starts"]
    assert (results["selections"], results["trainings"]) == (2, 1)
    assert results["panels"] == starts.panels
    assert results["judge"] == "both"
    assert results["certainty"] == starts.certainty
    with (tmp_path / "run" / "panel.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["inclusion"]) for row in rows] == [starts.inclusion[g] for g in model.genes]
    config = RunDirectory.open(tmp_path / "run").config
    assert config["model"]["n_starts"] == 2
    assert config["train"]["max_epochs"] == EPOCHS
    history = History.read(tmp_path / "run" / "metrics.jsonl")
    assert [record["start"] for record in history.select("start")] == [0, 1]
    assert Panel.load(tmp_path / "run").genes == result.model.genes


def test_a_run_with_one_start_tells_of_none(finished):
    out, _ = finished
    assert "starts" not in json.loads((out / "results.json").read_text())
    assert "inclusion" not in (out / "panel.csv").read_text().splitlines()[0]


def test_results_hold_every_score_of_every_method(finished):
    out, result = finished
    results = json.loads((out / "results.json").read_text())
    assert results["genes"] == result.model.genes
    assert results["test_cells"] == len(result.model.split.test)
    assert results["warnings"] == result.warnings
    methods = {
        task: [(score["method"], score["predictor"]) for score in scores]
        for task, scores in results["scores"].items()
    }
    assert methods == {
        "cell_type": [
            ("YOTO", "its own network"),
            ("YOTO", "logistic regression"),
            ("DE (Wilcoxon)", "logistic regression"),
            ("random", "logistic regression"),
        ],
        "age": [
            ("YOTO", "its own network"),
            ("YOTO", "ridge regression"),
            ("random", "ridge regression"),
        ],
    }
    own = results["scores"]["cell_type"][0]["metrics"]
    assert own == pytest.approx(result.model.test_metrics()["cell_type"])
    assert set(results["scores"]["cell_type"][3]["spread"]) == {"accuracy", "macro_f1", "auprc"}


def test_run_without_test_cells_has_no_scores_and_a_report(adata, tmp_path):
    model = YOTO(adata, "cell_type", 6, fractions=(1.0, 0.0, 0.0), forced_genes="gene_1")
    result = select(adata, tmp_path, model=model, max_epochs=1)
    assert result.scores == {}
    assert "gene_1" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_comparison_that_the_cells_do_not_allow_does_not_cost_the_run(adata, tmp_path):
    other = adata.copy()
    model = YOTO(adata, "cell_type", 6)
    rare = np.full(300, None, dtype=object)
    rare[model.split.train[:40]] = ["a", "b"] * 20
    other.obs["rare"] = rare
    model = YOTO(other, ["cell_type", "rare"], 6, split=model.split)
    result = select(other, tmp_path / "run", model=model, max_epochs=1, compare=["random"])
    assert [score.predictor for score in result.scores["rare"]] == ["its own network"]
    assert len(result.warnings) >= 2
    assert "YOTO was not scored by logistic regression on rare" in result.warnings[0]
    assert (
        json.loads((tmp_path / "run" / "results.json").read_text())["warnings"] == result.warnings
    )
    assert "was not scored by logistic regression" in (tmp_path / "run" / "report.html").read_text()


def test_every_panel_can_stand_beside_the_chosen_one(adata, undrawn, tmp_path):
    pytest.importorskip("scanpy")
    compare = ["de", "l1", "hvg", "random"]
    scores = select(adata, tmp_path / "run", max_epochs=1, compare=compare).scores
    methods = {task: [score.method for score in found[2:]] for task, found in scores.items()}
    assert methods == {
        "cell_type": [
            "DE (Wilcoxon)",
            "L1 logistic regression",
            "HVG (Pearson residuals)",
            "random",
        ],
        "age": ["HVG (Pearson residuals)", "random"],  # the others need classes
    }


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compare": ["dee"]}, "cannot compare with 'dee'; closest: 'de'"),
        ({"device": "gpu"}, "device 'gpu' does not exist"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"patients": 3}, "no setting 'patients'; closest: 'patience'"),
        ({"resume": True, "overwrite": True}, "cannot be combined"),
    ],
)
def test_settings_are_refused_before_anything_is_written(adata, tmp_path, options, message):
    with pytest.raises(ConfigError) as caught:
        select(adata, tmp_path / "run", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_directory_of_another_run_or_of_something_else_is_left_alone(finished, adata, tmp_path):
    out, _ = finished
    with pytest.raises(CheckpointError, match=r"already holds a run: .*; .*resume=True"):
        select(adata, out)
    (tmp_path / "notes.txt").write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(CheckpointError, match=r"not a kernomics run: .* 'notes\.txt'"):
            select(adata, tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_resuming_with_other_settings_or_data_names_the_keys(finished, adata):
    out, _ = finished
    with pytest.raises(ConfigError) as caught:
        select(adata, out, resume=True, max_epochs=9)
    assert "compare was ['de', 'random'] and is now []" in str(caught.value)
    assert "train.max_epochs was 6 and is now 9" in str(caught.value)
    changed = adata.copy()
    changed.X[0, 0] += 1
    models = {
        "data_sha256 was": YOTO(changed, ["cell_type", "age"], 6, seed=2),
        "forbidden_genes was [] and is now ['gene_5']": YOTO(
            adata, ["cell_type", "age"], 6, seed=2, forbidden_genes=["gene_5"]
        ),
        "split.sha256 was": YOTO(adata, ["cell_type", "age"], 6, seed=2, fractions=(0.6, 0.2, 0.2)),
        "seed was 2 and is now 3": YOTO(adata, ["cell_type", "age"], 6, seed=3),
    }
    for message, model in models.items():
        with pytest.raises(ConfigError) as caught:
            select(adata, out, resume=True, compare=("de", "random"), model=model)
        assert message in str(caught.value)


def test_overwriting_begins_anew(adata, tmp_path, undrawn):
    select(adata, tmp_path, max_epochs=1)
    result = select(adata, tmp_path, max_epochs=2, overwrite=True)
    assert len(History.read(tmp_path / "metrics.jsonl").select("train")) == 2
    assert Panel.load(tmp_path).genes == result.model.genes


# -- going on --------------------------------------------------------------------------------------

# Runs the command with a signal sent before one of its optimiser steps.
PROGRAM = """
import os, sys
from kernomics import cli
from kernomics.models.yoto.module import YOTOModule

number, step = int(sys.argv.pop(1)), int(sys.argv.pop(1))
inner = YOTOModule.on_step

def on_step(module, at, total):
    if at == step and total > 1:
        os.kill(os.getpid(), number)
    inner(module, at, total)

YOTOModule.on_step = on_step
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "settings.json"
    path.write_text('{"checkpoint_every_epochs": 2}')
    return path


def arguments(file, settings, out, *more):
    return [
        "select", str(file), "--labels-key", "cell_type", "age", "--n-genes", "6", "--seed", "2",
        "--max-epochs", str(EPOCHS), "--batch-size", "64", "--threads", "1", "--quiet",
        "--compare", "--config", str(settings), "--out", str(out), *more,
    ]  # fmt: skip


def program(number, step, *arguments):
    source = str(Path(kernomics.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(number)), str(step), *arguments],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def uninterrupted(file, settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    assert main(arguments(file, settings, out)) == 0
    return out


def assert_same_run(out, expected):
    for name in ("model/model.safetensors", "model/model.json", "panel.csv", "split.json"):
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name
    one, other = (History.read(run / "metrics.jsonl") for run in (out, expected))
    assert one.without_timings() == other.without_timings()
    found = [json.loads((run / "results.json").read_text()) for run in (out, expected)]
    seconds = [results.pop("seconds") for results in found]
    assert found[0] == found[1]
    assert min(seconds) > 0


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(3))
def test_run_killed_at_any_step_and_resumed_has_the_same_bits(
    file, settings, uninterrupted, tmp_path, round_, undrawn
):
    # Checkpoints after every second epoch; killed once or twice, and then continued to the end.
    out = tmp_path / "run"
    line = arguments(file, settings, out)
    dice = random.Random(SEED + round_)
    steps = sorted(dice.sample(range(1, STEPS), 1 + (round_ > 0)))
    print(f"KERNOMICS_TEST_SEED={SEED}, round {round_}: killed before steps {steps}")
    for i, step in enumerate(steps):
        more = ["--resume"] if i else []
        assert program(signal.SIGKILL, step, *line, *more).returncode == -signal.SIGKILL
        assert not (out / "model").exists()
    assert main([*line, "--resume"]) == 0
    assert_same_run(out, uninterrupted)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "training was interrupted after step 11"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
    ],
)
def test_signal_leaves_a_run_that_can_be_resumed(
    file, settings, uninterrupted, tmp_path, undrawn, number, code, said
):
    done = program(number, 10, *arguments(file, settings, tmp_path))
    assert done.returncode == code
    assert said in done.stderr
    assert "the same command with --resume continues" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(CheckpointError, match=r"it did not finish; continue it with --resume"):
        Panel.load(tmp_path)
    assert main(arguments(file, settings, tmp_path, "--resume")) == 0
    assert_same_run(tmp_path, uninterrupted)


def test_finished_run_is_not_trained_again(
    file, settings, uninterrupted, tmp_path, monkeypatch, undrawn
):
    out = shutil.copytree(uninterrupted, tmp_path / "run")
    shutil.rmtree(out / "model")  # as if killed between training and saving
    (out / "report.html").unlink()
    monkeypatch.setattr(
        "kernomics.models.yoto.module.YOTOModule.training_loss",
        lambda *_: pytest.fail("a step was trained"),
    )
    assert main(arguments(file, settings, out, "--resume")) == 0
    assert_same_run(out, uninterrupted)
    assert (out / "report.html").exists()


def test_damaged_checkpoint_is_named_when_the_one_before_is_used(
    file, uninterrupted, tmp_path, undrawn
):
    out = shutil.copytree(uninterrupted, tmp_path / "run")
    weights = out / "checkpoints" / f"step-{STEPS:08d}" / "module.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    model = YOTO(file, ["cell_type", "age"], 6, seed=2)
    with pytest.warns(UserWarning, match=r"resuming from .*16, because: .*24 is damaged: module"):
        select(None, out, model=model, resume=True, checkpoint_every_epochs=2)
    assert_same_run(out, uninterrupted)


def test_monitors_warnings_are_reported_and_not_given_twice(adata, tmp_path, undrawn):
    model = YOTO(adata, "cell_type", 6, score_learning_rate=1e-9, marker_prior=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = select(adata, tmp_path, model=model, max_epochs=2)
    assert any("gene scores are nearly all the same" in warning for warning in result.warnings)
    assert json.loads((tmp_path / "results.json").read_text())["warnings"] == result.warnings
