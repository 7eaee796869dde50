"""A run in stages: what it holds, that it goes on to the same end, and the commands for it."""

import argparse
import json

import pytest
from staged_example import ONE, QUICK, SMALL, TWO, cells, model, stages, trained

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from kernomics.cli import increment
from kernomics.cli.main import main
from kernomics.data import Stages, gene_stages
from kernomics.errors import CheckpointError, ConfigError, DataError
from kernomics.models import GIL, ExpressionModel, load
from kernomics.models.gil.methods import METHODS, Adapters, Features, Replay
from kernomics.workflows.increment import run_increment


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run with everything that there is to ask for."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    gil = model([Replay(memory=10), "distillation"])
    result = run_increment(
        gil, out, dataset="small <cells>", labels_key="cell_type", oracle=True, **QUICK
    )
    return out, result


def test_a_run_holds_the_model_its_scores_and_a_report(run):
    out, result = run
    assert result.losses["tokens"].equals(result.model.losses())
    written = json.loads((out / "results.json").read_text())
    assert written["losses"]["tokens"]["two"]["one"] == result.losses["tokens"].loc["two", "one"]
    assert written["forgotten"]["queries"]["groups"][2]["delta"] == 0
    assert written["oracle"]["tokens"]["two"].keys() == {"base", "one", "two"}
    assert len(written["probes"]) == 9
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["system"] == "gil"
    assert config["stages"]["sha256"] == stages().fingerprint
    assert config["methods"][0] == {"name": "replay", "memory": 10, "share": 0.5}
    for name in ("genes.csv", "plots/losses.svg", "stages.json"):
        assert (out / name).is_file()
    assert isinstance(load(out), ExpressionModel)
    oracle = trained("joint").losses()
    assert result.oracle["tokens"].equals(oracle)


def test_adapters_are_asked_for_on_the_command_line():
    parser = argparse.ArgumentParser()
    increment.add_parser(parser.add_subparsers())
    common = ["increment", "cells.h5ad", "--stages", "stages.json", "--out", "run", "--method"]
    given = parser.parse_args([*common, "adapters", "features", "--adapters-rank", "4"])
    assert increment.methods_of(given) == [Adapters(rank=4), Features()]
    given = parser.parse_args([*common, "freezing", "--adapters-rank", "4"])
    with pytest.raises(ConfigError, match="--adapters-rank is a setting of adapters, which"):
        increment.methods_of(given)


def test_the_report_shows_losses_classes_genes_and_what_to_mind(run):
    out, _ = run
    text = (out / "report.html").read_text()
    for section in ("key-figures", "losses", "classes", "genes", "stages", "training", "warnings"):
        assert f'<section id="{section}"' in text
    assert "small &lt;cells&gt;" in text
    assert "<cells>" not in text
    assert "Only " in text  # few hidden values


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, monkeypatch):
    run_increment(model(), tmp_path / "whole", dataset="d", **QUICK)
    validate, calls = GIL._validate, []

    def stop(self, module, rows):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return validate(self, module, rows)

    with monkeypatch.context() as patch:
        patch.setattr(GIL, "_validate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_increment(model(), tmp_path / "parts", dataset="d", **QUICK)
    assert not (tmp_path / "parts" / "model").exists()
    other = GIL(cells(), stages(seed=1), config=model().config)
    with pytest.raises(CheckpointError, match="its stages are others than those given"):
        run_increment(other, tmp_path / "parts", dataset="d", resume=True, **QUICK)
    run_increment(model(), tmp_path / "parts", dataset="d", resume=True, **QUICK)
    one, other = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts")
    )
    assert one | {"seconds": 0} == other | {"seconds": 0}


@pytest.fixture
def files(tmp_path):
    adata = cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for name, genes in (("one", ONE), ("two", TWO)):
        (tmp_path / f"{name}.txt").write_text("\n".join(genes))
    return tmp_path


def kernomics(*words):
    return main([str(word) for word in words])


def test_the_commands_make_stages_and_train_in_them(files, capsys):
    data, out = files / "cells.h5ad", files / "stages.json"
    listed = [f"{name}={files / name}.txt" for name in ("one", "two")]
    assert kernomics("stages", data, "--specific", *listed, "--out", out) == 0
    assert Stages.load(out) == stages()
    short = ("--n-tokens", 20, "--max-epochs", 1, "--batch-size", 16, "--quiet")
    where = ("--stages", out, "--out", files / "run", *short)
    assert kernomics("increment", data, *where, "--method", "replay", "--memory", 10) == 0
    said = capsys.readouterr().out
    assert "after two" in said
    assert "Δ, forgotten" in said
    assert kernomics("increment", data, *where, "--memory", 10) == 2
    said = capsys.readouterr().err
    assert "--memory is a setting of replay and der, which --method does not name" in said
    assert kernomics("increment", data, *where, "--groups-key", "donor") == 2
    assert "--groups-key is about the classes of --labels-key" in capsys.readouterr().err
    again = (*where, "--method", "replay", "--memory", 10, "--resume")
    assert kernomics("increment", data, *again) == 0


