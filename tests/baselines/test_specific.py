"""Whose a gene is that several sets want."""

import pytest

from kernomics import datasets
from kernomics.baselines import share_out, specific_genes
from kernomics.data import CellCollection
from kernomics.errors import DataError


def ranking(places, n=120, fill="x"):
    """A ranking with some genes at given ranks."""
    found = [f"{fill}{i}" for i in range(n)]
    for gene, rank in places.items():
        found[rank] = gene
    return found


def test_genes_go_by_the_paper_s_rules():
    found = share_out(
        {
            "one": ranking({"both sure": 0, "first": 5, "middle": 30, "late": 110}, fill="a"),
            "two": ranking({"both sure": 19, "first": 20, "middle": 25, "late": 101}, fill="b"),
            "three": ranking({"second": 10, "first": 119}, fill="c"),
            "four": ranking({"second": 100, "late": 119, "edge": 100}, fill="d"),
            "five": ranking({"edge": 101}, fill="e"),
        }
    )
    assert set(found.removed) == {"both sure", "late"}
    home = {gene: name for name, genes in found.lists.items() for gene in genes}
    assert home["first"] == "one"
    assert home["middle"] == "one"  # the first list, though the second ranks it higher
    assert home["second"] == "three"
    assert home["edge"] == "four"
    assert home["b40"] == "two"
    assert found.lists["three"][:2] == ["c0", "c1"]


def test_a_gene_named_twice_is_refused():
    with pytest.raises(DataError, match=r"rankings\['one'\] names 'a' twice, at 0 and 1"):
        share_out({"one": ["a", "a"]})


def sets(n_genes=40):
    found = {}
    for i, name in enumerate(["one", "two"]):
        adata = datasets.simulate(200, n_genes, 2, 4, seed=i, mean_counts=300.0, fold_change=8.0)
        found[name] = CellCollection.from_anndata(adata, labels_key="cell_type"), adata
    return found


@pytest.mark.parametrize("by", ["DE", "L1"])
def test_markers_of_the_classes_are_specific(by):
    pytest.importorskip("scanpy")
    (cells, adata), _ = sets().values()
    found = specific_genes({"one": cells}, "cell_type", n_genes=8, by=by)
    markers = set(adata.var_names[adata.var["marker_of"].astype(str).str.startswith("type_")])
    assert len(markers & set(found.lists["one"])) >= 7
    assert not found.removed


def test_a_set_without_the_label_or_the_genes_is_refused():
    cells = {name: pair[0] for name, pair in sets().items()}
    with pytest.raises(DataError, match="set 'one' has no label 'cell_typ'; closest: 'cell_type'"):
        specific_genes(cells, "cell_typ", n_genes=5)
    with pytest.raises(DataError, match="5 genes of set 'one' are wanted, and 0 of its 40 genes"):
        specific_genes(cells, "cell_type", n_genes=5, genes=["nobody"])
