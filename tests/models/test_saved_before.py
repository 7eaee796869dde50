"""Models that an earlier version saved load, and predict what they did."""

import json
from pathlib import Path

import numpy as np
import pytest

import kernomics as kn
from kernomics import datasets
from kernomics.errors import CheckpointError
from kernomics.models import CellEncoder, Panel, loading, saved
from kernomics.train import save_model_dir

SAVED = Path(__file__).with_name("saved")
"""Saved by 0.1.0 before each system had a package: simulate(120, 20, 2, 4, seed=1), its first six
cells represented and predicted."""


@pytest.fixture(scope="module")
def cells():
    return datasets.simulate(120, 20, 2, 4, seed=1)[:6]


@pytest.fixture(scope="module")
def expected():
    return json.loads((SAVED / "expected.json").read_text())


def test_a_panel_saved_before_predicts_the_same(cells, expected):
    panel = Panel.load(SAVED / "panel")
    assert panel.genes == expected["genes"]
    found = panel.predict(cells)
    assert found["cell_type"].astype(str).tolist() == expected["classes"]
    # Written with six digits.
    np.testing.assert_allclose(found["cell_type_probability"], expected["probability"], atol=2e-6)


def test_an_encoder_saved_before_represents_the_same(cells, expected):
    found = kn.models.load(SAVED / "txfm").get_latent_representation(cells)
    # Written with five digits; float32 sums may differ by a few units in the last place.
    np.testing.assert_allclose(found, expected["representation"], atol=2e-5)


def test_load_gives_what_the_directory_holds(tmp_path):
    assert isinstance(kn.models.load(SAVED / "panel"), Panel)
    assert isinstance(kn.models.load(str(SAVED / "txfm")), CellEncoder)
    with pytest.raises(CheckpointError, match="neither a run nor a saved model"):
        kn.models.load(tmp_path)
    save_model_dir(tmp_path / "new", {}, {"format": "kernomics oracle 1"})
    said = r"'kernomics oracle 1', which this version .* cannot read"
    with pytest.raises(CheckpointError, match=said):
        kn.models.load(tmp_path / "new")


def test_load_takes_the_directory_that_one_is_in(monkeypatch):
    monkeypatch.chdir(SAVED / "panel")
    assert isinstance(kn.models.load("."), Panel)
    with pytest.raises(CheckpointError, match="neither a run nor a saved model"):
        kn.models.load("/")


def test_who_reads_a_saved_model_is_said_for_every_kind():
    assert loading.HOMES.keys() == saved.KINDS.keys()