def test_genes_of_labelled_cells_become_stages(files, capsys):
    pytest.importorskip("scanpy")
    data, out = files / "cells.h5ad", files / "stages.json"
    words = ("stages", data, "--specific", f"one={data}", "--out", out, "--n-genes", 5)
    assert kernomics(*words) == 2
    assert "--labels-key names no column for 1 of 1 labelled sets" in capsys.readouterr().err
    assert kernomics(*words, "--labels-key", "cell_type") == 0
    assert len(Stages.load(out).stages[1].genes) == 5
    assert kernomics(*words, "--labels-key", "two=cell_type") == 2
    assert "--labels-key names 'two', which is no set of --specific" in capsys.readouterr().err
    mixed = ("--specific", f"one={data}", f"two={files / 'two.txt'}", "--out", out)
    assert kernomics("stages", data, *mixed) == 2
    assert "has 1 labelled sets and 1 lists of genes" in capsys.readouterr().err


def test_several_files_are_stages_of_their_own_over_their_common_genes(files):
    whole = cells()
    whole[:60].copy().write_h5ad(files / "base.h5ad")
    whole[60:, 2:].copy().write_h5ad(files / "late.h5ad")
    (files / "late.txt").write_text("\n".join(TWO))
    out = files / "stages.json"
    assert kernomics(
        "stages", files / "base.h5ad", files / "late.h5ad", "--specific",
        f"late={files / 'late.txt'}", "--by", "dataset", "--common-genes", "--out", out,
    ) == 0  # fmt: skip
    found = Stages.load(out)
    assert [len(stage.cells) for stage in found.stages] == [60, 60]
    assert not {"gene_0", "gene_1", *TWO} & set(found.base)


def test_the_command_knows_every_method_and_setting():
    assert tuple(METHODS) == increment.METHODS
    for owners, setting in increment.OPTIONS.values():
        for name in owners:
            assert setting in METHODS[name].__dataclass_fields__


def test_classes_are_checked_before_anything_is_trained(tmp_path):
    adata = cells()
    adata.obs["half"] = ["a", "b"] * 60
    for more, message in (
        ({"labels_key": "cell_typ"}, "obs has no column 'cell_typ'; closest: 'cell_type'"),
        ({"labels_key": "cell_type", "groups_key": "half"}, "are of 2 groups, and 3 are needed"),
        ({"labels_key": "cell_type", "unlabelled_category": "none"}, "occurs in none of the label"),
    ):
        with pytest.raises(DataError, match=message):
            run_increment(model(adata=adata), tmp_path / "run", dataset="d", **more, **QUICK)
    assert not (tmp_path / "run").exists()


def test_options_that_would_do_nothing_are_refused(files, capsys):
    data, out = files / "cells.h5ad", files / "stages.json"
    words = ("stages", data, "--out", out, "--specific", f"one={files / 'one.txt'}")
    for more, message in (
        (("--labels-key", "cell_type"), "--labels-key is about labelled cells, of which"),
        (("--n-genes", 3), "--n-genes is about labelled cells"),
        (("--ranking", "L1"), "--ranking is about labelled cells"),
        (("--unlabelled", "x"), "--unlabelled is about labelled cells"),
    ):
        assert kernomics(*words, *more) == 2
        assert message in capsys.readouterr().err
    assert kernomics(*words, f"one={files / 'two.txt'}") == 2
    assert "--specific names 'one' twice" in capsys.readouterr().err
    assert kernomics(*words[:-1], f"one={files / 'nowhere.txt'}") == 2
    assert "nowhere.txt cannot be read as a list of genes" in capsys.readouterr().err
    assert not out.exists()


def test_evaluate_says_that_a_gil_is_scored_already(run, files, capsys):
    assert kernomics("evaluate", run[0], files / "cells.h5ad") == 2
    assert "holds a GIL, which kernomics increment scores" in capsys.readouterr().err


def test_a_run_of_more_stages_than_lines_can_be_drawn_has_its_tables(tmp_path):
    many = gene_stages(cells(), {f"stage {i}": [f"gene_{i}"] for i in range(8)})
    gil = GIL(cells(), many, **SMALL)
    run_increment(gil, tmp_path / "run", dataset="d", **{**QUICK, "max_epochs": 1})
    assert "stage 7" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "results.json").is_file()
    assert not (tmp_path / "run" / "plots" / "losses.svg").exists()


def test_the_help_names_the_weights_that_the_methods_have():
    assert {n: METHODS[n]().weight for n in METHODS if hasattr(METHODS[n], "weight")} == (
        increment.WEIGHTS
    )
