"""Which genes a selection may take."""

import numpy as np
import pandas as pd
import pytest

from kernomics.errors import ConfigError
from kernomics.models import YOTO
from kernomics.models.yoto.gene_bounds import GENE_SETS, gene_bounds

GENES = np.array(["MT-CO1", "mt-Nd1", "MT1X", "RPS3", "RPS6KA1", "HBB", "HLA-A", "CD3D"], object)
SEEN = np.array([100, 95, 40, 91, 20, 2, 90, 0])  # of 100 cells
BELOW = "are detected in less than {} of the cells"
ABOVE = "are detected in more than {} of the cells"


def bounds(**options):
    given = {"n_cells": 100, "n_genes": 1, "min_cells": 1, **options}
    return gene_bounds(GENES, SEEN, **given)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("mitochondrial", ["MT-CO1", "mt-Co1", "MT-RNR2"], ["MT1X", "MTOR", "AMT-1"]),
        (
            "ribosomal",
            ["RPS3", "RPL10A", "RPLP0", "RPSA", "RPSA2", "RPS4X", "Rps27rt", "Rpl13a", "RPL36AL"],
            ["RPS6KA1", "RPS6KB2", "RPP14", "MRPL1", "RPRD1A", "RPA1", "RPN1"],
        ),
        ("ribosomal_mitochondrial", ["MRPL1", "Mrps18a"], ["RPL1", "MRPS", "MRP1"]),
        (
            "haemoglobin",
            [
                "HBA1",
                "HBB",
                "HBD",
                "HBE1",
                "HBG2",
                "HBM",
                "HBQ1",
                "HBZ",
                "Hba-a1",
                "Hbb-bs",
                "Hbb-bh1",
            ],
            ["HBEGF", "HBP1", "HBS1L", "HBXIP", "AHSP"],
        ),
    ],
)
def test_gene_sets_hold_human_and_mouse_symbols_and_no_namesakes(name, inside, outside):
    genes = np.array([*inside, *outside], object)
    seen = np.ones(len(genes), np.int64)
    found = gene_bounds(
        genes, seen, n_cells=1, n_genes=1, min_cells=1, exclude_patterns=name.upper()
    )
    assert genes[found.forbidden].tolist() == inside
    assert name in GENE_SETS


def test_hemoglobin_is_haemoglobin():
    assert GENES[bounds(exclude_patterns="hemoglobin").forbidden].tolist() == ["HBB", "CD3D"]


@pytest.mark.parametrize(
    ("options", "never", "rule", "count"),
    [
        ({"exclude_patterns": ["^hla-"]}, ["HLA-A"], "match '^hla-'", 1),
        ({"exclude_patterns": ["LA-", "MT"]}, ["MT-CO1", "mt-Nd1", "MT1X"], "match 'MT'", 3),
        ({"exclude_patterns": ["LA-", "MT"]}, ["MT-CO1", "mt-Nd1", "MT1X"], "match 'LA-'", 0),
        ({"min_detection": 0.4}, ["RPS6KA1", "HBB"], BELOW.format(0.4), 3),
        ({"max_detection": 0.9}, ["MT-CO1", "mt-Nd1", "RPS3"], ABOVE.format(0.9), 3),
        ({"min_detection": 0.9}, ["MT1X", "RPS6KA1", "HBB"], BELOW.format(0.9), 4),
        ({"max_detection": 0.9, "forced": ["RPS3"]}, ["MT-CO1", "mt-Nd1"], ABOVE.format(0.9), 3),
        ({"forbidden": "HBB", "exclude_patterns": "haemoglobin"}, ["HBB"], "are forbidden", 1),
        ({"forbidden": "HBB", "exclude_patterns": "hb"}, ["HBB"], "match 'hb'", 1),
    ],
)
@pytest.mark.filterwarnings("ignore:exclude_patterns. 'LA-'")
def test_rules_exclude_genes_and_are_counted(options, never, rule, count):
    found = bounds(**options)
    assert GENES[found.forbidden].tolist() == [*never, "CD3D"]  # in no cell
    assert found.usable == len(GENES) - len(never) - 1
    assert found.excluded[rule] == count


