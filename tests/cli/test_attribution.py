"""`kernomics pretrain --model polygene`, `attribute` and `prune`, from files to files."""

import argparse
import inspect
import json

import numpy as np
import pandas as pd
import pytest
from attribution_example import cells

pytest.importorskip("matplotlib")
pytest.importorskip("scanpy")

from kernomics.attribution import attribute, prune
from kernomics.cli import main
from kernomics.cli.main import parser
from kernomics.models import PhenotypeModel
from kernomics.workflows.attribute import read_attribution

SETTINGS = {"d_model": 16, "n_layers": 1, "n_heads": 2, "label_smoothing": 0.0}
QUESTION = ["--target", "state", "--case", "ill", "--baseline", "well"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("polygene")
    adata = cells()
    adata.write_h5ad(path / "cells.h5ad")
    cells(60, seed=9).write_h5ad(path / "other.h5ad")
    (path / "settings.json").write_text(json.dumps(SETTINGS))
    (path / "genes.gmt").write_text("raised\t-\t" + "\t".join(adata.var_names[::6]) + "\n")
    line = ["pretrain", str(path / "cells.h5ad"), "--model", "polygene", "--quiet"]
    line += ["--labels-key", "state", "cell_type", "--config", str(path / "settings.json")]
    line += ["--task-weights", "state=2", "--n-tokens", "20", "--max-epochs", "2"]
    assert main([*line, "--out", str(path / "run")]) == 0
    return path


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the pictures out."""
    for name in ("attribute", "prune"):
        home = f"kernomics.workflows.{name}"
        monkeypatch.setattr(
            f"{home}.write_{ {'attribute': 'attribution', 'prune': 'pruning'}[name] }_report",
            lambda path, data: path.touch(),
        )
    monkeypatch.setattr("kernomics.workflows.attribute.draw", lambda *_: None)


def attribution(folder, out, *more, data="cells.h5ad"):
    line = ["attribute", str(folder / "run"), str(folder / data), *QUESTION]
    return main([*line, "--n-pairs", "20", "--quiet", "--out", str(out), *more])


@pytest.fixture(scope="module")
def attributed(folder):
    more = ["--controlled", "cell_type", "--truth", str(folder / "genes.gmt")]
    assert attribution(folder, folder / "attributed", *more) == 0
    return folder / "attributed"


def error_of(capsys, *line):
    capsys.readouterr()
    assert main(list(line)) == 2
    return capsys.readouterr().err


def test_a_run_holds_the_model_and_the_scores_of_its_phenotypes(folder):
    model = PhenotypeModel.load(folder / "run")
    assert [task.name for task in model.tasks] == ["state", "cell_type"]
    assert [task.weight for task in model.tasks] == [2.0, 1.0]
    assert model.config.n_tokens == 20
    split = json.loads((folder / "run" / "split.json").read_text())
    assert [len(split[part]) for part in ("train", "validation", "test")] == [168, 24, 48]
    scores = json.loads((folder / "run" / "results.json").read_text())["phenotypes"]
    assert scores["state"]["n_cells"] == 48
    assert "report.html" in {path.name for path in (folder / "run").iterdir()}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model", "polygene"], "learns phenotypes: name obs columns with --labels-key"),
        (["--model", "polygene", "--labels-key", "state", "--size", "L"], "are XXS, XS, S and B"),
        (["--model", "polygene", "--labels-key", "state", "--score-epochs"], "is about TxFM"),
        (["--task-weights", "state=2"], "is about --model polygene"),
    ],
)
def test_options_of_the_other_model_are_refused(folder, tmp_path, capsys, more, said):
    line = ["pretrain", str(folder / "cells.h5ad"), "--out", str(tmp_path / "run"), *more]
    assert said in error_of(capsys, *line)
    assert not (tmp_path / "run").exists()


def test_an_attribution_of_the_run_s_data_is_of_its_training_cells(folder, attributed):
    table = pd.read_csv(attributed / "attribution.csv", index_col=0)
    split = json.loads((folder / "run" / "split.json").read_text())
    found = attribute(
        folder / "cells.h5ad", folder / "run", target="state", case="ill", baseline="well",
        controlled="cell_type", n_pairs=20, rows=np.array(split["train"]),
    )  # fmt: skip
    pd.testing.assert_frame_equal(table, found.table, check_names=False, check_exact=False)
    groups = pd.read_csv(attributed / "by_group.csv", index_col=0)
    assert list(groups) == ["type_0", "type_1"]
    results = json.loads((attributed / "results.json").read_text())
    assert results["cells"] == "the run's 168 training cells of 240: these cells are the run's"
    assert results["n_pairs"] == 20
    assert results["params"]["controlled"] == ["cell_type"]
    by = {row["ranking"]: row for row in results["truth"]}
    assert set(by) == {
        "effect", "forward", "absolute", "signed_by_change", "Wilcoxon (DE)", "DE within strata",
        "HVG", "random",
    }  # fmt: skip
    assert by["Wilcoxon (DE)"]["average_precision"] > 0.9
    tops = pd.read_csv(attributed / "top_genes.csv", index_col=0)
    assert tops["absolute"].tolist() == found.top(30).index.tolist()
    statistics = pd.read_csv(attributed / "gene_statistics.csv", index_col=0)
    assert list(statistics.index) == list(table.index)
    drawn = {path.name for path in (attributed / "plots").iterdir()}
    assert drawn == {"distributions.svg", "absolute.svg", "signed_by_change.svg", "groups.svg"}
    assert "raised: 5 genes of the set" in (attributed / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("ignore:the model hardly tells:UserWarning")
def test_other_data_are_taken_whole_and_so_are_all_cells_if_asked(folder, tmp_path, capsys):
    assert attribution(folder, tmp_path / "other", data="other.h5ad") == 0
    printed = capsys.readouterr().out
    assert "cells      all 60 cells: they are not the 240 cells of the run\n" in printed
    assert "pairs      20 of 20 case and 20 baseline cells, in 1 group\n" in printed
    assert "residual   of the difference in output, not explained: median" in printed
    assert "zeros      share of a pair's genes that score 0: forward" in printed
    assert printed.count("\n           gene_") == 15
    assert attribution(folder, tmp_path / "all", "--all-cells") == 0
    assert "cells      all 240 cells, as asked for\n" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_changed_counts_of_as_many_cells_are_not_taken_for_the_run_s(folder, tmp_path, capsys):
    changed = cells()
    changed.X[0, 0] += 1
    changed.write_h5ad(folder / "changed.h5ad")
    assert attribution(folder, tmp_path / "out", data="changed.h5ad") == 0
    printed = capsys.readouterr().out
    assert "cells      all 240 cells: there are as many as in" in printed
    assert "but their counts, names or labels differ" in printed


def test_results_are_not_written_over_unless_asked(folder, attributed, capsys):
    line = ["attribute", str(folder / "run"), str(folder / "cells.h5ad"), *QUESTION]
    said = error_of(capsys, *line, "--out", str(attributed))
    assert "already holds a run" in said
    assert "--overwrite" in said
    said = error_of(capsys, "attribute", str(attributed), *line[2:], "--out", str(folder / "new"))
    assert "is what an attribution wrote, and holds no model" in said
    wrong = [*line[:-1], "healthy", "--out", str(folder / "new")]
    assert "a value of 'state' that the model was not trained on" in error_of(capsys, *wrong)
    assert not (folder / "new").exists()


def pruning(folder, attributed, out, *more, data="cells.h5ad"):
    line = ["prune", str(folder / "run"), str(folder / data), "--attribution", str(attributed)]
    line += ["--n-cells", "20", "--shares", "0", "0.5", "0.9", "--quiet"]
    return [*line, "--out", str(out), *more]


def test_a_pruning_is_of_held_out_cells_by_all_rankings(folder, attributed, tmp_path, capsys):
    assert main(pruning(folder, attributed, tmp_path / "pruned", "--retrain", "5")) == 0
    printed = capsys.readouterr().out
    assert "the run's 48 held-out test cells of 240: these cells are the run's\n" in printed
    assert "pruned on  ill: 10 cells, well: 10 cells\n" in printed
    assert "no genes   a cell without genes is called " in printed
    table = pd.read_csv(tmp_path / "pruned" / "pruning.csv")
    assert {"absolute", "|effect|", "DE", "DE within strata", "HVG", "random"} <= set(
        table["ranking"]
    )
    assert sorted(set(table["n_genes"])) == [3, 15, 30]
    results = json.loads((tmp_path / "pruned" / "results.json").read_text())
    assert [row["ranking"] for row in results["retrained"]] == [
        "absolute", "signed_by_change", "DE", "HVG", "random",
    ]  # fmt: skip
    assert results["n_cells"] == {"ill": 10, "well": 10}
    assert (tmp_path / "pruned" / "plots" / "pruning.svg").stat().st_size > 1000
    assert "Retrained on the top genes" in (tmp_path / "pruned" / "report.html").read_text()


OF_THE_COMMAND = {  # what the Python function has and a command says in another way
    "adata", "model", "rows", "rankings", "target", "case", "baseline", "progress", "reading",
}  # fmt: skip


@pytest.mark.parametrize(("command", "function"), [("attribute", attribute), ("prune", prune)])
def test_the_commands_have_the_options_of_their_functions(command, function):
    commands = next(x for x in parser()._actions if isinstance(x, argparse._SubParsersAction))
    defaults = {x.dest: x.default for x in commands.choices[command]._actions}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in OF_THE_COMMAND:
            continue
        default = parameter.default
        default = {"controlled": [], "shares": None}.get(name, default)
        assert defaults[name] == default, name


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("default")  # as in a terminal
def test_a_pruning_takes_data_that_lack_genes_if_told_and_one_order(
    folder, attributed, tmp_path, capsys
):
    cells()[:, 9:].copy().write_h5ad(tmp_path / "fewer.h5ad")
    line = pruning(folder, attributed, tmp_path / "pruned", data=tmp_path / "fewer.h5ad")
    assert "21 of the model's 30 genes" in error_of(capsys, *line)
    assert main([*line, "--min-gene-overlap", "0.6", "--no-reversed-too"]) == 0
    table = pd.read_csv(tmp_path / "pruned" / "pruning.csv")
    assert set(table["order"]) == {"lowest first"}
    config = json.loads((tmp_path / "pruned" / "config.json").read_text())["config"]
    assert config["min_gene_overlap"] == 0.6
    assert config["reversed_too"] is False


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("default")  # as in a terminal
def test_genes_whose_names_look_like_nothing_keep_them(tmp_path, capsys):
    names = ["NA", "NULL", "null", "n/a", "007", "1e5", "inf"]
    adata = cells()
    adata.var_names = [*names, *adata.var_names[len(names) :]]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "settings.json").write_text(json.dumps({**SETTINGS, "d_model": 8}))
    line = ["pretrain", str(tmp_path / "cells.h5ad"), "--model", "polygene", "--quiet"]
    line += ["--labels-key", "state", "--config", str(tmp_path / "settings.json")]
    line += ["--max-epochs", "1", "--out", str(tmp_path / "run")]
    assert main(line) == 0
    assert attribution(tmp_path, tmp_path / "found") == 0
    found, statistics, _ = read_attribution(tmp_path / "found")
    for table in (found.table, statistics):
        assert table.index.tolist() == adata.var_names.tolist()
    path = tmp_path / "found" / "attribution.csv"
    by_hand = pd.read_csv(path, converters={"gene": str}).set_index("gene")
    assert by_hand.index.tolist() == adata.var_names.tolist()  # as docs/attribution.md says
    assert main(pruning(tmp_path, tmp_path / "found", tmp_path / "pruned")) == 0


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("default")  # as in a terminal
def test_on_other_data_held_out_cells_are_not_known_and_nothing_is_retrained(
    folder, attributed, tmp_path, capsys
):
    assert main(pruning(folder, attributed, tmp_path / "other", data="other.h5ad")) == 0
    told = capsys.readouterr()
    assert "all 60 cells" in told.out
    assert "it is not known which cells were held out" in told.err
    line = pruning(folder, attributed, tmp_path / "new", "--retrain", "5", data="other.h5ad")
    assert "not known to be the run's" in error_of(capsys, *line)


def test_what_is_no_attribution_is_named(folder, attributed, tmp_path, capsys):
    said = error_of(capsys, *pruning(folder, folder / "run", tmp_path / "pruned"))
    assert "holds no attribution" in said
    line = pruning(folder, attributed, tmp_path / "pruned", "--retrain", "31")
    assert "--retrain is 31: it must be from 1 to 30, the model's genes" in error_of(capsys, *line)
    line = pruning(folder, attributed, tmp_path / "pruned", "--shares", "1")
    assert "shares from 0 to below 1 are needed" in error_of(capsys, *line)
    assert not (tmp_path / "pruned").exists()
