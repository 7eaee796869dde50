"""`kernomics panel`: what it reads, prints, writes and refuses."""

import json

import pandas as pd
import pytest

from kernomics import datasets
from kernomics.cli import main
from kernomics.cli.panel import read_gene_list
from kernomics.data import CellCollection, make_split
from kernomics.errors import DataError
from kernomics.evaluation import panels

pytest.importorskip("sklearn")

GENES = ["gene_0", "gene_5", "gene_10", "gene_1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    adata = datasets.simulate(300, 40, 3, 5, seed=4)
    adata.obs["age"] = [20.5 + i % 40 for i in range(300)]
    adata.write_h5ad(path)
    return path


def ask(data, *more, genes=GENES, labels=("cell_type",)):
    return ["panel", str(data), "--genes", *genes, "--labels-key", *labels, *more]


@pytest.fixture(scope="module")
def expected(data):
    cells = CellCollection.from_anndata(data, labels_key="cell_type")
    split = make_split(300, how="stratified", labels=cells.labels["cell_type"])
    evaluation = panels.evaluate_panel(cells, GENES, split)
    return evaluation, panels.redundancy(cells, GENES, split.train, threshold=0.1)


def test_the_table_has_scores_classes_groups_and_substitutes(data, expected, capsys):
    evaluation, redundancy = expected
    assert main(ask(data, "--threshold", "0.1", "--random", "2")) == 0
    text = capsys.readouterr().out
    assert "cells      300   genes 40   cells.h5ad" in text
    assert "split      stratified by cell_type: 210 to train, 60 held out" in text
    assert "panel      4 genes: gene_0, gene_5, gene_10, gene_1" in text
    rows = {line[:45].strip(): line[45:].split() for line in text.splitlines()}
    scores = evaluation.scores["cell_type"]
    assert rows["held out   cell_type"] == ["accuracy", "macro-F1", "AUPRC"]
    assert rows["the panel, logistic regression"] == [f"{value:.3f}" for value in scores.values()]
    assert len(rows["random, logistic regression, mean"]) == 3
    assert len(rows["standard deviation of 2 panels"]) == 3
    for name, row in evaluation.per_class["cell_type"].iterrows():
        assert rows[name] == [f"{row['f1']:.3f}", f"{row['n_train']:g}", f"{row['n_test']:g}"]
    for group in redundancy.groups:
        assert f"           {', '.join(group)}\n" in text
    best = redundancy.substitutes.iloc[0]
    assert f"           gene_0         {best['substitute']} {best['correlation']:+.2f}" in text
    assert "missing" not in text


def test_json_and_files_hold_the_same(data, expected, tmp_path, capsys):
    evaluation, redundancy = expected
    out = tmp_path / "new" / "folder"
    assert main(ask(data, "--json", "--out", str(out), "--threshold", "0.1")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "evaluation.json").read_text())
    assert printed["scores"] == evaluation.scores
    assert printed["genes"] == GENES
    assert printed["redundancy"]["groups"] == redundancy.groups
    table = pd.read_csv(out / "per_class-cell_type.csv", index_col="class")
    f1 = evaluation.per_class["cell_type"]["f1"]
    assert table["f1"].tolist() == pytest.approx(f1.tolist(), rel=1e-5)
    correlation = pd.read_csv(out / "correlation.csv", index_col="gene")
    assert correlation.loc["gene_0", "gene_1"] == pytest.approx(
        redundancy.correlation.loc["gene_0", "gene_1"], rel=1e-5
    )
    substitutes = pd.read_csv(out / "substitutes.csv")
    assert substitutes["substitute"].tolist() == redundancy.substitutes["substitute"].tolist()


def test_an_evaluation_is_replaced_only_when_asked(data, tmp_path, capsys):
    command = ask(data, "--out", str(tmp_path), genes=["gene_0"])
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(command) == 0
    assert f"written    {tmp_path}" in capsys.readouterr().out
    assert main(command) == 2
    assert "already holds an evaluation; choose another --out" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_missing_genes_stop_the_command_unless_allowed(data, capsys):
    command = ask(data, genes=["gene_0", "gene_99", "GENE_5"])
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "2 of 3 genes are not in the data: 'gene_99' (closest: 'gene_9'" in error
    assert "--allow-missing" in error
    assert main([*command, "--allow-missing"]) == 0
    text = capsys.readouterr().out
    assert "panel      1 genes: gene_0\n" in text
    assert "missing    2 of 3 genes are not in the data: 'gene_99' (closest: 'gene_9'" in text
    assert "'GENE_5' (closest: 'gene_5')" in text


def test_a_number_is_scored_by_ridge_regression(data, capsys):
    assert main(ask(data, labels=["age"])) == 0
    text = capsys.readouterr().out
    assert "split      random: 210 to train, 60 held out" in text
    assert "the panel, ridge regression" in text
    assert "R²" in text
    assert "classes" not in text


# -- lists of genes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("genes.txt", "# ours\nCD3D\n\n  MS4A1  \nLYZ # monocytes\n"),
        ("genes", "CD3D\nMS4A1\nLYZ"),
        ("genes.txt", "\ufeffCD3D\r\nMS4A1\r\nLYZ\r\n"),
        ("panel.csv", "rank,gene,score\n1,CD3D,2\n2,MS4A1,1\n3,LYZ,0\n"),
        ("panel.tsv", "name\tscore\nCD3D\t2\nMS4A1\t1\nLYZ\t0\n"),
    ],
)
def test_lists_of_genes_are_read(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_gene_list([str(tmp_path / name)]) == ["CD3D", "MS4A1", "LYZ"]


def test_names_are_taken_as_they_are():
    assert read_gene_list(["CD3D"]) == ["CD3D"]
    assert read_gene_list(["CD3D", "genes.txt"]) == ["CD3D", "genes.txt"]


def test_a_file_that_is_no_list_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is no gene list .*nowhere\.txt"):
        read_gene_list([str(tmp_path / "nowhere.txt")])
    (tmp_path / "empty.txt").write_text("# nothing yet\n")
    with pytest.raises(DataError, match=r"empty\.txt lists no genes"):
        read_gene_list([str(tmp_path / "empty.txt")])
    (tmp_path / "table.csv").write_text("")
    with pytest.raises(DataError, match=r"table\.csv cannot be read as a list of genes"):
        read_gene_list([str(tmp_path / "table.csv")])
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff")
    with pytest.raises(DataError, match=r"picture\.txt cannot be read as a list of genes"):
        read_gene_list([str(tmp_path / "picture.txt")])
