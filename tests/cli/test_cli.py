"""The `kernomics` command: what it prints, writes and refuses."""

import argparse
import json
import os
import re
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import read_h5ad

import kernomics
from kernomics import cli, datasets
from kernomics.cli import main
from kernomics.train import RunDirectory

COMMANDS = [
    *("select", "demo", "evaluate", "panel", "pretrain", "finetune", "embed"),
    *("attribute", "prune", "stages", "increment", "convert", "bench", "info"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cells to select from, and other cells of the same kind."""
    path = tmp_path_factory.mktemp("cells")
    adata = datasets.simulate(400, 60, 3, 6, seed=9)
    adata.obs["cluster"] = adata.obs["cell_type"].cat.codes.astype(int)
    adata[:250].copy().write_h5ad(path / "cells.h5ad")
    other = adata[250:].copy()
    other.obs = other.obs.rename(columns={"cell_type": "annotation"})
    other.write_h5ad(path / "other.h5ad")
    return path


def select(folder, out, *more, labels=("cell_type",), epochs=4):
    return [
        "select", str(folder / "cells.h5ad"), "--labels-key", *labels, "--n-genes", "6",
        "--max-epochs", str(epochs), "--batch-size", "64", "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the pictures out, which take longer than all the rest."""
    monkeypatch.setattr("kernomics.workflows.select.write_plots", lambda *_: None)
    monkeypatch.setattr("kernomics.workflows.select.write_report", lambda path, data: path.touch())


@pytest.fixture(scope="module")
def run(folder):
    """A finished run, and what the command printed; changed by no test."""
    out = folder / "run"
    done = subprocess.run(
        [sys.executable, "-m", "kernomics", *select(folder, out, epochs=30)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, done


# -- help and info ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command, capsys):
    (commands,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert list(commands.choices) == COMMANDS
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for action in commands.choices[command]._actions:
        assert action.help, action.dest
        for name in action.option_strings or [action.dest]:
            assert name in text
    assert "None" not in text
    assert "False" not in text
    assert "default: [" not in text


def test_help_and_version_need_neither_torch_nor_numpy():
    code = "import sys\nfrom kernomics.cli import main\ntry: main([{!r}, '--help'])\n"
    code += "except SystemExit: print('LOADED', *sys.modules)"
    text = subprocess.run(
        [sys.executable, "-c", code.format("select")], capture_output=True, text=True, check=True
    ).stdout
    assert not {"torch", "numpy", "pandas"} & set(text.partition("LOADED")[2].split())


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"kernomics {kernomics.__version__}\n"


def test_info_tells_what_was_built_and_what_the_machine_has(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [line.split()[0] for line in text.splitlines()] == [
        "kernomics", "CUDA", "torch", "machine"
    ]  # fmt: skip
    assert found["version"] == kernomics.__version__
    for part in (found["version"], found["compiler"], found["torch"], str(found["threads"])):
        assert part in text
    for architecture in found["cuda_architectures"]:
        assert architecture in text


# -- select ----------------------------------------------------------------------------------------


def test_select_prints_what_it_wrote(run):
    out, done = run
    text = done.stdout
    results = json.loads((out / "results.json").read_text())
    assert "cells      250   genes 60   cells.h5ad" in text
    split = json.loads((out / "split.json").read_text())
    sizes = [len(split[part]) for part in ("train", "validation", "test")]
    said = "stratified by cell_type: {} to train, {} to validate, {} held out".format(*sizes)
    assert f"split      {said}\n" in text
    assert "task       cell_type: 3 classes\nlibrary    row totals over 60 genes\n" in text
    assert f"panel      {', '.join(results['genes'])}\n" in text
    assert f"report     {out / 'report.html'}\n" in text
    number = r"([\d.]+(?: ± [\d.]+)?)"
    printed = re.findall(rf"^           (.+?)\s+{number}\s+{number}$", text, re.MULTILINE)

    def shown(score, metric):
        spread = score["spread"].get(metric)
        return f"{score['metrics'][metric]:.3f}" + ("" if spread is None else f" ± {spread:.3f}")

    of = {1: "", 5: " (mean ± sd of 5 panels)"}
    written = [
        (
            f"{score['method']}{of[score['n_panels']]}, {score['predictor']}",
            shown(score, "accuracy"),
            shown(score, "macro_f1"),
        )
        for score in results["scores"]["cell_type"]
    ]
    assert sum("±" in row[1] for row in written) == 1
    assert printed == written
    assert len(written) == 4
    (seconds,) = re.findall(r"^seconds    ([\d.]+) for the selection$", text, re.MULTILINE)
    assert float(seconds) == pytest.approx(results["seconds"], abs=0.06)


@pytest.mark.slow
def test_progress_goes_to_stderr_and_can_be_silenced(run, folder, tmp_path, undrawn, capfd):
    _, done = run
    assert "training: 100%" in done.stderr
    assert "cells/s" in done.stderr
    assert "warning" not in done.stderr
    assert main(select(folder, tmp_path, "--quiet", "--compare", epochs=1)) == 0
    assert capfd.readouterr().err == ""


def test_options_take_precedence_over_the_file_of_settings(folder, tmp_path, undrawn):
    settings = tmp_path / "settings.json"
    settings.write_text('{"n_genes": 9, "max_epochs": 3, "seed": 5, "hidden": [16], "tau_end": 1}')
    line = select(folder, tmp_path / "a", "--config", str(settings), "--compare", epochs=1)
    assert main(line) == 0
    first = json.loads((tmp_path / "a" / "config.json").read_text())["config"]
    assert first["model"]["n_genes"] == 6
    assert first["train"]["max_epochs"] == 1
    assert first["model"]["hidden"] == [16]
    assert first["seed"] == first["split"]["seed"] == 5
    # The config.json of a run holds its settings; another run with them is the same run.
    line = [*line[:4], "--config", str(tmp_path / "a" / "config.json"), "--compare"]
    assert main([*line, "--out", str(tmp_path / "b"), "--quiet"]) == 0
    second = json.loads((tmp_path / "b" / "config.json").read_text())["config"]
    second["train"]["progress"] = True
    assert second == first
    panels = [(tmp_path / name / "panel.csv").read_bytes() for name in "ab"]
    assert panels[0] == panels[1]


def test_settings_and_genes_may_come_from_pipes(folder, tmp_path, undrawn):
    ends = []
    for content in ('{"max_epochs": 1, "hidden": [16]}', "gene_0\ngene_1\n"):
        reading, writing = os.pipe()
        os.write(writing, content.encode())
        os.close(writing)
        ends.append(reading)
    line = select(folder, tmp_path / "run", "--compare", "--quiet")
    line += ["--config", f"/dev/fd/{ends[0]}", "--extend", f"/dev/fd/{ends[1]}"]
    assert main(line) == 0
    for reading in ends:
        os.close(reading)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["model"]["hidden"] == [16]
    assert config["forced_genes"] == ["gene_0", "gene_1"]


def test_numbers_can_be_classes_and_a_class_can_mean_unlabelled(folder, tmp_path, undrawn, capsys):
    line = select(folder, tmp_path, "--compare", "--quiet", labels=["cluster"], epochs=1)
    assert main([*line, "--label-kinds", "cluster=categorical", "--unlabelled", "2"]) == 0
    assert "task       cluster: 2 classes\n" in capsys.readouterr().out


def test_group_split_forced_and_forbidden_genes_are_passed_on(folder, tmp_path, undrawn, capsys):
    adata = datasets.simulate(200, 40, 2, 4, n_batches=6, seed=1)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    line = select(tmp_path, tmp_path / "run", "--compare", "--quiet", epochs=1)
    line += ["--split", "group", "--split-key", "batch"]
    assert main([*line, "--force", "gene_3", "gene_4", "--forbid", "gene_5"]) == 0
    assert "split      group by batch" in capsys.readouterr().out
    panel = pd.read_csv(tmp_path / "run" / "panel.csv")["gene"]
    assert {"gene_3", "gene_4"} <= set(panel)
    assert "gene_5" not in set(panel)


def test_several_starts_are_made_and_told(folder, tmp_path, undrawn, capsys):
    out = tmp_path / "run"
    assert main(select(folder, out, "--starts", "2", "--judge", "linear")) == 0
    told = capsys.readouterr().out
    assert re.search(
        r"^starts     2 starts, [01]\.\d{3}, [01]\.\d{3}; start [12] chosen", told, re.M
    )
    config = RunDirectory.open(out).config["model"]
    assert (config["n_starts"], config["judge"]) == (2, "linear")


def test_starts_may_be_halved_and_begin_at_rankings(folder, tmp_path, undrawn, capsys):
    out = tmp_path / "run"
    line = select(folder, out, "--starts", "2", "--halving", "--start-rankings", "markers", "de")
    assert main(line) == 0
    assert re.search(r"^starts     2 starts,.*; start [12] chosen", capsys.readouterr().out, re.M)
    config = RunDirectory.open(out).config["model"]
    assert config["halving"] is True
    assert config["start_rankings"] == ["markers", "de"]
    line = select(folder, tmp_path / "one", "--halving", "--quiet")
    assert main(line) == 2
    assert "halving" in capsys.readouterr().err
    line = select(folder, tmp_path / "one", "--judge", "own", "--quiet")
    assert main(line) == 2
    assert "--judge chooses among several starts, and --starts is 1" in capsys.readouterr().err


def test_threads_are_set(folder, tmp_path, undrawn, capsys):
    before = torch.get_num_threads()
    try:
        line = select(folder, tmp_path, "--compare", "--quiet", "--threads", "1", epochs=1)
        assert main(line) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow  # `make demo` does it too
def test_demo_selects_from_real_cells(tmp_path, capsys):
    pytest.importorskip("scanpy", reason="the demo's cells come with scanpy")
    line = ["demo", "--out", str(tmp_path), "--max-epochs", "1", "--compare", "--quiet"]
    assert main(line) == 0
    text = capsys.readouterr().out
    assert "cells      700   genes 765" in text
    assert "task       cell_type: 10 classes\n" in text
    assert len(pd.read_csv(tmp_path / "panel.csv")) == 32
    assert "11% to 28%" in (tmp_path / "report.html").read_text()


# -- evaluate --------------------------------------------------------------------------------------


def test_evaluate_scores_other_cells_and_writes_predictions(run, folder, tmp_path, capsys):
    out, _ = run
    table = tmp_path / "predictions.csv"
    line = ["evaluate", str(out), str(folder / "other.h5ad"), "--label", "cell_type=annotation"]
    assert main([*line, "--predictions", str(table)]) == 0
    text = capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["cell_type"].pop("n_cells") == 150
    assert "150 of 150 cells" in text
    assert scores["cell_type"]["accuracy"] > 0.7
    for name, value in scores["cell_type"].items():
        assert f"{name} {value:.4g}" in text
    predicted = pd.read_csv(table, index_col=0)
    assert predicted.index[0] == "cell_250"
    assert list(predicted) == ["cell_type", "cell_type_probability"]
    truth = kernomics.data.CellCollection.from_anndata(folder / "other.h5ad").obs["annotation"]
    same = np.mean(predicted["cell_type"].to_numpy() == truth.to_numpy())
    assert same == pytest.approx(scores["cell_type"]["accuracy"])


@pytest.mark.filterwarnings("default")
def test_cells_without_labels_are_predicted_and_not_scored(run, folder, tmp_path, capsys):
    out, _ = run
    bare, labelled = tmp_path / "bare.csv", tmp_path / "labelled.csv"
    line = ["evaluate", str(out), str(folder / "other.h5ad")]
    assert main([*line, "--predictions", str(bare)]) == 0
    assert "predictions are written, but not scored" in capsys.readouterr().err
    label = ["--label", "cell_type=annotation"]
    assert main([*line, *label, "--predictions", str(labelled)]) == 0
    assert bare.read_bytes() == labelled.read_bytes()
    assert "has none of the panel's labels ['cell_type']" in error_of(capsys, *line)


def test_a_label_without_values_names_its_column(run, folder, tmp_path, capsys):
    out, _ = run
    cells = read_h5ad(folder / "other.h5ad")
    cells.obs["blank"] = pd.Categorical([None] * cells.n_obs)
    cells.write_h5ad(tmp_path / "blank.h5ad")
    line = ["evaluate", str(out), str(tmp_path / "blank.h5ad"), "--label", "cell_type=blank"]
    said = error_of(capsys, *line)
    assert "none of the 150 cells has a value in obs column 'blank'" in said
    assert "--label" in said


def test_a_bad_place_for_the_run_is_refused_before_the_data_are_read(tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    line = ["select", str(tmp_path / "no.h5ad"), "--labels-key", "x"]
    said = error_of(capsys, *line, "--out", str(tmp_path / "notes"))
    assert "is not a kernomics run: it has no config.json but holds 1 entry, first 'a.txt'" in said
    said = error_of(capsys, *line, "--out", str(tmp_path / "new"), "--resume")
    assert "nothing to resume" in said or "no run" in said


def test_a_file_behind_an_option_of_several_values_is_told(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["select", "--labels-key", "cell_type", "a.h5ad", "--out", "x"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "put the file first" in said


@pytest.mark.filterwarnings("default:.*very counts:UserWarning")
def test_evaluate_of_a_panel_writes_a_report_where_asked(run, folder, tmp_path, capsys):
    out, _ = run
    page = tmp_path / "report.html"
    line = ["evaluate", str(out), str(folder / "other.h5ad"), "--label", "cell_type=annotation"]
    assert main([*line, "--report", str(page)]) == 0
    accuracy = re.search(r"accuracy ([\d.]+)", capsys.readouterr().out)[1]
    text = page.read_text(encoding="utf-8")
    assert re.findall('<section id="([^"]*)"', text) == [
        "key-figures", "panel", "expression", "confusion", "warnings", "reproducibility",
    ]  # fmt: skip
    assert f">{float(accuracy):.3f}<" in text
    assert "detected in and mean count: over these cells" in text
    assert "over the training cells" not in text
    assert "Cells that it was trained on are told by their counts: see the warnings" in text
    assert main([*line, "--report", str(tmp_path / "x.txt")]) == 2


@pytest.mark.filterwarnings("default")
def test_evaluate_fills_genes_that_the_data_lack_where_allowed(run, folder, tmp_path, capsys):
    out, _ = run
    gone = pd.read_csv(out / "panel.csv")["gene"][2]
    other = anndata.read_h5ad(folder / "other.h5ad")
    other[:, other.var_names != gone].copy().write_h5ad(tmp_path / "lacking.h5ad")
    line = ["evaluate", str(out), str(tmp_path / "lacking.h5ad"), "--label", "cell_type=annotation"]
    error = error_of(capsys, *line)
    assert f"1 of the panel's 6 genes is missing from the data: '{gone}'" in error
    assert "--allow-missing" in error
    table, page = tmp_path / "predictions.csv", tmp_path / "report.html"
    line += ["--allow-missing", "--predictions", str(table), "--report", str(page)]
    assert main(line) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning: 1 of the panel's 6 genes is missing") == 1
    assert re.search(rf"macro-F1 of cell_type .* without {gone}", captured.err)
    accuracy = float(re.search(r"accuracy ([\d.]+)", captured.out)[1])
    same = pd.read_csv(table)["cell_type"].to_numpy() == other.obs["annotation"].to_numpy()
    assert same.mean() == pytest.approx(accuracy, abs=1e-3)
    text = page.read_text(encoding="utf-8")
    assert "6 genes, 1 missing here" in text
    assert f"without {gone}" in text


@pytest.mark.filterwarnings("default:.*very counts:UserWarning")
def test_evaluate_takes_a_saved_model_too(run, folder, capsys):
    out, _ = run
    assert main(["evaluate", str(out / "model"), str(folder / "cells.h5ad")]) == 0
    assert "6 genes" in capsys.readouterr().out


# -- what is refused -------------------------------------------------------------------------------


def error_of(capsys, *line):
    """Run a command that is to be refused, and return what it said."""
    assert main(list(line)) == 2
    captured = capsys.readouterr()
    prefix = f"kernomics {line[0]}: error: "
    assert captured.err.startswith(prefix)
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix(prefix)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--n-genes", "61"], "--n-genes = 61 but only 60 of 60 genes are usable"),
        (["--n-genes", "0"], "--n-genes is 0"),
        (["--labels-key", "celltype"], "no column 'celltype'; closest: 'cell_type'"),
        (["--layer", "raw"], "there is no layer 'raw'"),
        (["--library-key", "n_count"], "n_count"),
        (["--unlabelled", "Unknown"], "'Unknown' occurs in none of the label columns"),
        (["--label-kinds", "x=categorical"], "--label-kinds names 'x', which is not a label"),
        (["--label-kinds", "x=number"], "write LABEL=categorical or LABEL=continuous"),
        (["--force", "gene_1", "--forbid", "gene_1"], "1 gene is both forced and forbidden"),
        (["--split", "group"], "needs --split-key"),
        (["--compare", "dee"], "cannot compare with 'dee'; closest: 'de'"),
        (["--device", "gpu"], "device 'gpu' does not exist; use 'cpu' or 'cuda'"),
        (["--threads", "0"], "--threads is 0: at least 1 is needed"),
        (["--max-epochs", "0"], "--max-epochs is 0"),
        (["--starts", "0"], "--starts is 0: at least 1 is needed"),
        (["--balance", "celltype"], "no column of obs; closest: 'cell_type'"),
        (["--skip-steps", "3-x"], "--skip-steps '3-x': write a step, such as 1200"),
        (["--seed", str(2**70)], "must be an integer of 64 bits"),
        (["--config", "nowhere.json"], "nowhere.json"),
    ],
)
def test_option_that_cannot_be_used_is_named(folder, tmp_path, capsys, more, message):
    out = tmp_path / "run"
    assert message in error_of(capsys, *select(folder, out), *more)
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"relaxatoin": "softmax"}',
            "the setting 'relaxatoin', which does not exist; closest: 'rel",
        ),
        (
            '{"batchsize": 3}',
            "the setting 'batchsize', which does not exist; closest: 'batch_size'",
        ),
        ('{"relaxation": "sort"}', "relaxation is 'sort'"),
        ('{"learning_rate": "fast"}', "learning_rate is 'fast': it must be a number"),
        ('{"hidden": "128"}', "hidden is '128': it must be a list of integers"),
        ('{"n_genes": 3', "is not valid JSON"),
        ("[1, 2]", "must hold a JSON object of settings, not a list"),
    ],
)
def test_mistake_in_the_settings_is_told_before_data_are_read(tmp_path, capsys, content, message):
    settings = tmp_path / "settings.json"
    settings.write_text(content)
    line = select(tmp_path / "nowhere", tmp_path / "run", "--config", str(settings))
    assert message in error_of(capsys, *line)


def test_missing_label_or_directory_is_a_usage_error(folder, capsys):
    for line in (["select", "a.h5ad", "--out", "x"], ["select", "a.h5ad", "--labels-key", "y"]):
        with pytest.raises(SystemExit) as stop:
            main(line)
        assert stop.value.code == 2
        assert "required" in capsys.readouterr().err


def test_second_run_in_the_same_directory_is_refused_with_the_choices(run, folder, capsys):
    out, _ = run
    said = error_of(capsys, *select(folder, out))
    assert "already holds a run" in said
    assert "--resume" in said
    assert "--overwrite" in said
    assert "already holds a run" in error_of(capsys, *select(folder / "nowhere", out))


@pytest.mark.parametrize("weight", ["cell_type", "=2", "cell_type=much"])
def test_weight_of_a_task_that_is_none_is_told(folder, tmp_path, capsys, weight):
    line = select(folder, tmp_path / "run", "--task-weights", weight)
    assert f"--task-weights {weight!r}: write LABEL=WEIGHT" in error_of(capsys, *line)


def test_directory_that_cannot_be_made_is_named(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "is a file" in error_of(capsys, *select(folder, tmp_path / "file"))
    assert "Not a directory" in error_of(capsys, *select(folder, tmp_path / "file" / "run"))


def test_evaluate_names_what_it_cannot_use(run, folder, tmp_path, capsys):
    out, _ = run
    other = str(folder / "other.h5ad")
    few = datasets.simulate(20, 5, 2, 1)
    few.write_h5ad(tmp_path / "few.h5ad")
    for line, message in (
        ([str(tmp_path / "nowhere"), other], "no saved model"),
        ([str(out), str(folder / "nowhere.h5ad")], "there is no file"),
        ([str(out), other], "none of the panel's labels ['cell_type']"),
        ([str(out), other, "--label", "annotation"], "write TASK=COLUMN"),
        ([str(out), other, "--labels-key", "annotation"], "--labels-key is only for a TxFM"),
        ([str(out), other, "--label", "type=annotation"], "no task 'type'; closest: 'cell_type'"),
        (
            [str(out), str(tmp_path / "few.h5ad")],
            "of the panel's 6 genes are missing from the data",
        ),
    ):
        assert message in error_of(capsys, "evaluate", *line), line


@pytest.mark.filterwarnings("default::UserWarning")
def test_data_warnings_are_one_line_for_the_reader(run, folder, tmp_path, capsys):
    out, _ = run
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    types = adata.obs["cell_type"].astype(str).to_numpy()
    types[:10] = "new"
    adata.obs["cell_type"] = types
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert main(["evaluate", str(out), str(tmp_path / "cells.h5ad")]) == 0
    seen, said = capsys.readouterr().err.splitlines()
    assert re.match(r"warning: \d+ of the 250 cells that can be told have the very counts", seen)
    assert said.startswith("warning: label 'cell_type': 10 of 250 labelled cells are of 1 class")
