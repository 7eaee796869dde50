"""Cells of several files with different genes: a gene that was not measured is no count of 0."""

import numpy as np
import pytest
import torch

from kernomics.attribution.sources import PanelSource
from kernomics.cli import main
from kernomics.data import CellCollection, concat, make_split
from kernomics.errors import DataError
from kernomics.evaluation.panels import contributions, evaluate_panel, redundancy, score_panels
from kernomics.models import YOTO

PARTLY = "not measured in every cell"


@pytest.fixture
def two_files(adata):
    """Cells of two files, of which the second lacks the genes that tell its classes best."""
    first, second = adata[::2].copy(), adata[1::2, 20:].copy()
    return concat(
        {
            name: CellCollection.from_anndata(one)
            for name, one in (("first", first), ("second", second))
        },
        labels_key="cell_type",
    )


def test_a_panel_has_only_genes_that_all_cells_have_measured(two_files, train_quickly):
    partly = two_files.genes[~two_files.observed.mask.numpy().astype(bool).all(axis=0)].tolist()
    assert len(partly) == 20
    model = train_quickly(two_files, None, max_epochs=1)
    assert model.bounds.excluded["are not measured in every cell"] == 20
    assert not set(partly) & set(model.genes)
    assert not set(partly) & set(model.ranking.index[np.isfinite(model.ranking["score"])])
    with pytest.raises(DataError, match=f"1 gene is forced, but {PARTLY}"):
        YOTO(two_files, n_genes=8, forced_genes=partly[:1])


def test_other_methods_choose_among_the_same_genes(two_files, train_quickly, monkeypatch):
    from kernomics.evaluation.panels import comparison

    seen = []
    chosen = comparison._choose

    def noted(name, x, *rest):
        seen.append(x.shape[1])
        return chosen(name, x, *rest)

    monkeypatch.setattr(comparison, "_choose", noted)
    model = train_quickly(two_files, None, max_epochs=1)
    score_panels(model, model.genes, model.test_metrics(), ["random", "hvg"], progress=False)
    assert seen
    assert max(seen) <= two_files.n_genes - 20


def test_a_list_with_such_genes_is_refused_or_scored_without_them(two_files):
    whole = two_files.genes.tolist()
    partly = whole[int(np.argmin(two_files.observed.mask.numpy().all(axis=0)))]
    everywhere = [gene for gene in whole if gene != partly][-2:]
    split = make_split(two_files.n_cells, how="random")
    with pytest.raises(DataError, match=f"1 of 3 genes are {PARTLY}, first '{partly}'"):
        evaluate_panel(two_files, [partly, *everywhere], split)
    found = evaluate_panel(two_files, [partly, *everywhere], split, allow_missing=True)
    assert (found.genes, found.missing) == (everywhere, [partly])


def test_prediction_fills_a_gene_where_it_was_not_measured(two_tasks, simulated):
    panel, gone = two_tasks.panel, two_tasks.genes[2]
    first, second = simulated[:30].copy(), simulated[30:50, simulated.var_names != gone].copy()
    joined = concat(
        {"a": CellCollection.from_anndata(first), "b": CellCollection.from_anndata(second)}
    )
    with pytest.raises(DataError, match=rf"1 of the panel's \d+ genes is {PARTLY}.*allow_missing"):
        panel.outputs(joined)
    with pytest.warns(UserWarning, match=f"{PARTLY}: '{gone}', and filled there with its mean"):
        found = panel.outputs(joined, allow_missing=True)
    x = np.log1p(simulated[:50, panel.genes].X.toarray())
    x[30:, 2] = panel.input_means[2]
    with torch.inference_mode():
        types, _ = panel.network.outputs(torch.from_numpy(x).float())
    np.testing.assert_allclose(found["cell_type"], types.softmax(1).numpy(), rtol=1e-4, atol=1e-6)
    with pytest.raises(DataError, match=PARTLY):
        PanelSource(panel, joined, "cell_type")
    with pytest.raises(DataError, match=PARTLY):
        contributions(panel, joined, np.arange(30), background_rows=np.arange(30))


def test_substitutes_are_genes_that_all_cells_have_measured(two_files):
    partly = set(two_files.genes[~two_files.observed.mask.numpy().astype(bool).all(axis=0)])
    last = [str(two_files.genes[-1])]
    found = redundancy(two_files, last, np.arange(two_files.n_cells), n_substitutes=200)
    assert len(found.substitutes) > 50
    assert not partly & set(found.substitutes["substitute"])


def test_the_command_says_which_genes_it_leaves_out(adata, tmp_path, capsys):
    for name, part in (("a", adata[::2]), ("b", adata[1::2, 20:])):
        part.copy().write_h5ad(tmp_path / f"{name}.h5ad")
    files = [str(tmp_path / f"{name}.h5ad") for name in "ab"]
    assert main(["convert", *files, "--out", str(tmp_path / "c.h5ad"), "--quiet"]) == 0
    first, last = adata.var_names[[0, -1]]
    line = ["panel", str(tmp_path / "c.h5ad"), "--labels-key", "cell_type", "--genes", first, last]
    assert main(line) == 2
    assert f"1 of 2 genes are {PARTLY}, first '{first}'" in capsys.readouterr().err
    assert main([*line, "nobody", "--allow-missing"]) == 0
    told = capsys.readouterr().out
    assert f"left out   1 of 3 genes are {PARTLY}: '{first}'" in told
    assert "missing    1 of 3 genes are not in the data: 'nobody'" in told
