"""Cells far deeper or shallower than a panel's training cells are told."""

import numpy as np
import pytest
from scipy import sparse

from kernomics.cli import main
from kernomics.data import CellCollection
from kernomics.models.yoto.levels import level_note


def scaled(adata, factor):
    other = adata.copy()
    other.X = sparse.csr_matrix(np.round(adata.X.toarray() * factor).astype(np.float32))
    return CellCollection.from_anndata(other, empty_cells="keep")


def test_another_depth_is_told_with_both_means(two_tasks, simulated):
    panel = two_tasks.panel
    assert level_note(panel, scaled(simulated, 1)) is None
    assert level_note(panel, scaled(simulated, 2)) is None
    deep = scaled(simulated, 5000)
    x = np.log1p(deep.with_genes(panel.genes, 1.0).batch(range(len(deep))).dense().numpy())
    note = level_note(panel, deep)
    assert f"(log(1 + count)) is {x.mean():.3g} in these cells" in note
    assert f"was {float(panel.input_means.mean()):.3g} in its training cells" in note


def test_counts_that_were_made_0_and_1_are_told(two_tasks, simulated, monkeypatch):
    from kernomics.models.yoto import levels

    binary = simulated.copy()
    binary.X = (simulated.X > 0).astype(np.float32)
    cells = CellCollection.from_anndata(binary)
    monkeypatch.setattr(levels, "FEW", 50)
    assert "no gene of the panel has more than 1 count" in level_note(two_tasks.panel, cells)


def test_a_panel_without_means_or_genes_is_not_compared(two_tasks, simulated, monkeypatch):
    cells = scaled(simulated, 5000)
    monkeypatch.setattr(two_tasks.panel, "input_means", None)
    assert level_note(two_tasks.panel, cells) is None


@pytest.mark.filterwarnings("default:the panel's mean input:UserWarning")
def test_the_command_tells(two_tasks, simulated, tmp_path, capsys):
    two_tasks.panel.save(tmp_path / "panel")
    other = simulated.copy()
    other.X = sparse.csr_matrix(simulated.X.toarray() * 5000)
    other.write_h5ad(tmp_path / "deep.h5ad")
    assert main(["evaluate", str(tmp_path / "panel"), str(tmp_path / "deep.h5ad")]) == 0
    told = capsys.readouterr()
    assert "warning: the panel's mean input (log(1 + count)) is 10" in told.err
    assert "accuracy" in told.out
