"""What a YOTO training gives."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from kernomics import datasets
from kernomics.data import CellCollection, make_split
from kernomics.models import YOTO
from kernomics.train import TrainConfig

SHORT = pytest.mark.filterwarnings("ignore::kernomics.models.yoto.diagnostics.TrainingWarning")


def weights(model):
    return {**model.module.state_dict(), **model.panel.network.state_dict()}


def assert_same(one, other):
    assert one.genes == other.genes
    assert one.ranking.equals(other.ranking)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name
    assert one.history.without_timings() == other.history.without_timings()


# -- the panel -------------------------------------------------------------------------------------


def test_planted_markers_are_found_for_every_type():
    # 32 of 600 genes are markers: 16 genes drawn at random hold 0.85 of them on average, and 5 or
    # more in one of 1,000 draws. At least 12 of 16 are asked for, and every type among them.
    adata = datasets.simulate(600, 600, 4, 8, seed=11)
    model = YOTO(adata, "cell_type", 16, seed=0).train(max_epochs=60, progress=False)
    found = adata.var["marker_of"].loc[model.genes].dropna()
    assert len(found) >= 12
    assert set(found) == {"type_0", "type_1", "type_2", "type_3"}
    assert model.test_metrics()["cell_type"]["macro_f1"] > 0.9
    assert model.warnings == []


def test_several_tasks_share_one_panel(two_tasks):
    metrics = two_tasks.test_metrics()
    assert metrics["cell_type"]["accuracy"] > 0.85
    assert metrics["age"]["r2"] > 0.7
    assert len(set(two_tasks.genes)) == 12
    names = {f"loss/{task}" for task in ("cell_type", "age")}
    assert names <= set(two_tasks.history.select("train")[0])
    assert names | {"accuracy/cell_type", "r2/age"} <= set(
        two_tasks.history.select("validation")[0]
    )


def test_continuous_label_alone_is_split_at_random_and_learnt(adata, train_quickly):
    model = train_quickly(adata, "age", 8, max_epochs=60)
    assert model.split.how == "random"
    assert model.test_metrics()["age"]["r2"] > 0.6


def test_ranking_lists_every_gene_with_the_panel_first(two_tasks, simulated):
    ranking = two_tasks.ranking
    assert sorted(ranking.index) == sorted(simulated.var_names)
    assert ranking.index[:12].tolist() == two_tasks.genes
    assert ranking["selected"].tolist() == [True] * 12 + [False] * 108
    assert ranking["rank"].tolist() == list(range(1, 121))
    chosen, rest = ranking["score"].to_numpy()[:12], ranking["score"].to_numpy()[12:]
    assert (np.diff(chosen) <= 0).all()
    assert chosen.min() >= rest.max()


def test_forced_genes_are_in_and_forbidden_ones_out(adata, train_quickly):
    markers = adata.var_names[adata.var["marker_of"].notna()].tolist()
    others = adata.var_names[adata.var["marker_of"].isna()].tolist()
    model = train_quickly(
        adata, forced_genes=others[:2], forbidden_genes=markers[:5], max_epochs=10
    )
    assert set(others[:2]) <= set(model.genes)
    assert not set(markers[:5]) & set(model.genes)
    assert model.ranking["score"][others[:2]].tolist() == [np.inf] * 2
    assert model.ranking["score"][markers[:5]].tolist() == [-np.inf] * 5


def test_one_gene_name_may_be_given_as_a_string(adata, train_quickly):
    gene = adata.var_names[7]
    assert gene in train_quickly(adata, forced_genes=gene).genes


def test_genes_in_no_training_cell_are_never_chosen(adata, train_quickly):
    dense = adata.X.toarray()
    split = make_split(400, how="random", seed=0)
    silent = np.arange(0, 120, 2)
    dense[np.ix_(split.train, silent)] = 0  # the other cells keep theirs
    adata.X = dense
    model = train_quickly(adata, n_genes=60, split=split)
    assert not set(adata.var_names[silent]) & set(model.genes)
    assert (model.ranking["score"][adata.var_names[silent]] == -np.inf).all()


@pytest.mark.parametrize("k", [1, 120])
def test_panel_of_one_gene_and_of_all_genes(adata, train_quickly, k):
    model = train_quickly(adata, n_genes=k)
    assert len(model.genes) == k
    told = model.warnings[: k == 120]
    assert not any("scores are nearly all the same" in warning for warning in told)
    assert len(model.predict(adata)) == 400


def test_all_genes_forced_leaves_a_predictor_for_a_given_panel(adata, train_quickly):
    given = adata.var_names[10:18].tolist()
    model = train_quickly(adata, n_genes=8, forced_genes=given)
    assert sorted(model.genes) == sorted(given)


@pytest.mark.parametrize("relaxation", ["softsort", "neuralsort", "softmax"])
def test_every_relaxation_trains_scores_and_predictor(adata, train_quickly, relaxation):
    model = train_quickly(adata, relaxation=relaxation, max_epochs=40)
    losses = model.history.column("loss")
    assert losses[-1] < 0.7 * losses[0]
    assert model.history.column("score_variance")[-1] > 1e-4
    markers = adata.var["marker_of"].loc[model.genes].notna().sum()
    assert markers >= 5  # 2.1 of 8 by chance


def test_schedules_reach_their_ends_in_the_history(adata, train_quickly):
    model = train_quickly(adata, max_epochs=12, start_genes=40, shrink_until=0.5)
    sizes = model.history.column("subset_size")
    assert sizes == sorted(sizes, reverse=True)
    assert 8 < sizes[0] <= 40
    assert sizes[-1] == 8
    assert model.history.column("noise")[-1] == pytest.approx(model.config.noise_end, abs=1e-6)
    assert model.history.column("temperature")[-1] < 1.3 * model.config.tau_end


@SHORT
def test_rows_of_genes_never_chosen_keep_their_first_weights(adata):
    model = YOTO(adata, "cell_type", 4, start_genes=4, noise_start=0.0, seed=2)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        untrained = model._module()
    model.train(max_epochs=1, progress=False)
    moved = (model.module.first.weight != untrained.first.weight).any(dim=1)
    assert 4 <= moved.sum() < 60


# -- labels ----------------------------------------------------------------------------------------


def test_cells_without_a_label_are_used_for_the_other_task(adata, train_quickly):
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[::2], "cell_type"] = None
    adata.obs.loc[adata.obs_names[1::3], "age"] = np.nan
    model = train_quickly(adata, ["cell_type", "age"], max_epochs=30)
    metrics = model.test_metrics()
    test = adata.obs.iloc[model.split.test]
    assert metrics["cell_type"]["n_cells"] == test["cell_type"].notna().sum()
    assert metrics["age"]["n_cells"] == test["age"].notna().sum()
    assert metrics["cell_type"]["accuracy"] > 0.6
    assert all(np.isfinite(model.history.column("loss")))


def test_unlabelled_category_is_no_class(adata, train_quickly):
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories({"type_3": "Unknown"})
    model = train_quickly(adata, unlabelled_category="Unknown")
    assert model.tasks[0].classes == ("type_0", "type_1", "type_2")
    assert set(model.predict(adata)["cell_type"]) <= set(model.tasks[0].classes)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("bool", "categorical"),
        ("str", "categorical"),
        ("category", "categorical"),
        ("float", "continuous"),
        ("int as classes", "categorical"),
    ],
)
def test_label_columns_of_every_type(adata, train_quickly, column, kind):
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    adata.obs["label"] = {
        "bool": codes > 1,
        "str": np.array(["alpha", "beta", "gamma", "δ"])[codes],
        "category": pd.Categorical.from_codes(codes, ["z", "y", "x", "w"]),
        "float": codes + 0.5,
        "int as classes": codes.astype(int),
    }[column]
    kinds = {"label": "categorical"} if column == "int as classes" else None
    model = train_quickly(adata, "label", label_kinds=kinds)
    assert model.tasks[0].kind == kind
    truth, predicted = adata.obs["label"], model.predict(adata)["label"]
    if kind == "categorical":
        assert set(predicted.astype(str)) <= set(truth.astype(str))
    else:
        assert predicted.dtype == np.float32
    assert model.evaluate(adata)["label"]["n_cells"] == 400


def test_task_weight_0_takes_a_task_out_of_the_loss(adata, train_quickly):
    options = {"n_genes": 8, "max_epochs": 4}
    both = train_quickly(adata, ["cell_type", "age"], **options, task_weights={"age": 0.0})
    record = both.history.select("train")[0]
    assert record["loss"] == pytest.approx(record["loss/cell_type"] / 2, rel=1e-5)


# -- the same again --------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(adata, train_quickly):
    options = {"n_genes": 8, "max_epochs": 3}
    first = train_quickly(adata, seed=4, **options)
    torch.manual_seed(99)  # the caller's random numbers play no part
    assert_same(first, train_quickly(adata, seed=4, **options))
    other = train_quickly(adata, seed=5, **options)
    assert other.genes != first.genes
    assert not np.array_equal(other.split.train, first.split.train)


def test_training_leaves_the_callers_random_numbers_alone(adata, train_quickly):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train_quickly(adata)
    assert torch.equal(torch.rand(3), expected)


@SHORT
def test_training_again_begins_anew(adata):
    model = YOTO(adata, "cell_type", 8)
    model.train(max_epochs=2, progress=False)
    first = copy.deepcopy(model.panel.network.state_dict())
    model.train(max_epochs=2, progress=False)
    for name, tensor in model.panel.network.state_dict().items():
        assert torch.equal(tensor, first[name])


@pytest.mark.parametrize("source", ["csc", "dense", "view", "path", "backed", "collection"])
def test_every_source_gives_the_same_bits_as_csr_in_memory(adata, train_quickly, tmp_path, source):
    adata.obs["cell_type"] = adata.obs["cell_type"].astype("category")
    expected = train_quickly(adata.copy())
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    given = {
        "csc": lambda: with_x(adata, adata.X.tocsc()),
        "dense": lambda: with_x(adata, adata.X.toarray()),
        "view": lambda: adata[:, :],
        "path": lambda: path,
        "backed": lambda: __import__("anndata").read_h5ad(path, backed="r"),
        "collection": lambda: CellCollection.from_anndata(adata, labels_key="cell_type"),
    }[source]()
    labels = None if source == "collection" else "cell_type"
    if source == "csc":
        with pytest.warns(UserWarning, match="CSC"):
            model = train_quickly(given, labels)
    else:
        model = train_quickly(given, labels)
    if source == "backed":
        given.file.close()
    assert_same(expected, model)


def with_x(adata, x):
    other = adata.copy()
    other.X = x
    return other


@SHORT
def test_many_cells_on_disk_give_the_batches_they_give_in_memory(tmp_path):
    # More training cells than the sampler shuffles together, where disk and memory could part.
    adata = datasets.simulate(7000, 40, 3, 4, seed=0, mean_counts=100)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    settings = {"max_epochs": 1, "batch_size": 1024, "progress": False}
    memory, disk = (
        YOTO(source, "cell_type", 4).train(**settings)
        for source in (adata, tmp_path / "cells.h5ad")
    )
    assert len(memory.split.train) > 4096
    assert disk.cells.on_disk
    assert_same(memory, disk)


def panel_of_threads(n_threads, adata, labels_key, n_genes, max_epochs=None, **options):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        model = YOTO(adata, labels_key, n_genes, **options)
        return model.train(max_epochs, progress=False).genes
    finally:
        torch.set_num_threads(before)


# Our ops give the same bits for any number of threads. Matrix products of torch's own may not, and
# thousands of steps make much of a last bit, so the panel is promised to be the same for the same
# number of threads alone (docs/decisions.md). Where the markers are clear it is all the same.
@pytest.mark.slow
def test_one_and_two_threads_choose_the_same_simulated_genes(adata):
    one, two = (panel_of_threads(n, adata, "cell_type", 8, max_epochs=30) for n in (1, 2))
    assert one == two


# -- split, input, history -------------------------------------------------------------------------


def test_group_split_shares_no_group(adata, train_quickly):
    model = train_quickly(adata, split="group", split_key="donor", fractions=(0.6, 0.2, 0.2))
    donors = adata.obs["donor"].to_numpy()
    parts = [
        set(donors[rows]) for rows in (model.split.train, model.split.validation, model.split.test)
    ]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 5
    assert model.panel.info["split"] == {"how": "group", "by": "donor", "seed": 0}


def test_no_cells_to_validate_or_test_are_needed(adata, train_quickly):
    model = train_quickly(adata, fractions=(1.0, 0.0, 0.0))
    assert model.history.select("validation") == []
    assert len(model.predict(adata)) == 400


@SHORT
def test_early_stopping_watches_a_tasks_validation(adata):
    model = YOTO(adata, "cell_type", 8)
    model.train(
        max_epochs=60,
        batch_size=64,
        validate_every=1,
        patience=3,
        monitor="macro_f1/cell_type",
        mode="max",
        progress=False,
    )
    assert model.history.stopped_early
    scores = model.history.column("macro_f1/cell_type", "validation")
    assert model.history.best_value == max(scores)
    with torch.no_grad():
        assert model._validate(model.module)["macro_f1/cell_type"] == max(scores)


def test_validation_in_blocks_is_that_of_all_cells(adata, monkeypatch, train_quickly):
    adata.obs.loc[adata.obs_names[::3], "age"] = np.nan
    model = train_quickly(adata, ["cell_type", "age"])
    with torch.no_grad():
        whole = model._validate(model.module)
        monkeypatch.setattr("kernomics.data.row_numbers.CELLS_AT_A_TIME", 7)
        assert model._validate(model.module) == pytest.approx(whole, rel=1e-5)


@SHORT
def test_accumulated_batches_see_one_panel_per_step(adata, monkeypatch):
    model = YOTO(adata, "cell_type", 8, noise_start=1.0, noise_end=1.0, fix_panel_at=0.0)
    seen = []
    inner = model._optimizer

    def watched(module):
        module.first.register_forward_hook(
            lambda layer, *_: (
                seen.append((module.step, tuple(layer.touched.tolist())))
                if module.training
                else None
            )
        )
        return inner(module)

    monkeypatch.setattr(model, "_optimizer", watched)
    model.train(max_epochs=2, batch_size=32, accumulate=3, progress=False)
    steps = {step for step, _ in seen}
    assert len(steps) == 2 * 3  # nine batches an epoch
    assert len(seen) == 2 * 9
    assert len(set(seen)) == len(steps)
    assert len({panel for _, panel in seen}) == len(steps)


@SHORT
def test_half_precision_trains_with_losses_in_float32(adata):
    model = YOTO(adata, ["cell_type", "age"], 8)
    model.train(max_epochs=20, precision="bf16", progress=False)
    assert model.history.column("loss")[-1] < 0.9 * model.history.column("loss")[0]
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.module.task_losses(model.cells.batch(np.arange(50)))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


@pytest.mark.gpu
@SHORT
def test_training_on_a_gpu_gives_a_panel_that_predicts_on_the_cpu(adata, tmp_path):
    model = YOTO(adata, ["cell_type", "age"], 8)
    model.train(max_epochs=40, device="cuda", progress=False, run_dir=tmp_path)
    assert model.history.column("loss")[-1] < 0.7 * model.history.column("loss")[0]
    assert next(model.panel.network.parameters()).device.type == "cpu"
    assert len(model.predict(adata)) == 400
    again = YOTO(adata, ["cell_type", "age"], 8)
    again.train(max_epochs=40, device="cuda", progress=False, run_dir=tmp_path, resume=True)
    assert again.genes == model.genes


def test_settings_are_recorded_with_the_panel(two_tasks):
    info = two_tasks.panel.info
    assert info["config"]["n_genes"] == 12
    assert info["training"]["max_epochs"] == 60
    assert info["seed"] == 1
    assert TrainConfig(**info["training"]) == two_tasks.training
    assert info["trained_on"] == {"cells": len(two_tasks.split.train), "genes": 120}
