"""Names of genes that pandas takes for missing values are names, in every list that is read."""

import pandas as pd
import pytest

from kernomics.data.gene_lists import read_genes
from kernomics.metrics.gene_pairs import read_relations
from kernomics.models.yoto.budget import read_costs

NAMES = ["nan", "None", "NA", "NULL", "007", "1e5", "True", "inf"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_lists_of_genes(tmp_path, suffix):
    path = tmp_path / f"genes{suffix}"
    table = pd.DataFrame({"score": 1.0}, index=pd.Index(NAMES, name="gene"))
    if suffix == ".txt":
        path.write_text("\n".join(NAMES))
    else:
        table.to_csv(path, sep="\t" if suffix == ".tsv" else ",")
    assert read_genes(path) == NAMES


def test_costs_and_pairs_of_genes(tmp_path):
    pd.DataFrame({"gene": NAMES, "cost": 2.0}).to_csv(tmp_path / "costs.csv", index=False)
    assert read_costs(tmp_path / "costs.csv") == dict.fromkeys(NAMES, 2.0)
    pairs = pd.DataFrame({"entity1": NAMES[:-1], "entity2": NAMES[1:]})
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    assert read_relations(tmp_path / "pairs.csv").tolist() == pairs.to_numpy().tolist()
