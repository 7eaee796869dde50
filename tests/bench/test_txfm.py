"""TxFM's benchmark and ablations: what is run, kept, compared and written into the docs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernomics.models.txfm.config import TxFMConfig

ROOT = Path(__file__).resolve().parents[2]


def scores(value: float) -> dict[str, float]:
    """One representation's scores."""
    names = ("knn_accuracy", "linear_accuracy", "knn_macro_f1", "linear_macro_f1")
    return {name: value + i / 100 for i, name in enumerate(names)}


def line(seed: int, ours: float, pca: float, settings: str = "new", **more: Any) -> dict[str, Any]:
    """A line of results on pbmc3k."""
    by = {"TxFM": scores(ours), "PCA": scores(pca)}
    recall = {"TxFM encoder tokens, 32": ours / 2, "TxFM decoder weights, 32": pca / 2}
    return {
        "set": "pbmc3k", "seed": seed, "settings": settings,
        "scores": {"cell_type": by}, "recall": recall, **more,
    }  # fmt: skip


def test_representations_are_compared_seed_by_seed_over_the_newest_settings() -> None:
    from bench.txfm.table import recall_part, representations_part

    lines = [line(0, 0.1, 0.9, "old"), line(0, 0.8, 0.7), line(1, 0.9, 0.7)]
    rows = representations_part(lines).splitlines()
    assert rows[2].startswith("| PBMC 3k (2 seeds) | TxFM | 0.850 | 0.860 |")
    # Differences 0.1 and 0.2: mean 0.15, standard error 0.05.
    assert rows[3].startswith("|  | PCA | 0.700 (**+0.150 ± 0.050**) |")
    assert "| PBMC 3k | TxFM encoder tokens, 32 components | 0.425 |" in recall_part(lines)
    assert representations_part([]) == "No runs on record."
    lines[2]["scores"]["cell_type"]["scVI"] = scores(0.5)  # of one seed alone
    rows = representations_part(lines).splitlines()
    assert rows[-1].startswith("|  | scVI (1 seed) | 0.500 (+0.400")


def test_the_mean_over_sets_says_where_txfm_is_behind() -> None:
    from bench.txfm.table import summary_part

    lines = [line(0, 0.8, 0.7), line(1, 0.9, 0.7)]
    lines += [line(seed, 0.5, other) | {"set": "zheng"} for seed, other in ((0, 0.6), (1, 0.58))]
    lines += [line(seed, 0.5, other) | {"set": "kang"} for seed, other in ((0, 0.3), (1, 0.8))]
    # Gaps 0.15, −0.09 and −0.05, the last within its error.
    row = summary_part(lines).splitlines()[2]
    assert row.startswith("| PCA | 3 | +0.003 (behind on 1) |")
    assert summary_part([]) == "No runs on record."


def test_every_ablation_is_a_setting_and_stands_beside_the_papers_figure() -> None:
    from bench.txfm.ablation import ABLATIONS, identity, settings_of, table

    assert len({identity(*settings_of(name)) for name in ABLATIONS}) == len(ABLATIONS)
    for name in ABLATIONS:
        TxFMConfig.of_size("XXS", **settings_of(name)[0])
    lines = [
        line(seed, value, 0.5, identity(*settings_of(name)), ablation=name)
        for name, values in {
            "default": (0.8, 0.9), "MSE": (0.7, 0.9), "SmoothL1": (0.9, 0.9), "two blocks": (0, 0)
        }.items()
        for seed, value in zip((100, 101), values, strict=True)
    ]  # fmt: skip
    lines.append({**lines[3], "seed": 102, "settings": "of another day"})
    rows = table(lines).splitlines()
    # Ours put SmoothL1 before the default before MSE, the paper the default, MSE, SmoothL1.
    said = "- kNN accuracy and the paper's consistency: ρ = −0.50, p = 0.667, 3 settings"
    assert said in rows
    assert rows[2] == "| default | 0.850 | 0.860 | 0.425 | 0.250 | 2 | 37.3 / 32.6 / 43.9 |"
    assert rows[3].startswith("| MSE | 0.800 (−0.050 ± 0.050) | 0.810 (−0.050 ± 0.050) |")
    assert rows[3].endswith("| 2 | 27.2 / 31.1 / 41.8 |")


