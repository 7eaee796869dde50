import warnings

import numpy as np
import pytest

from kernomics.data import gene_id_kind, match_genes
from kernomics.errors import ConfigError, DataError

ENSEMBL = [f"ENSG{i:011d}" for i in range(10)]
SYMBOLS = [f"GENE{i}" for i in range(10)]


def test_each_model_gene_gets_its_column():
    columns = match_genes(["c", "a"], ["a", "b", "c"])
    assert columns.tolist() == [2, 0]
    assert columns.dtype == np.int64


def test_missing_genes_are_minus_one_and_named_in_a_warning():
    with pytest.warns(
        UserWarning,
        match=r"9 of the model's 10 genes are in the data, 1 are missing \('GENE9'\), 1 other",
    ):
        columns = match_genes(SYMBOLS, [*SYMBOLS[:9], "other"])
    assert columns.tolist() == [*range(9), -1]


def test_too_few_genes_are_refused_with_the_numbers():
    with pytest.raises(
        DataError,
        match=r"5 of the model's 10 genes .*5 are missing \('GENE5', .*2 other genes .*"
        r"at least 80% must match \(min_gene_overlap\)$",
    ):
        match_genes(SYMBOLS, [*SYMBOLS[:5], "x", "y"])
    with pytest.warns(UserWarning, match="missing genes are taken as 0"):
        match_genes(SYMBOLS, SYMBOLS[:5], min_gene_overlap=0.5)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (SYMBOLS, ENSEMBL, "model knows gene symbols .*'GENE0'.* data hold Ensembl ids"),
        (ENSEMBL, SYMBOLS, "model knows Ensembl ids .* data hold gene symbols"),
        (ENSEMBL, [f"{gene}.3" for gene in ENSEMBL], "10 would match without version suffixes"),
        (SYMBOLS, [gene.title() for gene in SYMBOLS], "10 would match if upper and lower case"),
    ],
)
def test_the_likely_cause_is_named(model, data, message):
    with pytest.raises(DataError, match=message):
        match_genes(model, data)


def test_gene_id_kind_goes_by_the_majority():
    assert gene_id_kind(["ENSMUSG00000000001.4", "ENSG00000000001", "Actb"]) == "Ensembl ids"
    assert gene_id_kind(["ACTB", "ENSA", "ENSG00000000001"]) == "gene symbols"


def test_min_gene_overlap_must_be_a_fraction():
    with pytest.raises(ConfigError, match="fraction from 0 to 1, not 80"):
        match_genes(SYMBOLS, SYMBOLS, min_gene_overlap=80)


def test_genes_of_the_data_alone_cause_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = match_genes(["a"], ["a", "b", "c"])
    assert found.tolist() == [0]


def test_the_warning_says_what_missing_genes_count_as():
    with pytest.warns(UserWarning, match="missing genes count as not observed, not as 0"):
        match_genes(SYMBOLS, SYMBOLS[:9], absent="unobserved")
