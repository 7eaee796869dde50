"""Panels of several seeds: how their agreement is measured, the consensus, and resuming."""

import json
import warnings

import anndata
import numpy as np
import pytest
import torch

import kernomics as kn
from kernomics import datasets
from kernomics.data import CellCollection
from kernomics.errors import CheckpointError, ConfigError
from kernomics.evaluation.panels import panel_stability
from kernomics.evaluation.panels.retraining import again
from kernomics.evaluation.panels.stability import (
    above_budget,
    agreement,
    jaccard_matrix,
    kuncheva_index,
)
from kernomics.models import YOTO, Panel
from kernomics.train import override

pytest.importorskip("sklearn", reason="the report extra is not installed")

K, SEED = 8, 2
MARKERS = 6
"""Genes that tell the three types apart; no other gene does."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Trainings are compared to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def adata():
    return datasets.simulate(300, 60, 3, 2, fold_change=30, seed=9)


@pytest.fixture(scope="module")
def cells(adata):
    return CellCollection.from_anndata(adata, labels_key="cell_type")


def untrained(cells, n_genes=K, *, seed=SEED, max_epochs=12, **options):
    model = YOTO(cells, n_genes=n_genes, seed=seed, **options)
    model.training = override(model.training, max_epochs=max_epochs, batch_size=64)
    return model


@pytest.fixture(scope="module")
def model(cells):
    """A trained model; changed by no test."""
    return untrained(cells).train(progress=False)


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory):
    """The stability over three seeds, and the folder that its trainings are kept in."""
    folder = tmp_path_factory.mktemp("stability")
    return panel_stability(model, 3, folder=folder, progress=False), folder


@pytest.fixture
def trainings(monkeypatch):
    """The seed of each training that is begun."""
    begun = []
    train = YOTO.train

    def counted(self, *args, **settings):
        begun.append(self.seed)
        return train(self, *args, **settings)

    monkeypatch.setattr(YOTO, "train", counted)
    return begun


# -- how alike panels are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("panels", "n_genes", "expected"),
    [
        (["ab", "ba"], 4, 1.0),
        (["ab", "cd"], 4, -1.0),  # (0 − 1)/(2 − 1)
        (["ab", "ac"], 4, 0.0),  # (1 − 1)/(2 − 1): what chance gives
        (["ab", "ac"], 5, 1 / 6),  # (1 − 0.8)/(2 − 0.8)
        (["ab", "ab", "ac"], 5, (1 + 1 / 6 + 1 / 6) / 3),  # the mean over the three pairs
        (["a", "ab"], 4, 1 - 2 * 0.25 / (1.5 * (1 - 1.5 / 4))),  # sizes that differ
        (["abc", "abc"], 3, np.nan),  # there was no choice
        (["", ""], 3, np.nan),
    ],
)
def test_kuncheva_index_is_that_of_the_formula(panels, n_genes, expected):
    found = kuncheva_index([list(genes) for genes in panels], n_genes)
    assert found == pytest.approx(expected, nan_ok=True)


def test_random_panels_have_a_kuncheva_index_of_about_zero():
    random = np.random.default_rng(0)
    panels = [random.choice(100, 30, replace=False).astype(str).tolist() for _ in range(40)]
    assert abs(kuncheva_index(panels, 100)) < 0.02


def test_overlap_is_shared_genes_over_all_genes_of_both():
    overlap = jaccard_matrix({4: ["a", "b", "c"], 7: ["c", "d", "b"], 9: ["x", "y", "z"]})
    assert overlap.index.tolist() == overlap.columns.tolist() == [4, 7, 9]
    assert overlap.to_numpy().tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]


def test_consensus_goes_by_frequency_then_mean_rank_then_name():
    frequency, consensus = agreement({0: list("abc"), 1: list("bad"), 2: list("bce")})
    # Mean ranks: b 4/3; a 1.5, c 2.5; d and e 3.
    assert frequency.index.tolist() == ["b", "a", "c", "d", "e"]
    assert frequency.tolist() == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 1 / 3])
    assert consensus == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("panels", "n_genes", "said"),
    [
        ([["a"]], 4, "an overlap needs at least 2 panels, not 1"),
        ([["a", "b"], ["c", "d"]], 3, "the panels hold 4 different genes, more than the 3"),
    ],
)
def test_panels_that_cannot_be_compared_are_refused(panels, n_genes, said):
    with pytest.raises(ConfigError, match=said):
        kuncheva_index(panels, n_genes)


# -- several seeds ---------------------------------------------------------------------------------


def test_every_seed_finds_the_markers_and_the_consensus_has_k_genes(kept, adata):
    found, _ = kept
    assert list(found.panels) == [SEED, SEED + 1, SEED + 2]
    assert all(len(set(genes)) == K for genes in found.panels.values())
    markers = adata.var_names[adata.var["marker_of"].notna()]
    assert len(markers) == MARKERS
    assert (found.frequency[markers] == 1).all()
    assert len(set(found.consensus)) == K
    assert set(markers) < set(found.consensus)
    for gene, share in found.frequency.items():
        assert share == np.mean([gene in genes for genes in found.panels.values()])
    # Panels that differ at all share the 6 markers at least: 6/10 ≤ Jaccard ≤ 1.
    assert found.overlap.to_numpy().min() >= MARKERS / (2 * K - MARKERS)
    assert found.kuncheva == kuncheva_index(list(found.panels.values()), model_usable(found))


def model_usable(found):
    return int((found.consensus_panel.ranking["score"] >= 0).sum())


def test_trained_model_stands_for_its_own_seed(model, trainings):
    panels = panel_stability(model, 2, predictor=False, progress=False)
    assert trainings == [SEED + 1]
    assert panels.panels[SEED] == model.genes
    assert panels.consensus_panel is None
    own = {f"cell_type/{name}": model.test_metrics()["cell_type"][name] for name in
           ("accuracy", "macro_f1", "auprc")}  # fmt: skip
    assert panels.scores.loc[SEED].to_dict() == own


def test_untrained_model_stays_untrained_and_gives_the_same_panels(cells, kept):
    model = untrained(cells)
    found = panel_stability(model, 3, progress=False)
    assert model.panel is None
    assert found.to_dict() == kept[0].to_dict()


def test_seeds_may_be_listed(model, trainings):
    found = panel_stability(model, [11, SEED], predictor=False, progress=False)
    assert list(found.panels) == [11, SEED]
    assert trainings == [11]


def test_function_that_ignores_the_seed_gives_the_same_panel_each_time(cells):
    found = panel_stability(
        lambda _: untrained(cells, max_epochs=2), [5, 6], predictor=False, progress=False
    )
    assert found.panels[5] == found.panels[6]
    assert (found.overlap == 1).all().all()
    assert found.mean_overlap == found.kuncheva == 1
    assert (found.frequency == 1).all()


def test_consensus_has_a_predictor_of_its_own(kept, model, adata):
    found, folder = kept
    panel = found.consensus_panel
    assert panel.genes == found.consensus
    assert panel.ranking.index[:K].tolist() == found.consensus
    assert panel.ranking["score"].iloc[:K].tolist() == pytest.approx(
        found.frequency[found.consensus].tolist()
    )
    assert panel.info["consensus_of_seeds"] == [2, 3, 4]
    # Its columns are in the order of its genes: it predicts as well from the saved form.
    loaded = Panel.load(folder / "consensus")
    held_out = adata[model.split.test]
    expected = found.consensus_scores.loc["its own network"]
    for one in (panel, loaded):
        assert one.evaluate(held_out)["cell_type"]["accuracy"] == expected["cell_type/accuracy"]
    assert expected["cell_type/accuracy"] > 0.9
    assert found.consensus_scores.loc["independent regression", "cell_type/accuracy"] > 0.9


def test_forced_genes_stay_and_do_not_count_as_agreement(cells):
    forced = ["gene_1", "gene_2"]
    model = untrained(cells, 3, forced_genes=forced, forbidden_genes=["gene_3"], max_epochs=2)
    found = panel_stability(model, 2, progress=False)
    assert set(forced) < set(found.consensus)
    free = [[g for g in genes if g not in forced] for genes in found.panels.values()]
    assert [len(genes) for genes in free] == [1, 1]
    assert found.kuncheva == pytest.approx(kuncheva_index(free, model.bounds.usable - 2))
    whole = untrained(cells, 2, forced_genes=forced, max_epochs=2)
    nothing_to_choose = panel_stability(whole, 2, predictor=False, progress=False)
    assert np.isnan(nothing_to_choose.kuncheva)
    assert nothing_to_choose.mean_overlap == 1


def test_model_made_again_differs_in_what_is_asked_alone(cells):
    first = untrained(
        cells, forced_genes=["gene_5"], forbidden_genes=["gene_6"], exclude_patterns=["gene_1"],
        task_weights={"cell_type": 2.0}, dropout=0.1,
    )  # fmt: skip
    other = again(first, seed=7, n_genes=4)
    assert (other.seed, other.training.seed, other.config.n_genes) == (7, 7, 4)
    assert override(other.config, n_genes=K) == first.config
    assert override(other.training, seed=first.training.seed) == first.training
    assert other.split is first.split
    assert other.tasks == first.tasks
    for name in ("forced", "forbidden", "forbidden_names"):
        assert np.array_equal(getattr(other.bounds, name), getattr(first.bounds, name))


def test_resampling_draws_80_percent_of_the_training_cells_of_each_class(cells):
    first = untrained(cells)
    drawn = [again(first, seed=seed, resample=True).split for seed in (3, 3, 4)]
    sizes = first.cells.labels["cell_type"].subset(first.split.train).counts()
    for split in drawn:
        assert np.isin(split.train, first.split.train).all()
        for part in ("validation", "test"):
            assert np.array_equal(getattr(split, part), getattr(first.split, part))
        found = first.cells.labels["cell_type"].subset(split.train).counts()
        assert all(abs(found[name] - 0.8 * size) <= 1 for name, size in sizes.items())
    assert np.array_equal(drawn[0].train, drawn[1].train)
    assert not np.array_equal(drawn[0].train, drawn[2].train)


def test_resampled_seeds_are_kept_apart_from_the_others(model, kept, trainings, tmp_path):
    found = panel_stability(
        model, 2, resample=True, predictor=False, folder=tmp_path, progress=False
    )
    assert found.resampled
    assert trainings == [SEED + 1]
    panel_stability(model, 2, predictor=False, folder=tmp_path, progress=False)
    assert trainings == [SEED + 1, SEED + 1]


def test_without_held_out_cells_there_are_no_scores(cells):
    model = untrained(cells, max_epochs=2, fractions=(0.8, 0.2, 0.0))
    found = panel_stability(model, 2, progress=False)
    assert found.scores.shape == (2, 0)
    assert found.consensus_scores.shape == (2, 0)
    assert found.scores.index.tolist() == [SEED, SEED + 1]
    assert len(found.consensus) == K


def test_consensus_above_the_budget_is_told(cells):
    costs = dict.fromkeys(cells.genes, 1.0) | {"gene_0": 5.0}
    model = untrained(cells, 2, gene_costs=costs, budget=3.0)
    assert above_budget(model, ["gene_1", "gene_2"]) == []
    assert above_budget(model, ["gene_0", "gene_1"]) == [
        "The consensus costs 6, more than the budget of 3 that the panel of each seed keeps to."
    ]
    assert above_budget(untrained(cells), ["gene_0"]) == []


def test_warnings_of_further_trainings_name_their_seed(cells, monkeypatch):
    monkeypatch.setattr(
        "kernomics.models.yoto.model.training_warnings", lambda *_, **__: ["All is lost."]
    )
    model = untrained(cells, max_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(progress=False)
    found = panel_stability(model, 2, predictor=False, progress=False)
    assert found.warnings == ["Seed 3: All is lost."]


# -- resuming --------------------------------------------------------------------------------------


def same_weights(one, other):
    state = other.network.state_dict()
    return all(torch.equal(v, state[k]) for k, v in one.network.state_dict().items())


def test_finished_seeds_are_not_trained_again_and_the_result_is_the_same(model, kept, trainings):
    first, folder = kept
    second = panel_stability(model, 3, folder=folder, progress=False)
    assert trainings == []
    assert second.to_dict() == first.to_dict()
    assert second.table.equals(first.table)
    assert same_weights(second.consensus_panel, first.consensus_panel)


def test_interrupted_stability_continues_to_the_same_result(model, kept, monkeypatch, tmp_path):
    train = YOTO.train

    def interrupted(self, *args, **settings):
        if self.seed == SEED + 2:
            raise KeyboardInterrupt
        return train(self, *args, **settings)

    monkeypatch.setattr(YOTO, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        panel_stability(model, 3, folder=tmp_path, progress=False)
    monkeypatch.setattr(YOTO, "train", train)
    begun = sorted(path.name.split("-seed-")[1][0] for path in (tmp_path / "trainings").iterdir())
    assert begun == ["2", "3"]
    found = panel_stability(model, 3, folder=tmp_path, progress=False)
    assert found.to_dict() == kept[0].to_dict()
    assert same_weights(found.consensus_panel, kept[0].consensus_panel)


def test_other_settings_in_the_same_folder_do_not_take_the_trainings_of_these(
    model, kept, cells, trainings, tmp_path
):
    panel_stability(untrained(cells, max_epochs=1), 2, folder=tmp_path, progress=False)
    assert trainings == [2, 3, 2]  # the last is the predictor of the consensus
    panel_stability(untrained(cells, max_epochs=2), 2, folder=tmp_path, progress=False)
    assert trainings == [2, 3, 2] * 2


def test_damaged_record_is_named(cells, tmp_path):
    model = untrained(cells, max_epochs=1)
    panel_stability(model, 2, predictor=False, folder=tmp_path, progress=False)
    damaged = sorted((tmp_path / "trainings").iterdir())[0]
    damaged.write_text("{")
    with pytest.raises(CheckpointError, match=f"{damaged.name} is not valid JSON .* remove it"):
        panel_stability(model, 2, predictor=False, folder=tmp_path, progress=False)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (1, "seeds is 1: at least 2 are needed"),
        ([7], r"seeds is \[7\]: at least 2 are needed"),
        (-3, "at least 2"),
        ([4, 5, 4], "1 of 3 seeds are repeated, first 4"),
        ([1, 2.5], "it must be an integer or a list of integers"),
        (2.0, "it must be an integer or a list of integers"),
        (True, "it must be an integer or a list of integers"),
    ],
)
def test_seeds_that_make_no_sense_are_refused(model, seeds, said):
    with pytest.raises(ConfigError, match=said):
        panel_stability(model, seeds)


def test_models_that_hold_out_other_cells_are_refused(cells, trainings):
    with pytest.raises(
        ConfigError, match="made for seed 1 holds out different cells from the first"
    ):
        panel_stability(lambda seed: untrained(cells, seed=seed, max_epochs=1), 2, progress=False)
    assert trainings == [0]


def test_function_cannot_be_resampled(cells):
    with pytest.raises(ConfigError, match="resample=True needs a model"):
        panel_stability(lambda _: untrained(cells), 2, resample=True)


# -- one line, and the command ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::kernomics.models.yoto.diagnostics.TrainingWarning")
def test_one_liner_adds_what_a_file_can_hold(adata, tmp_path):
    adata = adata.copy()
    adata.obs["a/b"] = adata.obs["cell_type"].to_numpy()
    found = kn.tl.panel_stability(adata, "a/b", 4, n_seeds=2, max_epochs=1, progress=False)
    del adata.obs["a/b"]  # no file can hold this column, but our result of it
    adata.write_h5ad(tmp_path / "cells.h5ad")
    stored = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["panel_stability"]
    assert stored["consensus"].tolist() == found.consensus
    for seed, genes in found.panels.items():
        rows = stored["panels"][stored["panels"]["seed"] == seed]
        assert rows.sort_values("rank")["gene"].tolist() == genes
    assert set(stored["scores"]["task"]) == {"a/b"}
    assert set(stored["scores"]["metric"]) == {"accuracy", "macro_f1", "auprc"}
    assert stored["overlap"].tolist() == found.overlap.to_numpy().tolist()
    assert stored["kuncheva"] == found.kuncheva
    assert stored["frequency"]["frequency"].to_dict() == found.frequency.to_dict()
    assert stored["params"]["n_seeds"] == 2


def test_results_can_be_read_from_the_json_form(kept):
    found, _ = kept
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["consensus"] == found.consensus
    assert stored["panels"][str(SEED)] == found.panels[SEED]
    assert stored["mean_overlap"] == found.mean_overlap
