"""`kernomics evaluate` and `embed` of a PolyGene, from files to files."""

import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest
from attribution_example import cells

pytest.importorskip("matplotlib")

from kernomics.cli import main
from kernomics.models import PhenotypeModel, PolyGene

SETTINGS = {"d_model": 16, "n_layers": 1, "n_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("phenotypes")
    model = PolyGene(cells(), ["state", "cell_type"], **SETTINGS)
    model.train(4, progress=False).save(path / "model")
    other = cells(60, seed=9)
    other.write_h5ad(path / "other.h5ad")
    other.obs = other.obs.rename(columns={"state": "diagnosis"}).drop(columns="cell_type")
    other.write_h5ad(path / "renamed.h5ad")
    other.obs = other.obs[[]]
    other.write_h5ad(path / "bare.h5ad")
    return path


def evaluated(capsys, folder, *more, data="other.h5ad"):
    capsys.readouterr()
    assert main(["evaluate", str(folder / "model"), str(folder / data), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def error_of(capsys, *line):
    capsys.readouterr()
    assert main([str(part) for part in line]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("more", [{}, {"given": "cell_type"}, {"given": "rest"}, {"n_tokens": 5}])
def test_scores_are_those_of_the_model(folder, capsys, more):
    line = [part for name, v in more.items() for part in ("--" + name.replace("_", "-"), str(v))]
    found = evaluated(capsys, folder, *line)
    expected = PhenotypeModel.load(folder / "model").evaluate(folder / "other.h5ad", **more)
    names = ["state"] if more.get("given") == "cell_type" else ["state", "cell_type"]
    assert list(found) == list(expected) == names
    for name in names:
        for metric, value in expected[name].items():
            assert found[name][metric] == pytest.approx(value, abs=1e-6)
        assert found[name]["n_cells"] == np.sum(found[name]["confusion"]) == 60
        counts = np.sum(found[name]["confusion"], axis=1)
        assert found[name]["majority_share"] == pytest.approx(counts.max() / 60)
        assert found[name]["majority"] == found[name]["classes"][counts.argmax()]


def test_a_run_is_printed_with_what_its_predictions_are_made_from(folder, capsys, tmp_path):
    line = ["evaluate", str(folder / "model"), str(folder / "other.h5ad")]
    assert main([*line, "--predictions", str(tmp_path / "table.csv")]) == 0
    printed = capsys.readouterr().out
    scores = evaluated(capsys, folder)
    assert "scored     from the genes alone" in printed
    row = next(text for text in printed.splitlines() if text.strip().startswith("state, 60 cells"))
    wanted = ("balanced_accuracy", "accuracy", "macro_f1", "auprc", "majority_share")
    assert row.split()[-5:] == [f"{scores['state'][name]:.3f}" for name in wanted]
    table = pd.read_csv(tmp_path / "table.csv", index_col=0)
    expected = PhenotypeModel.load(folder / "model").predict(folder / "other.h5ad")
    pd.testing.assert_frame_equal(
        table, expected.astype({"state": str, "cell_type": str}), check_dtype=False, rtol=1e-5
    )
    assert main([*line, "--given", "cell_type", "--target", "state"]) == 0
    assert "scored     from the genes and cell_type" in capsys.readouterr().out


def test_a_phenotype_may_stand_in_another_column(folder, capsys):
    found = evaluated(capsys, folder, "--label", "state=diagnosis", data="renamed.h5ad")
    assert list(found) == ["state"]
    assert found["state"] == evaluated(capsys, folder)["state"]
    shown = ["--target", "cell_type", "--given", "state", "--label", "state=diagnosis"]
    said = error_of(
        capsys, "evaluate", folder / "model", folder / "renamed.h5ad", *shown
    )  # whose cell types nobody knows
    assert "obs has no column 'cell_type'" in said


@pytest.mark.filterwarnings("default")  # as in a terminal
def test_cells_without_phenotypes_are_predicted_and_not_scored(folder, capsys, tmp_path):
    line = ["evaluate", str(folder / "model"), str(folder / "bare.h5ad")]
    assert main([*line, "--predictions", str(tmp_path / "table.csv")]) == 0
    assert "predictions are written, but not scored" in capsys.readouterr().err
    assert list(pd.read_csv(tmp_path / "table.csv", index_col=0))[:2] == [
        "state", "state_probability",
    ]  # fmt: skip
    said = error_of(capsys, *line)
    assert "obs has none of the model's phenotypes ['state', 'cell_type']" in said
    assert "--label" in said


@pytest.mark.filterwarnings("default")
def test_a_phenotype_without_values_is_told_and_all_of_them_are_an_error(folder, capsys, tmp_path):
    adata = anndata.read_h5ad(folder / "other.h5ad")
    adata.obs["cell_type"] = pd.Categorical([None] * adata.n_obs)
    adata.write_h5ad(tmp_path / "half.h5ad")
    line = ["evaluate", str(folder / "model"), str(tmp_path / "half.h5ad")]
    assert main([*line, "--json"]) == 0
    told = capsys.readouterr()
    assert list(json.loads(told.out)) == ["state"]
    assert "no cell has a value of 'cell_type': predicted, but not scored" in told.err
    said = error_of(capsys, *line, "--target", "cell_type")
    assert "none of the 60 cells has a value of 'cell_type': nothing can be scored" in said


def test_a_report_of_the_scores_is_written_where_asked(folder, capsys, tmp_path):
    line = ["evaluate", str(folder / "model"), str(folder / "other.h5ad"), "--given", "rest"]
    assert main([*line, "--report", str(tmp_path / "report.html")]) == 0
    assert "report     " in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "predicted on cells from the genes and all other phenotypes" in page
    assert "the commonest value of these cells" in page
    assert "held-out" not in page
    assert 'id="training"' not in page


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--labels-key", "state"], "A PolyGene knows its phenotypes: leave the option out"),
        (["--allow-missing"], "is a PolyGene, which does not take --allow-missing"),
        (["--metrics", "top"], "is a PolyGene, which does not take --metrics"),
        (["--label", "state"], "write PHENOTYPE=COLUMN"),
        (["--label", "stat=state"], "no phenotype 'stat'; closest: 'state'"),
        (["--target", "stat"], "no phenotype 'stat'; closest: 'state'"),
        (["--given", "stat"], "no phenotype 'stat'; closest: 'state'"),
        (["--target", "state", "--given", "state"], "which is to be predicted"),
        (["--given", "state", "cell_type"], "nothing is left to predict"),
    ],
)
def test_what_a_polygene_does_not_take_is_refused(folder, capsys, more, said):
    line = ["evaluate", folder / "model", folder / "other.h5ad", *more]
    assert said in error_of(capsys, *line)


# -- embed -----------------------------------------------------------------------------------------


def test_an_embedding_goes_into_a_copy_of_the_data(folder, tmp_path):
    out = tmp_path / "out.h5ad"
    line = ["embed", str(folder / "model"), str(folder / "other.h5ad"), "--quiet"]
    assert main([*line, "--n-tokens", "10", "--out", str(out)]) == 0
    found, model = anndata.read_h5ad(out), PhenotypeModel.load(folder / "model")
    expected = model.get_latent_representation(folder / "other.h5ad", n_tokens=10)
    np.testing.assert_allclose(found.obsm["X_polygene"], expected, rtol=1e-5, atol=1e-6)
    at = found.var_names.get_indexer(model.genes)
    np.testing.assert_array_equal(found.varm["polygene_genes"][at], model.get_gene_embeddings())
    params = found.uns["polygene"]["params"]
    assert params["n_tokens"] == 10
    assert "n_draws" not in params


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_an_embedding_as_a_table_or_an_array(folder, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    line = ["embed", str(folder / "model"), str(folder / "other.h5ad"), "--quiet"]
    assert main([*line, "--out", str(out)]) == 0
    expected = PhenotypeModel.load(folder / "model").get_latent_representation(
        folder / "other.h5ad"
    )
    found = np.load(out) if suffix == ".npy" else pd.read_csv(out, index_col=0)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-5, atol=1e-6)
    if suffix == ".csv":
        assert list(found)[:2] == ["polygene_0", "polygene_1"]


def test_what_embedding_a_polygene_does_not_take_is_refused(folder, capsys, tmp_path):
    line = ["embed", folder / "model", folder / "other.h5ad", "--out", tmp_path / "x.npy"]
    said = error_of(capsys, *line, "--block", "1", "--n-draws", "2")
    assert "is a PolyGene, which does not take --n-draws, --block" in said
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.filterwarnings("default")
def test_cells_of_the_training_are_told_from_new_ones(folder, capsys, tmp_path):
    line = ["pretrain", "--model", "polygene", str(folder / "other.h5ad"), "--labels-key", "state"]
    line += ["--out", str(tmp_path / "run"), "--quiet", "--max-epochs", "1", "--n-tokens", "8"]
    assert main(line) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), str(folder / "other.h5ad"), "--json"]) == 0
    assert re.search(r"trained on \d+ of these 60 cells", capsys.readouterr().err)
    cells(60, seed=10).write_h5ad(tmp_path / "new.h5ad")
    assert main(["evaluate", str(tmp_path / "run"), str(tmp_path / "new.h5ad"), "--json"]) == 0
    assert "trained on" not in capsys.readouterr().err
