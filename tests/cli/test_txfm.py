"""`kernomics pretrain`, `embed` and `evaluate` of a TxFM, from files to files."""

import json
import os
import re
import warnings
from itertools import pairwise

import anndata
import numpy as np
import pandas as pd
import pytest

from kernomics import datasets
from kernomics.cli import main
from kernomics.errors import ConfigError
from kernomics.metrics import probe_metrics
from kernomics.models import CellEncoder, TxFM
from kernomics.workflows.pretrain import run_pretraining

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

SETTINGS = {
    "d_model": 16, "n_layers": 2, "n_heads": 2, "decoder_layers": 1,
    "linear_path": False,  # with it all test cells are right, and an error of 0 tells nothing
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("txfm")
    cells = datasets.simulate(200, 60, 4, 5, n_batches=4, seed=3)
    cells.obs["age"] = np.linspace(20.0, 70.5, 200)
    cells.write_h5ad(path / "cells.h5ad")
    datasets.simulate(40, 60, 4, 5, seed=4).write_h5ad(path / "other.h5ad")
    (path / "settings.json").write_text(json.dumps(SETTINGS))
    return path


def pretrain(folder, out, *more):
    line = ["pretrain", str(folder / "cells.h5ad"), "--labels-key", "cell_type", "--quiet"]
    line += ["--config", str(folder / "settings.json"), "--n-tokens", "15"]
    line += ["--max-epochs", "4", "--batch-size", "32", "--out", str(out), *more]
    return main(line)


@pytest.fixture(scope="module")
def run(folder):
    assert pretrain(folder, folder / "run") == 0
    return folder / "run"


def error_of(capsys, *line):
    capsys.readouterr()
    assert main(list(line)) == 2
    return capsys.readouterr().err


def test_a_run_directory_holds_model_history_curves_and_scores(run):
    results = json.loads((run / "results.json").read_text())
    names = [row["representation"] for row in results["representation"]["scores"]]
    assert names == ["TxFM", "PCA", "normalised counts"]
    assert results["representation"]["n_dimensions"] == 16
    assert (run / "plots" / "training.svg").stat().st_size > 1000
    assert CellEncoder.load(run).config.n_tokens == 15
    config = json.loads((run / "config.json").read_text())["config"]
    steps = 4 * 5  # 140 training cells in batches of 32
    assert config["train"]["weight_decay"] == pytest.approx(1 / (3e-3 * steps))


@pytest.mark.usefixtures("unreported")
def test_epochs_are_scored_where_asked(folder, tmp_path, capsys):
    out = tmp_path / "scored"
    assert pretrain(folder, out, "--score-epochs", "--max-epochs", "12") == 0
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    found = [x for x in lines if x["split"] == "validation"]
    assert len(found) > 1
    split = json.loads((out / "split.json").read_text())
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    codes = cells.obs["cell_type"].astype("category").cat.codes.to_numpy()
    train, held_out = (np.array(split[part]) for part in ("train", "validation"))
    latent = CellEncoder.load(out).get_latent_representation(cells)
    expected = probe_metrics(latent[train], codes[train], latent[held_out], codes[held_out])
    for metric in ("knn_accuracy", "linear_accuracy"):
        # Batches of other cells round differently, which may turn one of the 20.
        assert found[-1][f"{metric}/cell_type"] == pytest.approx(expected[metric], abs=0.051)
    assert "kNN accuracy of cell_type" in (out / "plots" / "training.svg").read_text()
    unlabelled = TxFM(str(folder / "cells.h5ad"), "XS", n_tokens=15)
    with pytest.raises(ConfigError, match="no categorical labels"):
        run_pretraining(unlabelled, tmp_path / "x", dataset="cells", score_epochs=True)
    assert not (tmp_path / "x").exists()


def test_a_training_writes_its_report_with_the_scores_and_their_errors(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    found = re.findall('<section id="([^"]*)"', text)
    assert found == ["key-figures", "maps", "training", "warnings", "reproducibility"]
    results = json.loads((run / "results.json").read_text())["representation"]
    score, error = results["scores"][0], results["errors"][0]
    assert (score["representation"], error["representation"]) == ("TxFM", "TxFM")
    n_test = 40
    share = score["linear_accuracy"]
    # By the bootstrap of 200 draws, whose spread is known to 5 %: four of these.
    expected = (share * (1 - share) / n_test) ** 0.5
    assert error["linear_accuracy"] == pytest.approx(expected, rel=0.2)
    assert f"{share:.3f} ± {error['linear_accuracy']:.3f}" in text
    gap = results["differences"][2]
    assert (gap["representation"], gap["metric"]) == ("PCA", "linear_accuracy")
    assert gap["difference"] == pytest.approx(share - results["scores"][1]["linear_accuracy"])
    assert (run / "plots" / "maps-cell_type.svg").stat().st_size > 1000


@pytest.mark.parametrize("what", ["labels", "relations"])
def test_evaluate_writes_a_report_where_asked(folder, run, tmp_path, capsys, what):
    cells = folder / "cells.h5ad"
    (tmp_path / "pairs.txt").write_text("entity1,entity2\ngene_0,gene_1\ngene_2,gene_3")
    asked = {
        "labels": ["--labels-key", "cell_type", "--batch-key", "batch"],
        "relations": ["--relations", str(tmp_path / "pairs.txt"), "--n-components", "8"],
    }[what]
    out = tmp_path / "report.html"
    line = ["evaluate", str(run), str(cells), *asked]
    assert main(line) == 0
    before = capsys.readouterr().out
    assert main([*line, "--report", str(out)]) == 0
    assert capsys.readouterr().out == f"{before}report     {out}\n"
    text = out.read_text(encoding="utf-8")
    section = {"labels": "batch (batch)", "relations": 'id="relationships"'}[what]
    assert section in text
    assert "are told by their counts: see the warnings" in text
    assert "digests" not in text
    for name, message in (("x.pdf", "must end in .html"), ("no/x.html", "no directory")):
        assert message in error_of(capsys, *line, "--report", str(tmp_path / name))


def test_settings_may_come_from_a_pipe(folder, tmp_path):
    reading, writing = os.pipe()
    os.write(writing, json.dumps({**SETTINGS, "patience": 7}).encode())
    os.close(writing)
    line = ["pretrain", str(folder / "cells.h5ad"), "--quiet", "--out", str(tmp_path / "run")]
    line += ["--n-tokens", "15", "--max-epochs", "1", "--config", f"/dev/fd/{reading}"]
    assert main(line) == 0
    os.close(reading)
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["model"]["d_model"], config["train"]["patience"]) == (16, 7)
    assert "there are no labels" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("unreported")
def test_scores_are_printed_with_the_split(folder, tmp_path, capsys):
    assert pretrain(folder, tmp_path / "run", "--split-key", "batch") == 0
    printed = capsys.readouterr().out
    assert "split      group by batch" in printed
    assert "cell_type, normalised counts" in printed
    assert "kNN acc." in printed


def test_a_finished_run_is_not_trained_again_nor_overwritten_by_accident(
    folder, run, capsys, unreported
):
    before = (run / "model" / "model.safetensors").read_bytes()
    assert pretrain(folder, run, "--resume") == 0
    assert (run / "model" / "model.safetensors").read_bytes() == before
    capsys.readouterr()
    assert pretrain(folder, run) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert pretrain(folder, run, "--resume", "--seed", "1") == 2
    assert "seed was 0 and is now 1" in capsys.readouterr().err


def test_embedding_goes_into_a_copy_of_the_data(folder, run, tmp_path):
    out = tmp_path / "out.h5ad"
    before = (folder / "other.h5ad").read_bytes()
    assert main(["embed", str(run), str(folder / "other.h5ad"), "--out", str(out), "--quiet"]) == 0
    found = anndata.read_h5ad(out)
    expected = CellEncoder.load(run).get_latent_representation(folder / "other.h5ad")
    np.testing.assert_allclose(found.obsm["X_txfm"], expected, rtol=1e-5, atol=1e-6)
    assert found.varm["txfm_decoder"].shape == (60, 16)
    assert (folder / "other.h5ad").read_bytes() == before


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_embedding_as_a_table_or_an_array(folder, run, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    line = ["embed", str(run), str(folder / "other.h5ad"), "--out", str(out), "--quiet"]
    assert main([*line, "--n-tokens", "10", "--n-draws", "2"]) == 0
    expected = CellEncoder.load(run).get_latent_representation(
        folder / "other.h5ad", n_tokens=10, n_draws=2
    )
    found = np.load(out) if suffix == ".npy" else pd.read_csv(out, index_col=0).to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_more_tokens_than_genes_are_all_genes(folder, run, tmp_path, capsys):
    found = []
    for i, more in enumerate(([], ["--n-tokens", "60"], ["--n-tokens", "2048", "--n-draws", "2"])):
        out = tmp_path / f"{i}.npy"
        line = ["embed", str(run), str(folder / "other.h5ad"), "--out", str(out), "--quiet"]
        assert main([*line, *more]) == 0
        capsys.readouterr()
        line = ["evaluate", str(run), str(folder / "cells.h5ad"), "--labels-key", "cell_type"]
        assert main([*line, "--json", *more]) == 0
        found.append((np.load(out), capsys.readouterr().out))
    for latent, scores in found[1:]:
        np.testing.assert_array_equal(latent, found[0][0])
        assert scores == found[0][1]


def test_a_chunk_of_a_file_is_embedded_as_the_whole(folder, run, tmp_path):
    cells = anndata.read_h5ad(folder / "other.h5ad")
    cells[25:].copy().write_h5ad(tmp_path / "chunk.h5ad")
    found = []
    for source in (folder / "other.h5ad", tmp_path / "chunk.h5ad"):
        line = [
            "embed",
            str(run),
            str(source),
            "--out",
            str(tmp_path / "x.npy"),
            "--quiet",
            "--overwrite",
        ]
        assert main([*line, "--n-tokens", "10"]) == 0
        found.append(np.load(tmp_path / "x.npy"))
    np.testing.assert_allclose(found[1], found[0][25:], rtol=1e-5, atol=1e-6)


def test_cells_without_counts_of_known_genes_are_refused_or_kept(folder, tmp_path, capsys):
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    genes = cells.var_names[:30]
    (tmp_path / "genes.txt").write_text("\n".join(genes))
    run = tmp_path / "run"
    assert pretrain(folder, run, "--genes", str(tmp_path / "genes.txt"), "--max-epochs", "1") == 0
    dense = cells.X.toarray()
    dense[7, :30], dense[7, 40] = 0, 3
    cells.X = dense
    cells.write_h5ad(tmp_path / "silent.h5ad")
    name = cells.obs_names[7]
    for line in (
        ["embed", str(run), str(tmp_path / "silent.h5ad"), "--out", str(tmp_path / "x.h5ad")],
        ["evaluate", str(run), str(tmp_path / "silent.h5ad"), "--labels-key", "cell_type"],
    ):
        error = error_of(capsys, *line)
        assert "cells have no counts in the model's 30 genes, first" in error
        assert name in error
        assert "--keep-empty" in error
        assert main([*line, "--keep-empty"]) == 0
    assert np.isfinite(anndata.read_h5ad(tmp_path / "x.h5ad").obsm["X_txfm"]).all()


def test_the_file_says_how_it_was_embedded(folder, run, tmp_path):
    out = tmp_path / "out.h5ad"
    line = ["embed", str(run), str(folder / "other.h5ad"), "--out", str(out), "--quiet"]
    assert main([*line, "--n-tokens", "10", "--n-draws", "2", "--block", "1"]) == 0
    params = anndata.read_h5ad(out).uns["txfm"]["params"]
    assert (params["n_tokens"], params["n_draws"], params["block"]) == (10, 2, 1)


def test_evaluate_scores_other_cells(folder, run, capsys):
    line = ["evaluate", str(run), str(folder / "cells.h5ad"), "--labels-key", "cell_type"]
    assert main([*line, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["n_test"] == 40
    assert {row["label"] for row in scores["scores"]} == {"cell_type"}
    assert "--labels-key" in error_of(capsys, *line[:3])


def test_evaluate_takes_cells_with_fewer_genes_where_allowed(folder, run, tmp_path, capsys):
    some = anndata.read_h5ad(folder / "cells.h5ad")
    some[:, : some.n_vars // 2].copy().write_h5ad(tmp_path / "half.h5ad")
    pairs = [f"{a},{b}" for a, b in pairwise(some.var_names[: some.n_vars // 2])]
    (tmp_path / "pairs.txt").write_text("\n".join(["entity1,entity2", *pairs]))
    for what in (
        ["--labels-key", "cell_type"],
        ["--relations", str(tmp_path / "pairs.txt")],
        ["--perturbation-key", "cell_type", "--control", some.obs["cell_type"].iloc[0]],
    ):
        line = ["evaluate", str(run), str(tmp_path / "half.h5ad"), *what]
        assert "at least 80% must match (--min-gene-overlap)" in error_of(capsys, *line)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the genes that are missing
            assert main([*line, "--min-gene-overlap", "0.4"]) == 0


def test_evaluate_refuses_options_without_effect(folder, run, tmp_path, capsys):
    line = ["evaluate", str(run), str(folder / "cells.h5ad")]
    (tmp_path / "pairs.txt").write_text("entity1,entity2\n")
    pairs = ["--relations", str(tmp_path / "pairs.txt")]
    labels = ["--labels-key", "cell_type"]
    cases = [
        (
            [*labels, "--predictions", "x.csv", "--label", "a=b"],
            "which does not take --label, --predict",
        ),
        ([*pairs, "--metrics", "mlp", "--blocks", "1"], "or leave out --metrics, --blocks"),
        ([*pairs, "--batch-key", "batch"], "or leave out --batch-key"),
        ([*labels, "--control", "none"], "give --perturbation-key, or leave out --control"),
        ([*labels, "--n-components", "8"], "give --relations, or leave out --n-components"),
        ([*labels, "--threads", "0"], "at least 1 is needed"),
    ]
    for more, message in cases:
        assert message in error_of(capsys, *line, *more), more


def test_what_cannot_be_used_is_named(folder, run, tmp_path, capsys):
    cells, other = str(folder / "cells.h5ad"), str(folder / "other.h5ad")
    out = str(tmp_path / "x")
    cases = [
        (["embed", str(run), other, "--out", f"{out}.txt"], "must end in .h5ad, .csv or .npy"),
        (["embed", str(run), other, "--out", other], "is the data file"),
        (["embed", str(tmp_path), other, "--out", f"{out}.npy"], "manifest.json"),
        (["embed", str(run), other, "--out", f"{out}/y.npy"], "there is no directory"),
        *(
            (["embed", str(run), other, "--out", f"{out}.npy", option, value], f"is {value}: ")
            for option, value in (
                ("--batch-size", "0"),
                ("--batch-size", "-1"),
                ("--n-draws", "0"),
                ("--n-tokens", "0"),
                ("--n-tokens", "-4"),
                ("--block", "3"),
            )
        ),
        (["pretrain", cells, "--out", out, "--threads", "0"], "at least 1 is needed"),
        (["pretrain", cells, "--out", out, "--n-tokens", "60"], "none would be masked"),
        (["pretrain", cells, "--out", out, "--labels-key", "celltype"], "cell_type"),
    ]
    for line, message in cases:
        assert message in error_of(capsys, *line), line
    (tmp_path / "bad.json").write_text('{"n_token": 3}')
    line = ["pretrain", cells, "--out", out, "--config", str(tmp_path / "bad.json")]
    assert "n_tokens" in error_of(capsys, *line)
    numbers = ["pretrain", cells, "--out", out, "--labels-key", "age"]
    said = error_of(capsys, *numbers)
    assert (
        "none of the labels is categorical (['age'] are numbers): name a column of classes with"
        in said
    )
    assert "--labels-key" in said
    assert not any((tmp_path / "x").glob("*")), "refused before the training"


@pytest.mark.usefixtures("unreported")
def test_the_config_of_another_run_is_taken(folder, run, tmp_path):
    line = ["pretrain", str(folder / "cells.h5ad"), "--quiet", "--out", str(tmp_path / "again")]
    assert main([*line, "--config", str(run / "config.json"), "--max-epochs", "1"]) == 0
    assert CellEncoder.load(tmp_path / "again").config == CellEncoder.load(run).config
    config = json.loads((tmp_path / "again" / "config.json").read_text())["config"]
    assert config["train"]["max_epochs"] == 1
    assert config["train"]["batch_size"] == 32


def test_scores_of_a_large_vocabulary_reveal_some_genes_only(
    folder, tmp_path, monkeypatch, unreported
):
    from kernomics.workflows import pretrain as pretraining

    asked = []
    score = pretraining.compare_representations

    def noting(*args, n_tokens, **options):
        asked.append(n_tokens)
        return score(*args, n_tokens=n_tokens, **options)

    monkeypatch.setattr(pretraining, "compare_representations", noting)
    assert pretrain(folder, tmp_path / "small") == 0
    monkeypatch.setattr(pretraining, "MOST_TOKENS", 20)
    assert pretrain(folder, tmp_path / "large") == 0
    assert asked == [None, 20]


@pytest.mark.usefixtures("unreported")
def test_loss_and_activation_come_from_the_file_of_settings(folder, tmp_path, capsys):
    settings = {**SETTINGS, "loss": "zinb", "activation": "softmax"}
    (tmp_path / "zinb.json").write_text(json.dumps(settings))
    config = ["--config", str(tmp_path / "zinb.json")]
    assert pretrain(folder, tmp_path / "run", *config) == 0
    model = CellEncoder.load(tmp_path / "run")
    assert (model.config.loss, model.config.phi) == ("zinb", "softmax")
    assert model.module.dropout.weight.shape == (len(model.genes), 16)
    (tmp_path / "zinb.json").write_text(json.dumps({**settings, "activation": "relu"}))
    capsys.readouterr()
    assert pretrain(folder, tmp_path / "other", *config) == 2
    assert "set activation to 'softplus'" in capsys.readouterr().err
