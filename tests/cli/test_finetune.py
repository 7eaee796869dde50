"""`kernomics finetune`, from files to files; and what `pretrain` and `embed` say of bad input."""

import json

import anndata
import numpy as np
import pytest

from kernomics import datasets
from kernomics.cli import main
from kernomics.metrics import probe_metrics
from kernomics.models import CellEncoder

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

HELD_OUT = 250
SETTINGS = {"d_model": 16, "n_layers": 2, "n_heads": 2, "decoder_layers": 1, "n_tokens": 15}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("finetune")
    cells = datasets.simulate(300, 60, 4, 5, n_batches=4, seed=3)
    cells[:150, :50].copy().write_h5ad(path / "cells.h5ad")
    cells[150:, 5:].copy().write_h5ad(path / "other.h5ad")
    (path / "settings.json").write_text(json.dumps(SETTINGS))
    return path


@pytest.fixture(scope="module")
def model(folder):
    line = ["pretrain", str(folder / "cells.h5ad"), "--out", str(folder / "run"), "--quiet"]
    line += ["--config", str(folder / "settings.json"), "--max-epochs", "4", "--batch-size", "32"]
    assert main(line) == 0
    return folder / "run"


def finetune(folder, model, out, *more):
    line = ["finetune", str(model), str(folder / "other.h5ad"), "--out", str(out), "--quiet"]
    return [*line, "--max-epochs", "2", "--batch-size", "32", *more]


@pytest.fixture(scope="module")
def tuned(folder, model):
    assert main(finetune(folder, model, folder / "tuned", "--labels-key", "cell_type")) == 0
    return folder / "tuned"


def error_of(capsys, line):
    capsys.readouterr()
    assert main(line) == 2
    return capsys.readouterr().err


def test_the_run_scores_the_model_before_and_after(tuned):
    results = json.loads((tuned / "results.json").read_text())
    names = [row["representation"] for row in results["representation"]["scores"]]
    assert names == ["TxFM", "TxFM before fine-tuning", "PCA", "normalised counts"]
    assert results["representation"]["n_test"] == 31  # a fifth of each type
    assert (tuned / "plots" / "training.svg").stat().st_size > 1000


def test_its_report_shows_the_model_before_too(tuned):
    text = (tuned / "report.html").read_text(encoding="utf-8")
    assert "Fine-tuning of a TxFM" in text
    assert "minus TxFM before fine-tuning" in text
    assert "genes kept" in text


def test_the_run_says_what_it_came_from(model, tuned):
    encoder = CellEncoder.load(tuned)
    origin = encoder.info["fine_tuned_from"]
    assert origin["genes"] == {"kept": 45, "new": 0, "left_out": 10, "dropped": 5}
    assert len(encoder.genes) == 45
    assert encoder.config == CellEncoder.load(model).config
    config = json.loads((tuned / "config.json").read_text())["config"]
    assert config["fine_tuned_from"] == origin
    assert config["train"]["learning_rate"] == 1e-4
    before = json.loads((model / "config.json").read_text())["config"]["train"]
    assert config["train"]["weight_decay"] == before["weight_decay"]


@pytest.mark.usefixtures("unreported")
def test_genes_known_missing_new_and_left_out_are_printed(folder, model, tmp_path, capsys):
    assert main(finetune(folder, model, tmp_path / "run")) == 0
    printed = capsys.readouterr().out
    known = f"from       {model}: 45 of its 50 genes are in the data, 5 missing; "
    assert f"{known}0 new, 10 left out (--new-genes N adds those that vary most)\n" in printed
    assert "genes 45" in printed
    assert main(finetune(folder, model, tmp_path / "more", "--new-genes", "6")) == 0
    printed = capsys.readouterr().out
    assert f"{known}6 new, 4 left out\n" in printed
    assert "genes 51" in printed
    assert "17 genes revealed" in printed  # 15 · 51/45
    assert len(CellEncoder.load(tmp_path / "more").genes) == 51


