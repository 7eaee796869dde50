"""Every command reads cells by the same options, wherever their counts are."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from kernomics.cli import main, parser
from kernomics.cli.options import named_paths, reading
from kernomics.data import ReadOptions
from kernomics.errors import ConfigError
from kernomics.models import CellEncoder, Panel

N, GENES = 120, 20


def cells(seed: int, genes: range = range(GENES)) -> anndata.AnnData:
    """Three types with four marker genes each, of the first twelve."""
    random = np.random.default_rng(seed)
    kind = np.arange(N) % 3
    rate = np.full((N, len(genes)), 0.7)
    for column, gene in enumerate(genes):
        if gene < 12:
            rate[kind == gene // 4, column] += 5
    counts = random.poisson(rate).astype(np.float32)
    counts[:, 0] += 1  # no cell is empty
    adata = anndata.AnnData(sparse.csr_matrix(counts))
    adata.var_names = [f"ENSG{gene:011d}" for gene in genes]
    adata.obs_names = [f"cell{i}" for i in range(N)]
    adata.var["feature_name"] = [f"SYM{gene}" for gene in genes]
    adata.obs["cell_type"] = pd.Categorical(np.array(["T", "B", "NK"])[kind])
    return adata


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("reading")
    corpus = cells(0)
    corpus.raw = corpus.copy()
    corpus.X = corpus.X.log1p()
    corpus.write_h5ad(where / "corpus.h5ad")
    cells(1).write_h5ad(where / "one.h5ad")
    cells(2, range(4, GENES)).write_h5ad(where / "two.h5ad")
    return where


RAW = ("--use-raw", "--gene-names", "feature_name")


@pytest.mark.filterwarnings("default:.*very counts:UserWarning")
def test_a_corpus_of_log_values_with_counts_in_raw_takes_one_command_line(folder, tmp_path, capsys):
    line = ["select", str(folder / "corpus.h5ad"), "--labels-key", "cell_type", "--n-genes", "4"]
    line += ["--out", str(tmp_path / "run"), "--max-epochs", "12", "--quiet", "--threads", "1"]
    line += ["--compare"]
    assert main(line) == 2
    said = capsys.readouterr().err
    assert "X of 'corpus.h5ad' does not hold counts" in said
    assert "adata.raw does: pass --use-raw" in said
    assert "use_raw" not in said
    assert main([*line, *RAW]) == 0
    panel = Panel.load(tmp_path / "run")
    assert len(panel.genes) == 4
    assert all(gene.startswith("SYM") for gene in panel.genes)
    assert "SYM" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    scoring = ["evaluate", str(tmp_path / "run"), str(folder / "corpus.h5ad"), "--json"]
    assert main([*scoring, *RAW]) == 0
    scores = capsys.readouterr().out
    assert json.loads(scores)["cell_type"]["accuracy"] > 0.5
    assert main(scoring) == 0
    assert capsys.readouterr().out == scores
    assert main(scoring[:-1]) == 0
    said = "read       as in training, --use-raw --gene-names feature_name\n"
    assert said in capsys.readouterr().out
    assert main([*scoring, "--no-use-raw"]) == 2
    assert "X of 'corpus.h5ad' does not hold counts" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), str(folder / "one.h5ad")]) == 2
    assert "say where theirs are, with --layer X for X" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), str(folder / "one.h5ad"), "--layer", "X"]) == 0
    capsys.readouterr()
    judging = ["panel", str(folder / "corpus.h5ad"), "--labels-key", "cell_type", "--json"]
    assert main([*judging, "--genes", *panel.genes, *RAW]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == []


PRETRAIN = ["--max-epochs", "1", "--n-tokens", "5", "--min-cells", "1", "--quiet", "--threads", "1"]


@pytest.mark.filterwarnings("default:PCA of 120 training cells and 16 genes:UserWarning")
def test_several_files_are_pretrained_on_together_and_embedded_by_symbol(folder, tmp_path, capsys):
    files = [str(folder / name) for name in ("one.h5ad", "two.h5ad")]
    run = tmp_path / "run"
    line = ["pretrain", *files, "--out", str(run), "--gene-names", "feature_name", *PRETRAIN]
    assert main([*line, "--split-key", "dataset"]) == 0
    assert "cells      240   genes 20   one.h5ad, two.h5ad" in capsys.readouterr().out
    assert set(CellEncoder.load(run).genes) == {f"SYM{i}" for i in range(GENES)}
    out = tmp_path / "out.h5ad"
    embed = ["embed", str(run), str(folder / "corpus.h5ad"), "--out", str(out), "--quiet", *RAW]
    assert main(embed) == 0
    assert "read       as in training" not in capsys.readouterr().out  # all was given
    assert main(embed) == 2
    assert f"{out} already exists; choose another --out" in capsys.readouterr().err
    assert main([*embed[:-3], "--use-raw", "--overwrite"]) == 0
    assert "read       as in training, --gene-names feature_name\n" in capsys.readouterr().out
    found = anndata.read_h5ad(out)
    assert found.obsm["X_txfm"].shape[0] == N
    assert not np.isnan(found.varm["txfm_encoder"]).any()


def test_files_of_one_name_are_told_apart_by_their_folders():
    assert named_paths(["a/x.h5ad", "b/y.h5ad"]) == {"x": "a/x.h5ad", "y": "b/y.h5ad"}
    assert named_paths(["a/x.h5ad", "b/x.h5ad"]) == {"a/x": "a/x.h5ad", "b/x": "b/x.h5ad"}
    with pytest.raises(
        ConfigError, match=r"2 of the 3 files have the same name .* first a/x.h5ad and a/x.h5ad"
    ):
        named_paths(["a/x.h5ad", "b/x.h5ad", "a/x.h5ad"])


@pytest.mark.parametrize(
    "line",
    [
        ["select", "d", "--labels-key", "k", "--out", "o"],
        ["panel", "d", "--labels-key", "k", "--genes", "g"],
        ["evaluate", "run", "d"],
        ["pretrain", "d", "--out", "o"],
        ["finetune", "run", "d", "--out", "o"],
        ["embed", "run", "d", "--out", "o"],
    ],
)
def test_every_command_that_reads_takes_every_option_of_reading(line):
    given = ["--layer", "l", "--use-raw", "--gene-names", "g", "--library-key", "n",
             "--allow-fractions", "--modality", "m", "--all-features"]  # fmt: skip
    found = reading(parser().parse_args([*line, *given]))
    assert found == {
        "layer": "l", "use_raw": True, "gene_names": "g", "library_key": "n",
        "allow_fractions": True, "modality": "m", "all_features": True,
    }  # fmt: skip
    assert ReadOptions.__optional_keys__ == {*found, "empty_cells"}
    assert reading(parser().parse_args(line)) == {}
    words = ["--layer", "X", "--gene-names", "var_names", "--library-key", "auto"]
    assert reading(parser().parse_args([*line, *words])) == {
        "layer": None, "gene_names": None, "library_key": None
    }  # fmt: skip