def test_fine_tuning_is_compared_by_number_of_cells() -> None:
    from bench.txfm.table import new_genes_part, transfer_part

    lines = [
        {
            "set": "pbmc3k", "seed": seed, "n_train": n, "settings": "new",
            "scores": {"cell_type": {"fine-tuned": scores(tuned), "PCA": scores(0.7)}},
        }
        for n in (200, 1839)
        for seed, tuned in ((0, 0.8), (1, 0.9))
    ]  # fmt: skip
    lines.append({**lines[-1], "set": "marrow", "n_train": 900})
    assert "| 900 (1 seed) | fine-tuned | 0.900 |" in new_genes_part(lines)
    rows = transfer_part(lines).splitlines()
    assert len(rows) == 6
    assert rows[2].startswith("| 200 (2 seeds) | fine-tuned | 0.850 | 0.860 |")
    assert rows[3].startswith("|  | PCA | 0.700 (**+0.150 ± 0.050**) |")
    assert rows[4].startswith("| 1,839 (2 seeds) | fine-tuned |")


def test_curation_draws_from_training_cells_and_as_many_at_random() -> None:
    from bench.txfm.curation import AS_MANY, CONTROLS, PHENOPRINTS, chosen_rows
    from kernomics.data import Split

    perturbations = np.array(["non-targeting", "strong", "weak", "strong"] * 10)
    train, test = np.arange(30), np.arange(30, 40)
    split = Split(train, np.array([], np.int64), test, "stratified", None, 0)
    found = chosen_rows(split, perturbations, ["strong"], 3)
    assert set(perturbations[found[CONTROLS]]) == {"non-targeting"}
    assert set(perturbations[found[PHENOPRINTS]]) == {"non-targeting", "strong"}
    assert set(perturbations[train]) - set(perturbations[found[PHENOPRINTS]]) == {"weak"}
    for choice, sample in AS_MANY.items():
        assert len(found[sample]) == len(found[choice]) == len(np.unique(found[sample]))
        assert set(perturbations[found[sample]]) == {"non-targeting", "strong", "weak"}
    assert all(np.isin(rows, train).all() for rows in found.values())
    # Where no perturbation has an effect, or all have, phenoprints are no choice of their own.
    for kept in ([], ["strong", "weak"]):
        assert set(chosen_rows(split, perturbations, kept, 3)) == {CONTROLS, AS_MANY[CONTROLS]}


def test_curation_is_compared_with_as_many_random_cells() -> None:
    from bench.txfm.curation import table

    def choice(n: int, ours: float, pca: float) -> dict[str, Any]:
        both = {"TxFM": ours, "PCA": pca}
        found = {name: {"share": x, "statistic": x / 10} for name, x in both.items()}
        return {"n_train": n, **{name: {"groups": by} for name, by in found.items()}}

    lines = [
        {
            "set": "papalexi", "seed": seed, "settings": settings, "n_perturbations": 25,
            "choices": {
                "all": choice(900, ours, 0.3), "controls": choice(100, ours - 0.1, 0.3),
                "random, as many as controls": choice(100, 0.1, 0.2),
            },
        }
        for seed, ours, settings in ((0, 0.4, "new"), (1, 0.6, "new"))
    ]  # fmt: skip
    rows = table([{**lines[0], "settings": "old"}, *lines]).splitlines()
    title = "Papalexi, THP-1 (25 perturbations, 2 seeds)"
    assert rows[2].startswith(f"| {title} | all | 900 | 0.500 ± 0.100 | 0.300 ± 0.000 | 0.050 ")
    # Differences 0.2 and 0.4: mean 0.3, standard error 0.1.
    assert rows[3].startswith("|  | controls | 100 | 0.400 ± 0.100 (**+0.300 ± 0.100**) |")
    assert rows[4].startswith("|  | random, as many as controls | 100 | 0.100 ± 0.000 |")
    assert len(rows) == 5
    assert table([]) == "No runs on record."