@pytest.mark.usefixtures("unreported")
@pytest.mark.filterwarnings("default")  # as in a terminal
def test_library_sizes_that_training_goes_on_with_are_not_compared(folder, model, tmp_path, capsys):
    other = datasets.simulate(150, 60, 4, 5, n_batches=4, seed=4)
    more = other.copy()
    more.var_names = [f"more_{i}" for i in range(60)]
    both = anndata.concat([other, more], axis="var", merge="first")
    both.write_h5ad(tmp_path / "both.h5ad")
    said = "of the library in these cells"
    line = ["embed", str(model), str(tmp_path / "both.h5ad"), "--out", str(tmp_path / "x.npy")]
    assert main([*line, "--quiet"]) == 0
    assert said in capsys.readouterr().err
    line = finetune(folder, model, tmp_path / "run")
    line[2] = str(tmp_path / "both.h5ad")
    assert main(line) == 0
    assert said not in capsys.readouterr().err
    assert CellEncoder.load(tmp_path / "run").info["library_share"] < 0.6


def test_which_weights_are_kept_is_printed(folder, model, tmp_path, capsys):
    better = finetune(folder, model, tmp_path / "better", "--learning-rate", "0.003")
    assert main(better) == 0
    assert "kept       the weights after epoch 2, the best at validation" in capsys.readouterr().out
    (tmp_path / "contrary.json").write_text('{"mode": "max"}')  # a loss that falls is worse
    worse = finetune(folder, model, tmp_path / "worse", "--learning-rate", "0.003")
    worse += ["--config", str(tmp_path / "contrary.json")]
    assert main(worse) == 0
    said = "kept       the original model: no epoch improved on its validation score"
    assert said in capsys.readouterr().out
    found = [json.loads((tmp_path / x / "results.json").read_text()) for x in ("better", "worse")]
    assert [x["best_epoch"] for x in found] == [1, -1]


def test_a_run_continues_with_its_own_model_alone(
    folder, model, tuned, tmp_path, capsys, unreported
):
    line = finetune(folder, model, tuned, "--labels-key", "cell_type")
    before = (tuned / "model" / "model.safetensors").read_bytes()
    assert main([*line, "--resume"]) == 0
    assert (tuned / "model" / "model.safetensors").read_bytes() == before
    assert "already holds a run" in error_of(capsys, line)
    another = ["finetune", str(tuned), *line[2:]]
    another[another.index("--out") + 1] = str(tmp_path / "second")
    assert main(another) == 0
    other_model = [*line, "--resume"]
    other_model[1] = str(tmp_path / "second")
    assert "fine_tuned_from.sha256 was" in error_of(capsys, other_model)


@pytest.mark.usefixtures("unreported")
def test_the_model_given_stays_as_it_is(folder, model, capsys):
    before = (model / "model" / "model.safetensors").read_bytes()
    for out in (model, model / "model"):
        line = finetune(folder, model / "model", out, "--overwrite")
        assert "which holds the model: choose another directory" in error_of(capsys, line)
    assert (model / "model" / "model.safetensors").read_bytes() == before


def test_a_tuned_model_embeds(folder, tuned, tmp_path):
    out = tmp_path / "out.npy"
    assert main(["embed", str(tuned), str(folder / "other.h5ad"), "--out", str(out)]) == 0
    assert np.load(out).shape == (150, 16)


def renamed(folder, path, names):
    import anndata

    cells = anndata.read_h5ad(folder / "other.h5ad")
    cells.var_names = names(cells.var_names)
    cells.write_h5ad(path)
    return str(path)


def test_what_cannot_be_used_is_named(folder, model, tmp_path, capsys):
    ensembl = renamed(
        folder, tmp_path / "ids.h5ad", lambda old: [f"ENSG{i:011d}" for i in range(len(old))]
    )
    out = str(tmp_path / "x")
    line = finetune(folder, model, out)
    cases = [
        (
            ["finetune", str(model), ensembl, "--out", out],
            "name it with --gene-names …",
        ),
        (["finetune", str(tmp_path / "no"), ensembl, "--out", out], "there is no saved model"),
        (["finetune", str(model), str(tmp_path / "no.h5ad"), "--out", out], "there is no file"),
        ([*line, "--n-tokens", "45"], "none would be masked"),
        ([*line, "--new-genes", "-1"], "--new-genes is -1: the number of genes to add"),
        ([*line, "--new-genes", "11"], "ask for at most 10, or lower --min-cells"),
        ([*line, "--max-epochs", "0"], "--max-epochs is 0: it must be an integer of at least 1"),
        ([*line, "--min-gene-overlap", "0.95"], "95% of the fewer of the two (--min-gene-overlap)"),
        ([*line, "--device", "gpu"], "device 'gpu' does not exist"),
        ([*line, "--threads", "0"], "--threads is 0"),
    ]
    for given, message in cases:
        assert message in error_of(capsys, given), given
    (tmp_path / "wide.json").write_text('{"d_model": 32}')
    message = error_of(capsys, [*line, "--config", str(tmp_path / "wide.json")])
    assert "d_model is 32, but the model was trained with 16" in message
    assert not (tmp_path / "x").exists()


