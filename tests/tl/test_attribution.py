"""`tl.attribute` adds to `.varm` and `.uns` what it says, fit for h5ad, and nothing else."""

import anndata
import numpy as np
import pytest
from attribution_example import cells

import kernomics as kn
from kernomics.errors import ConfigError, DataError
from kernomics.models import PolyGene

pytestmark = pytest.mark.filterwarnings("ignore:the model hardly tells:UserWarning")


@pytest.fixture(scope="module")
def trained():
    adata = cells(120)
    known = adata[:, :24].copy()
    known.obs["cell_type"] = known.obs["cell_type"].cat.rename_categories({"type_0": "T/NK"})
    options = {"d_model": 8, "n_layers": 1, "n_heads": 1, "n_tokens": 8}
    return adata, PolyGene(known, ["state", "cell_type"], **options).train(1, progress=False)


QUESTION = {"target": "state", "case": "ill", "baseline": "well"}


def test_scores_are_over_all_genes_and_can_be_written(trained, tmp_path):
    adata, model = trained[0].copy(), trained[1]
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"type_0": "T/NK"})
    adata.obs.loc[adata.obs_names[:7], "cell_type"] = None
    before = adata.copy()
    with pytest.warns(UserWarning, match=r"left out: 7 \(cell_type is missing\)"):
        found = kn.tl.attribute(
            adata, model.trained, **QUESTION, controlled="cell_type", n_pairs=12
        )
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")
    table = read.varm["attribution"]
    assert list(table) == [
        "forward", "backward", "importance", "effect", "absolute", "signed_by_change",
        "expression_change", "n_pairs",
    ]  # fmt: skip
    np.testing.assert_array_equal(table["absolute"][:24], found.table["absolute"])
    assert table["absolute"][24:].isna().all()
    assert (table["n_pairs"][24:] == 0).all()
    assert table["n_pairs"].dtype.kind == "i"
    said = read.uns["attribution"]
    assert said["params"]["engine"] == "grad_x_delta"
    assert list(said["params"]["controlled"]) == ["cell_type"]
    assert said["n_pairs"] == 12 == said["pairs_per_group"].sum()
    assert set(said["groups"]) == {"T/NK", "type_1"}
    assert said["left_out"]["n_cells"].tolist() == [7]
    assert said["completeness"]["max"] == found.completeness.max()
    assert set(adata.uns) - set(before.uns) == {"attribution"}
    assert adata.obs.equals(before.obs)


def test_a_model_in_memory_is_attributed_on_its_training_cells(trained):
    adata, model = trained[0].copy(), trained[1]
    kn.tl.attribute(adata, model, **QUESTION, key_added="why", n_pairs=3)
    assert adata.uns["why"]["params"]["n_cells_given"] == len(model.split.train)
    assert "why" in adata.varm


def test_genes_are_found_by_the_column_that_names_them(trained):
    adata, model = trained[0].copy(), trained[1]
    adata.var["symbol"] = adata.var_names
    adata.var_names = [f"ENSG{i}" for i in range(adata.n_vars)]
    found = kn.tl.attribute(adata, model.trained, **QUESTION, n_pairs=3, gene_names="symbol")
    table = adata.varm["attribution"]
    assert table.index.equals(adata.var_names)
    np.testing.assert_array_equal(table["effect"][:24], found.table["effect"])
    assert adata.uns["attribution"]["params"]["gene_names"] == "symbol"


def test_what_is_refused_leaves_the_cells_as_they_were(trained):
    adata = trained[0].copy()
    with pytest.raises(ConfigError, match="both 'ill'"):
        kn.tl.attribute(adata, trained[1], target="state", case="ill", baseline="ill")
    assert not len(adata.varm)
    assert "attribution" not in adata.uns


def test_the_plots_take_cells_that_were_written_and_read_back(trained, tmp_path):
    pytest.importorskip("matplotlib")
    adata, model = trained[0].copy(), trained[1]
    adata.var["symbol"] = adata.var_names
    adata.var_names = [f"ENSG{i}" for i in range(adata.n_vars)]
    found = kn.tl.attribute(
        adata, model.trained, **QUESTION, controlled="batch", n_pairs=12, gene_names="symbol",
        key_added="why",
    )  # fmt: skip
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")

    def named(ax):
        return [text.get_text() for text in ax.texts]

    for score in ("absolute", "effect"):
        axes = [kn.pl.attribution_by_gene(x, score, key="why") for x in (found, adata, read)]
        for ax in axes[1:]:
            np.testing.assert_array_equal(ax.lines[0].get_ydata(), axes[0].lines[0].get_ydata())
            assert named(ax) == named(axes[0])
    assert any(name in set(found.table.index) for name in named(axes[0]))
    figures = [kn.pl.attribution_distributions(x, key="why") for x in (found, read)]
    titles = [[ax.get_title(loc="left") for ax in figure.axes] for figure in figures]
    assert titles[0] == titles[1]
    maps = [kn.pl.attribution_heatmap(x, n_genes=5, key="why") for x in (found, read)]
    for side in ("get_xticklabels", "get_yticklabels"):
        one, two = ([tick.get_text() for tick in getattr(ax, side)()] for ax in maps)
        assert one == two
    shown = [np.asarray(ax.collections[0].get_array()) for ax in maps]
    np.testing.assert_array_equal(*shown)
    with pytest.raises(ConfigError, match="no 'effect' scores by group"):
        kn.pl.attribution_heatmap(read, "effect", key="why")


def test_what_holds_no_attribution_is_named(trained):
    pytest.importorskip("matplotlib")
    adata = trained[0].copy()
    for call in (kn.pl.attribution_by_gene, kn.pl.attribution_distributions,
                 kn.pl.attribution_heatmap):  # fmt: skip
        with pytest.raises(ConfigError, match=r"no attribution 'attribution' .*\.tl\.attribute"):
            call(adata)
        with pytest.raises(ConfigError, match="attribution is 3: what"):
            call(3)
    adata.varm["attribution"], adata.uns["attribution"] = np.ones((30, 2)), {}
    with pytest.raises(DataError, match=r"varm\['attribution'\] is no attribution"):
        kn.pl.attribution_by_gene(adata)