def test_memory_is_written_as_shares_of_eager() -> None:
    from bench.txfm.table import memory_part

    step = {"case": "S 12 blocks", "precision": "bf16", "way": "kernomics", "peak_bytes": 812e6}
    shares = {"peak_share": 0.54, "saved_share": 0.52, "time_share": 1.0}
    row = "| S 12 blocks, bf16 | kernomics | 812 MB | 0.54 | 0.52 | 1.00 |"
    assert memory_part([{**step, **shares}]).splitlines()[2] == row


def test_generated_parts_replace_what_stood_there_and_nothing_else() -> None:
    from bench.txfm import table as txfm_table

    text = "".join(f"Prose.\n{a}\nold\n{b}\n" for a, b in map(txfm_table.markers, txfm_table.PARTS))
    made = txfm_table.render(text, {"txfm": [line(0, 0.8, 0.7)]})
    assert "old" not in made
    assert made.count("Prose.\n") == len(txfm_table.PARTS)
    with pytest.raises(SystemExit, match="needs the lines"):
        txfm_table.render("no markers", {})


def test_the_docs_show_the_committed_results() -> None:
    from bench.txfm import table as txfm_table

    files = {file for file, _ in txfm_table.PARTS.values()}
    records = {file: txfm_table.read_lines(txfm_table.RESULTS / f"{file}.jsonl") for file in files}
    for page, parts in txfm_table.PAGES.items():
        text = page.read_text()
        assert txfm_table.render(text, records, parts) == text, "run python -m bench.txfm.table"


def test_every_part_is_on_one_page() -> None:
    from bench.txfm import table as txfm_table

    shown = [part for parts in txfm_table.PAGES.values() for part in parts]
    assert sorted(shown) == sorted(txfm_table.PARTS)


@pytest.mark.slow
def test_a_smoke_run_is_recorded_once(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "txfm.jsonl"
    command = [
        sys.executable, "-m", "bench.txfm.representations", "--smoke", "--sets", "zheng",
        "--seeds", "0", "--out", str(out),
    ]  # fmt: skip
    for _ in range(2):
        subprocess.run(
            command, check=True, cwd=ROOT, env={**os.environ, "KERNOMICS_DATA": str(data_dir)}
        )
    (found,) = [json.loads(text) for text in out.read_text().splitlines()]
    assert set(found["scores"]["cell_type"]) == {
        "TxFM", "PCA", "normalised counts", "PCA, all genes", "normalised counts, all genes",
        "PCA, 2,000 variable genes",
    }  # fmt: skip
    assert found["config"]["n_tokens"] == 50
    assert all(0 <= value <= 1 for value in found["recall"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "others"),
    [("pbmc3k", "trained on these cells alone"), ("marrow", "fine-tuned, 20 new genes")],
)
def test_a_smoke_run_of_transfer_is_recorded_once(
    target: str, others: str, data_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "transfer.jsonl"
    command = [sys.executable, "-m", "bench.txfm.transfer", "--smoke", "--seeds", "0"]
    command += ["--sets", target, "--cells", "100", "--sources", str(tmp_path), "--out", str(out)]
    for _ in range(2):
        subprocess.run(
            command, check=True, cwd=ROOT, env={**os.environ, "KERNOMICS_DATA": str(data_dir)}
        )
    (found,) = [json.loads(text) for text in out.read_text().splitlines()]
    assert found["n_train"] == 100
    ((_, scores),) = found["scores"].items()
    assert set(scores) == {"fine-tuned", "as it is", others, "PCA"}


@pytest.mark.slow
@pytest.mark.parametrize("screen", ["papalexi", "gasperini"])
def test_a_smoke_run_of_curation_is_recorded_once(
    screen: str, data_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "curation.jsonl"
    command = [sys.executable, "-m", "bench.txfm.curation", "--smoke", "--seeds", "0"]
    command += ["--sets", screen, "--out", str(out)]
    for _ in range(2):
        subprocess.run(
            command, check=True, cwd=ROOT, env={**os.environ, "KERNOMICS_DATA": str(data_dir)}
        )
    (found,) = [json.loads(text) for text in out.read_text().splitlines()]
    assert {"all", "controls", "random, as many as controls"} <= set(found["choices"])
    shares = [by["TxFM"]["groups"]["share"] for by in found["choices"].values()]
    assert all(0 <= share <= 1 for share in shares)