@pytest.mark.filterwarnings("ignore:45 of the model's 50 genes are in the data")
def test_cells_without_counts_are_named_and_embedded_if_asked_for(folder, model, tmp_path, capsys):
    import anndata

    cells = anndata.read_h5ad(folder / "other.h5ad")
    dense = cells.X.toarray()
    dense[[3, 8]] = 0
    cells.X = dense
    data, out = str(tmp_path / "empty.h5ad"), tmp_path / "out.npy"
    cells.write_h5ad(data)
    for line in (
        ["pretrain", data, "--out", str(tmp_path / "a")],
        ["finetune", str(model), data, "--out", str(tmp_path / "b")],
        ["embed", str(model), data, "--out", str(out)],
    ):
        message = error_of(capsys, line)
        assert "2 of 150 cells have no counts in X of 'empty.h5ad', first 'cell_153'" in message
        # No TxFM is trained on such cells, so that only embed offers to keep them.
        assert ("or keep them with --keep-empty" in message) == (line[0] == "embed")
        assert "empty_cells" not in message
    assert main(["embed", str(model), data, "--out", str(out), "--keep-empty", "--quiet"]) == 0
    found = np.load(out)
    np.testing.assert_allclose(found[3], found[8], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:label 'cell_type'.*have fewer than 5 training cells")
@pytest.mark.filterwarnings("ignore:.* classes of 'cell_type' have too few cells")
def test_the_readmes_commands_leave_a_model_no_worse_on_ten_times_its_genes(tmp_path):
    """Real cells, of 765 genes beside the model's 76: as they are printed, but for sizes.

    One of n cells is told right or wrong, so that an accuracy p has a standard error of
    √(p(1 − p)/n); what is lost must be within two.
    """
    pytest.importorskip("scanpy", reason="pbmc68k() reads cells that ship with scanpy")
    cells = datasets.pbmc68k()
    cells.X = cells.layers["counts"].copy()
    order = np.random.default_rng(0).permutation(cells.n_obs)
    parts = {"cells": order[:250], "other": order[250:-HELD_OUT], "held_out": order[-HELD_OUT:]}
    for name, rows in parts.items():
        cells[rows].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    file = {name: str(tmp_path / f"{name}.h5ad") for name in parts}
    runs = {name: str(tmp_path / name) for name in ("txfm", "tuned")}
    more = ["--quiet", "--threads", "1"]
    line = ["pretrain", file["cells"], "--n-genes", "76", "--labels-key", "cell_type"]
    assert main([*line, "--n-tokens", "38", "--out", runs["txfm"], *more]) == 0
    assert main(["finetune", runs["txfm"], file["other"], "--out", runs["tuned"], *more]) == 0
    assert len(CellEncoder.load(runs["tuned"]).genes) == 76

    classes = cells.obs["cell_type"].cat.codes.to_numpy()
    found = {}
    for name, run in runs.items():
        vectors = []
        for part in ("other", "held_out"):
            out = str(tmp_path / f"{name}_{part}.npy")
            assert main(["embed", run, file[part], "--out", out, *more]) == 0
            vectors.append(np.load(out))
        learnt, judged = (classes[parts[part]] for part in ("other", "held_out"))
        found[name] = probe_metrics(vectors[0], learnt, vectors[1], judged)
    for metric in ("knn_accuracy", "linear_accuracy"):
        before, after = (found[name][metric] for name in ("txfm", "tuned"))
        assert before > 0.6, "a model that knows nothing cannot get worse"
        assert after > before - 2 * (before * (1 - before) / HELD_OUT) ** 0.5, metric
    line = ["evaluate", runs["tuned"], file["held_out"], "--labels-key", "cell_type"]
    assert main([*line, "--metrics", "probes", "--threads", "1"]) == 0
