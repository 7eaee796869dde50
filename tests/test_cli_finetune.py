"""`kernomics finetune`, from files to files; and what `pretrain` and `embed` say of bad input."""

import json

import numpy as np
import pytest

from kernomics import datasets
from kernomics.cli import main
from kernomics.models import CellEncoder

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

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


def test_the_run_says_what_it_came_from(model, tuned):
    encoder = CellEncoder.load(tuned)
    origin = encoder.info["fine_tuned_from"]
    assert origin["genes"] == {"kept": 45, "new": 10, "dropped": 5}
    assert len(encoder.genes) == 55
    assert encoder.config == CellEncoder.load(model).config
    config = json.loads((tuned / "config.json").read_text())["config"]
    assert config["fine_tuned_from"] == origin
    assert config["train"]["learning_rate"] == 1e-4
    before = json.loads((model / "config.json").read_text())["config"]["train"]
    assert config["train"]["weight_decay"] == before["weight_decay"]


def test_genes_kept_new_and_absent_are_printed(folder, model, tmp_path, capsys):
    assert main(finetune(folder, model, tmp_path / "run", "--known-genes-only")) == 0
    printed = capsys.readouterr().out
    assert f"from       {model}: 45 genes kept, 0 new, 5 not in the data" in printed
    assert "genes 45" in printed
    assert len(CellEncoder.load(tmp_path / "run").genes) == 45


def test_a_run_continues_with_its_own_model_alone(folder, model, tuned, tmp_path, capsys):
    line = finetune(folder, model, tuned, "--labels-key", "cell_type")
    before = (tuned / "model" / "model.safetensors").read_bytes()
    assert main([*line, "--resume"]) == 0
    assert (tuned / "model" / "model.safetensors").read_bytes() == before
    assert "already holds a run" in error_of(capsys, line)
    another = ["finetune", str(tuned), *line[2:], "--resume"]
    another[another.index("--out") + 1] = str(tmp_path / "second")
    assert main(another) == 0
    other_model = [*line, "--resume"]
    other_model[1] = str(tmp_path / "second")
    assert "fine_tuned_from.sha256 was" in error_of(capsys, other_model)


def test_the_model_given_stays_as_it_is(folder, model, capsys):
    before = (model / "model" / "model.safetensors").read_bytes()
    for out in (model, model / "model"):
        line = finetune(folder, model / "model", out, "--overwrite")
        assert "where the model lies: choose another directory" in error_of(capsys, line)
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
        (["finetune", str(model), ensembl, "--out", out], "set adata.var_names to gene symbols"),
        (["finetune", str(tmp_path / "no"), ensembl, "--out", out], "there is no saved model"),
        (["finetune", str(model), str(tmp_path / "no.h5ad"), "--out", out], "there is no file"),
        ([*line, "--n-tokens", "55"], "none would be masked"),
        ([*line, "--min-gene-overlap", "0.95"], "95% of the fewer of the two (--min-gene-overlap)"),
        ([*line, "--device", "gpu"], "device 'gpu' does not exist"),
        ([*line, "--threads", "0"], "--threads is 0"),
    ]
    for given, message in cases:
        assert message in error_of(capsys, given), given
    (tmp_path / "wide.json").write_text('{"d_model": 32}')
    message = error_of(capsys, [*line, "--config", str(tmp_path / "wide.json")])
    assert "d_model is 32, and the model was trained with 16" in message
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