def test_forced_gene_is_kept_whatever_rule_names_it():
    found = bounds(
        forced=["MT-CO1", "CD3D"], exclude_patterns=["mitochondrial"], max_detection=0.9,
        n_genes=2,
    )  # fmt: skip
    assert GENES[found.forced].tolist() == ["MT-CO1", "CD3D"]
    assert GENES[found.forbidden].tolist() == ["mt-Nd1", "RPS3"]


def test_pattern_that_matches_nothing_warns():
    with pytest.warns(UserWarning, match=r"'mitochondrail' matches none of 8 genes, first 'MT-CO"):
        found = bounds(exclude_patterns=["mitochondrail"])
    assert found.excluded["match 'mitochondrail'"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude_patterns": ["*MT"]}, "exclude_patterns: '*MT' is no regular exp"),
        ({"min_detection": 2}, "min_detection is 2: it is a fraction of the cells, from 0 to 1"),
        ({"max_detection": True}, "max_detection is True: it is a fraction"),
        ({"max_detection": float("nan")}, "max_detection is nan"),
        ({"min_detection": 0.5, "max_detection": 0.1}, "min_detection is 0.5, above max"),
        (
            {"n_genes": 4, "exclude_patterns": ["MT", "ribosomal"], "min_detection": 0.1},
            "n_genes = 4 but only 2 of 8 genes are usable: 1 are detected in "
            "fewer than 1 training cells, 3 match 'MT', 1 match 'ribosomal' and 2 are detected "
            "in less than 0.1 of the cells; lower n_genes or exclude fewer",
        ),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_followed_are_named(options, message):
    with pytest.raises(ConfigError) as caught:
        bounds(**options)
    assert message in str(caught.value)


def test_excluded_genes_are_not_in_a_trained_panel(adata, train_quickly):
    names = [f"MT-{i}" if i < 40 else f"gene_{i}" for i in range(120)]
    adata.var_names = names
    model = train_quickly(
        adata, exclude_patterns="mitochondrial", max_detection=0.9, forced_genes=["MT-3"]
    )
    assert [gene for gene in model.genes if gene.startswith("MT-")] == ["MT-3"]
    share = model.summary.n_expressing / model.summary.n_cells
    place = {gene: i for i, gene in enumerate(names)}
    assert all(share[place[gene]] <= 0.9 for gene in model.genes if gene != "MT-3")
    assert model.panel.info["excluded"]["match 'mitochondrial'"] == 40


def test_detection_is_counted_over_the_training_cells(adata):
    model = YOTO(adata, "cell_type", 4)
    counts = adata.X[model.split.train].toarray() > 0
    limit = float(np.quantile(counts.mean(axis=0), 0.5))
    limited = YOTO(adata, "cell_type", 4, min_detection=limit)
    assert limited.bounds.forbidden.tolist() == np.flatnonzero(counts.mean(axis=0) < limit).tolist()


def test_a_pattern_that_matches_another_column_says_which():
    ids = np.array([f"ENSG{i:011d}" for i in range(8)], object)
    var = pd.DataFrame({"length": range(8), "symbol": pd.Categorical(GENES)}, index=ids)
    given = {"n_cells": 100, "n_genes": 1, "min_cells": 1, "var": var}
    with pytest.warns(UserWarning, match=r"; 2 match in var\['symbol'\]: pass gene_names='symbol'"):
        gene_bounds(ids, SEEN, exclude_patterns="mitochondrial", **given)
    with pytest.warns(UserWarning, match=r"matches none of 8 genes.*haemoglobin$"):
        gene_bounds(ids, SEEN, exclude_patterns="XIST", **given)
