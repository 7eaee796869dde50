"""A PolyGene's run: what it holds, and that one that was stopped goes on to the same end."""

import json

import numpy as np
import pytest
from attribution_example import cells

pytest.importorskip("matplotlib")

from kernomics.cli.tables import print_phenotypes
from kernomics.data import Split
from kernomics.errors import ConfigError
from kernomics.metrics import class_scores
from kernomics.models import PhenotypeModel, PolyGene
from kernomics.workflows.pretrain_polygene import run_polygene

SHORT = {"max_epochs": 3, "validate_every": 1, "progress": False, "checkpoint_every_epochs": 1}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Leave the pictures out."""
    home = "kernomics.workflows.pretrain_polygene"
    monkeypatch.setattr(f"{home}.write_phenotype_report", lambda path, data: path.touch())
    monkeypatch.setattr(f"{home}.pl.training_curves", lambda _: type("F", (), {"savefig": saved}))


def saved(path, **_):
    path.touch()


def model(**more):
    return PolyGene(
        cells(120), ["state", "cell_type"], d_model=8, n_layers=1, n_heads=1, n_tokens=8, **more
    )


def test_scores_are_those_of_the_model_and_beside_the_majority(tmp_path):
    result = run_polygene(model(), tmp_path / "run", dataset="d", **SHORT)
    own = result.model.test_metrics()
    assert [score.name for score in result.scores] == ["state", "cell_type"]
    for score in result.scores:
        for name in ("accuracy", "balanced_accuracy", "auprc", "n_cells"):
            assert score.metrics[name] == own[score.name][name]
        assert score.confusion.sum() == score.metrics["n_cells"]
        label = result.model.cells.labels[score.name]
        truth = label.values[result.model.split.test]
        share = (truth == label.categories.index(score.majority)).mean()
        assert score.majority_share == pytest.approx(share)
        called = result.model.trained.probabilities(
            result.model.cells, score.name, rows=result.model.split.test
        )[score.name].argmax(1)
        assert class_scores(truth, called)["weighted_f1"] == score.metrics["weighted_f1"]
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written["phenotypes"]["state"]["accuracy"] == own["state"]["accuracy"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["system"] == "polygene"
    assert config["train"]["max_epochs"] == 3
    assert config["data_sha256"] == result.model.cells.fingerprint
    for name in ("split.json", "metrics.jsonl", "report.html", "plots/training.svg"):
        assert (tmp_path / "run" / name).is_file()


def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, monkeypatch):
    run_polygene(model(), tmp_path / "whole", dataset="d", **SHORT)
    validate, calls = PolyGene._validate, []

    def stop(self, module):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(self, module)

    with monkeypatch.context() as patch:
        patch.setattr(PolyGene, "_validate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_polygene(model(), tmp_path / "parts", dataset="d", **SHORT)
    assert not (tmp_path / "parts" / "model").exists()
    run_polygene(model(), tmp_path / "parts", dataset="d", resume=True, **SHORT)
    whole, parts = (PhenotypeModel.load(tmp_path / name) for name in ("whole", "parts"))
    for (name, a), b in zip(
        whole.module.state_dict().items(), parts.module.state_dict().values(), strict=True
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)
    results = [json.loads((tmp_path / n / "results.json").read_text()) for n in ("whole", "parts")]
    assert results[0]["phenotypes"] == results[1]["phenotypes"]


def test_another_seed_cannot_go_on_with_a_run(tmp_path):
    run_polygene(model(), tmp_path / "run", dataset="d", **{**SHORT, "max_epochs": 1})
    with pytest.raises(ConfigError, match="cannot be resumed"):
        run_polygene(model(seed=1), tmp_path / "run", dataset="d", resume=True, **SHORT)


def test_held_out_cells_of_one_class_are_scored_without_an_auprc(tmp_path, capsys):
    adata = cells(120)
    ill = np.flatnonzero((adata.obs["state"] == "ill").to_numpy())
    rest = np.setdiff1d(np.arange(120), ill[:20])
    split = Split(rest[10:], rest[:10], ill[:20], "group", "donor", 0)
    with pytest.warns(UserWarning, match="are of class 'ill', so AUPRC is undefined"):
        one = PolyGene(adata, "state", d_model=8, n_layers=1, n_heads=1, n_tokens=8, split=split)
    result = run_polygene(one, tmp_path / "run", dataset="d", **SHORT)
    assert "auprc" not in result.scores[0].metrics
    print_phenotypes(result.scores)
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("           state, 20 cells")
    assert row.split()[-2:] == ["—", "0.000"]  # most training cells are well
