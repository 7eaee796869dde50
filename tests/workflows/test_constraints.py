"""Constraints on a selection, as given to the command, to `tl` and to a run."""

import json
import re
import warnings
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest

import kernomics as kn
from kernomics import datasets
from kernomics.cli import main
from kernomics.cli.constraints import excluded
from kernomics.models import YOTO, Panel
from kernomics.train import RunDirectory
from kernomics.workflows.select import run_config

SHORT = {"max_epochs": 2, "progress": False}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Leave the pictures out, and the remarks on two epochs of training."""
    monkeypatch.setattr("kernomics.workflows.select.write_plots", lambda *_: None)
    monkeypatch.setattr("kernomics.workflows.select.write_report", lambda path, data: path.touch())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kn.models.yoto.diagnostics.TrainingWarning)
        yield


@pytest.fixture
def adata():
    adata = datasets.simulate(200, 40, 2, 4, seed=1)
    adata.var_names = ["MT-CO1", "RPS3", *adata.var_names[2:]]
    adata.var["price"] = np.where(np.arange(40) % 2, 5.0, 1.0)
    return adata


@pytest.fixture
def line(adata, tmp_path):
    """Return the command for some further options."""
    adata.write_h5ad(tmp_path / "cells.h5ad")

    def command(out, *more):
        return [
            "select", str(tmp_path / "cells.h5ad"), "--labels-key", "cell_type", "--n-genes", "6",
            "--max-epochs", "2", "--batch-size", "64", "--compare", "--quiet",
            "--out", str(tmp_path / out), *more,
        ]  # fmt: skip

    return command


def panel_of(path):
    return set(pd.read_csv(path / "panel.csv")["gene"])


def test_command_keeps_to_rules_and_budget_and_says_so(line, adata, tmp_path, capsys):
    rules = ["--exclude", "mitochondrial", "gene_1", "--max-detection", "0.99"]
    rules += ["--gene-costs", "price", "--budget", "10"]
    assert main(line("run", *rules)) == 0
    text = capsys.readouterr().out
    assert "1 match 'mitochondrial', 10 match 'gene_1'" in text
    panel = panel_of(tmp_path / "run")
    assert len(panel) == 6
    assert not [gene for gene in panel if gene.startswith(("MT-", "gene_1"))]
    total = adata.var["price"][list(panel)].sum()
    assert total <= 10
    assert f"costs      {total:g} of 10" in text
    constraints = RunDirectory.open(tmp_path / "run").config["constraints"]
    assert constraints["exclude_patterns"] == ["mitochondrial", "gene_1"]
    assert constraints["budget"] == 10
    assert Panel.load(tmp_path / "run").info["costs"]["total"] == total


def test_command_extends_and_starts_from_a_run(line, tmp_path, capsys):
    assert main(line("first")) == 0
    first = panel_of(tmp_path / "first")
    table = str(tmp_path / "first" / "panel.csv")
    assert main(line("extended", "--extend", table, "--n-genes", "9")) == 0
    assert first < panel_of(tmp_path / "extended")
    assert main(line("again", "--start-from", str(tmp_path / "first"))) == 0
    assert panel_of(tmp_path / "again") == first
    assert capsys.readouterr().err == ""


def test_command_keeps_markers_and_names_genes_that_are_everywhere(line, adata, tmp_path, capsys):
    x = adata.X.toarray()
    x[:, 7] += 5
    x[:2, 7] = 0  # 2 of about 70 training cells of a type at most
    adata.X = x
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert main(line("run", "--force", "gene_7", "--n-markers-per-class", "2")) == 0
    text = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "run" / "panel.csv", index_col="gene")
    everywhere = table.index[table["detected_everywhere"]].tolist()
    counts = adata.to_df()
    split = json.loads((tmp_path / "run" / "split.json").read_text())["train"]
    of_type = (
        (counts[table.index] > 0)
        .iloc[split]
        .groupby(adata.obs["cell_type"].iloc[split], observed=True)
    )
    assert everywhere == [g for g in table.index if (of_type.mean()[g] >= 0.95).all()]
    assert "gene_7" in everywhere
    said = f"everywhere {', '.join(everywhere)}: detected in nearly every cell of every class"
    assert said in text
    assert "--max-detection 0.95 leaves them out" in text
    kept = table["marker_for"].dropna()
    assert sorted(kept) == ["type_0", "type_0", "type_1", "type_1"]
    assert set(adata.var.loc[kept.index, "marker_of"]) == {"type_0", "type_1"}
    assert (adata.var.loc[kept.index, "marker_of"] == kept).all()
    said = ", ".join(f"{gene} ({name})" for gene, name in kept.items())
    assert f"markers    {said}\n" in text
    assert set(Panel.load(tmp_path / "run").info["markers"]) == set(kept.index)


def test_table_has_no_column_of_markers_that_nobody_asked_for(line, tmp_path, capsys):
    assert main(line("run", "--max-detection", "0.9")) == 0
    table = pd.read_csv(tmp_path / "run" / "panel.csv")
    assert "marker_for" not in table
    assert not table["detected_everywhere"].any()
    assert not re.search("everywhere|markers ", capsys.readouterr().out)


def test_costs_of_a_file_are_those_of_the_column(line, adata, tmp_path):
    table = adata.var["price"].rename_axis("gene").rename("cost")
    table.to_csv(tmp_path / "costs.csv")
    for out, costs in (("file", str(tmp_path / "costs.csv")), ("column", "price")):
        assert main(line(out, "--gene-costs", costs, "--budget", "10")) == 0
    configs = [RunDirectory.open(tmp_path / out).config for out in ("file", "column")]
    assert configs[0] == configs[1]
    assert panel_of(tmp_path / "file") == panel_of(tmp_path / "column")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gene-costs", "price"], "budget is missing"),
        (["--gene-costs", "prize", "--budget", "9"], "closest: 'price'"),
        (["--gene-costs", "none.csv", "--budget", "9"], "none.csv"),
        (["--gene-costs", "price", "--budget", "5"], "cheapest 6 usable genes cost 6"),
        (["--min-detection", "2"], "--min-detection is 2"),
        (["--exclude", "."], "--n-genes = 6 but only 0 of 40 genes are usable"),
        (["--extend", "nowhere"], "extend is 'nowhere', and there is no such file"),
    ],
)
def test_command_refuses_in_one_line(line, capsys, options, message):
    assert main(line("run", *options)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


@pytest.mark.parametrize(
    "other",
    [
        {"exclude_patterns": "MT"},
        {"min_detection": 0.01},
        {"max_detection": 0.95},
        {"gene_costs": "price", "budget": 31},
        {"gene_costs": dict.fromkeys(["MT-CO1", "RPS3"], 1.0), "budget": 30},
        {"start_from": ["gene_4"]},
        {"n_markers_per_class": 0, "max_detection": 0.9},
    ],
)
def test_run_with_other_constraints_is_another_run(adata, other):
    costs = other.get("gene_costs")
    if isinstance(costs, dict):
        costs.update(dict.fromkeys(adata.var_names[2:], 5.0))
    base = {"gene_costs": "price", "budget": 30} if costs else {}
    configs = [
        run_config(YOTO(adata, "cell_type", 6, **options), "cells", []) for options in (base, other)
    ]
    different = {name for name in configs[0] if configs[0][name] != configs[1][name]}
    assert different == {"constraints"}


def test_tl_records_constraints_that_a_file_can_hold(adata, tmp_path):
    options = {"gene_costs": "price", "budget": 12.0, "exclude_patterns": ["mitochondrial"]}
    kn.tl.select_genes(adata, "cell_type", 6, start_from=["gene_9"], **options, **SHORT)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    params = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["yoto"]["params"]
    assert params["budget"] == 12
    assert params["exclude_patterns"].tolist() == ["mitochondrial"]
    assert {"gene_costs_sha256", "start_from_sha256"} <= set(params)
    kn.tl.select_genes(adata, "cell_type", 6, **SHORT)
    assert "budget" not in adata.uns["yoto"]["params"]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"are forbidden": 0, "are rare": 0}, []),
        ({"are forbidden": 0, "are rare": 0, "match 'MT'": 2}, ["8 of 10 genes: 2 match 'MT'"]),
        ({"are forbidden": 0, "are rare": 0, "match 'MT'": 0}, ["8 of 10 genes"]),
    ],
)
def test_rules_that_leave_out_no_gene_are_not_told(rules, told):
    model = SimpleNamespace(
        bounds=SimpleNamespace(usable=8, excluded=rules), cells=SimpleNamespace(n_genes=10)
    )
    assert excluded(model) == [f"usable     {line}" for line in told]
