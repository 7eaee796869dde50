"""A GIL's training: the same again, in parts, and saved."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from staged_example import ONE, QUICK, SMALL, TWO, cells, model, stages, trained

import kernomics as kn
from kernomics.errors import CheckpointError, ConfigError, DataError
from kernomics.models import GIL, ExpressionModel, GILConfig
from kernomics.models.gene_components import gene_components, mapped
from kernomics.models.gil import record
from kernomics.models.gil.config import default_training
from kernomics.models.gil.methods import DER, EWC, Distillation, Replay
from kernomics.models.gil.record import StageRecord
from kernomics.train import save_model_dir
from kernomics.train.step import Stepper

METHODS = ["naive", "joint", "freezing", "adapters", [Replay(memory=10), Distillation()]]


def same(one: GIL, other: GIL) -> bool:
    weights = zip(one.trained.module.parameters(), other.trained.module.parameters(), strict=True)
    return (
        all(torch.equal(a, b) for a, b in weights)
        and one.history.without_timings() == other.history.without_timings()
        and one.losses().equals(other.losses())
        and one.losses("queries").equals(other.losses("queries"))
    )


def test_a_training_has_a_row_after_each_stage_and_learns():
    adata = cells()  # of genes whose means differ by far more than their values
    rates = np.linspace(1, 60, 40)[np.random.default_rng(0).permutation(40)]
    adata.X = np.random.default_rng(1).poisson(rates, (120, 40)).astype(np.float32)
    gil = model(adata=adata)
    gil.train(max_epochs=20, batch_size=16, learning_rate=0.01, progress=False)
    table = gil.losses()
    assert table.index.tolist() == ["start", "base", "one", "two"]
    assert table.columns.tolist() == ["base", "one", "two"]
    for after, before in (("base", "start"), ("one", "base"), ("two", "one")):
        assert table.loc[after, after] < 0.7 * table.loc[before, after]
    assert gil.trained.genes.tolist() == gil.stages.vocabulary
    assert len(gil.after("base").genes) == 28
    assert "after base, one, two" in repr(gil.trained)
    stages_of = [record["stage"] for record in gil.history.select("train")]
    assert stages_of == ["base"] * 20 + ["one"] * 20 + ["two"] * 20
    steps = [record["step"] for record in gil.history]
    assert steps == sorted(steps)


def test_losses_are_mean_squared_errors_over_each_stage_s_test_cells():
    gil = trained()
    errors = gil.scores["two"]
    group = gil.stages.group_of_gene()
    for g, name in enumerate(gil.stages.names):
        mean = errors.tokens[group == g].sum() / errors.counts[group == g].sum()
        assert gil.losses().loc["two", name] == pytest.approx(mean)
    with pytest.raises(ConfigError, match="of is 'token'"):
        gil.losses("token")


def test_masks_of_the_scores_are_the_same_for_all_models_and_stages():
    counts = [e.counts.tolist() for gil in map(trained, METHODS) for e in gil.scores.values()]
    assert all(found == counts[0] for found in counts)


@pytest.mark.parametrize("method", METHODS[2:])
def test_a_seed_gives_the_same_training(method):
    assert same(trained(method), trained(method))


@pytest.mark.parametrize(
    ("method", "stop"),
    [
        ("naive", 2),
        ("joint", 8),
        ("freezing", 9),
        ("adapters", 9),
        ("adapters", 12),
        ([Replay(memory=10), Distillation()], 12),
        (DER(memory=10, batch=8), 9),
        (DER(memory=10, batch=8), 12),
        (EWC(n_batches=3, batch=8), 9),
        (EWC(n_batches=3, batch=8), 12),
        (["features", "distillation", "adapters"], 12),
        (["features", "ghosts"], 12),
        ([Replay(memory=10), DER(memory=7, batch=8), "features", "ghosts", EWC(n_batches=3)], 13),
    ],
)
def test_a_training_that_was_stopped_goes_on_to_the_same_end(method, stop, tmp_path, monkeypatch):
    """Stopped in the middle of a stage: the first has 6 steps, the others have 4."""
    whole = trained(method)
    every = {**QUICK, "checkpoint_every_seconds": 0.0}
    step, made = Stepper.take, []

    def stopping(self, *arguments):
        made.append(1)
        if len(made) == stop:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", stopping)
        with pytest.raises(KeyboardInterrupt):
            model(method).train(run_dir=tmp_path, **every)
    again = model(method).train(run_dir=tmp_path, resume=True, **every)
    assert same(whole, again)
    assert len(made) == stop
    finished = model(method).train(run_dir=tmp_path, resume=True, **every)
    assert same(whole, finished)


def test_a_directory_of_other_stages_or_settings_is_refused(tmp_path):
    model().train(run_dir=tmp_path, **QUICK)
    with pytest.raises(CheckpointError, match="holds a training in stages: continue it"):
        model().train(run_dir=tmp_path, **QUICK)
    other = GIL(cells(), stages(seed=1), **SMALL)
    with pytest.raises(CheckpointError, match="its stages are others than those given"):
        other.train(run_dir=tmp_path, resume=True, **QUICK)
    with pytest.raises(ConfigError, match=r"1 settings differ: .*methods"):
        model("freezing").train(run_dir=tmp_path, resume=True, **QUICK)
    with pytest.raises(CheckpointError, match="there is no run in"):
        model().train(run_dir=tmp_path / "nowhere", resume=True, **QUICK)


def test_what_is_saved_is_read_and_does_the_same(tmp_path):
    gil, adata = trained(), cells()
    gil.save(tmp_path / "model")
    found = kn.models.load(tmp_path / "model")
    assert isinstance(found, ExpressionModel)
    assert found.info["stages"] == ["base", "one", "two"]
    assert np.array_equal(
        found.get_latent_representation(adata), gil.get_latent_representation(adata)
    )
    assert (
        json.loads((tmp_path / "model" / "model.json").read_text())["genes"] == found.genes.tolist()
    )
    assert found.predict(adata, TWO).equals(gil.predict(adata, TWO))


def test_cells_are_represented_alike_alone_and_in_company():
    gil, adata = trained(), cells()
    whole = gil.get_latent_representation(adata)
    assert whole.shape == (120, 16)
    alone = gil.get_latent_representation(adata[[7, 3]].copy(), batch_size=1)
    np.testing.assert_allclose(alone, whole[[7, 3]], rtol=1e-4, atol=1e-5)
    some = gil.get_latent_representation(adata, rows=[3, 7], n_tokens=10)
    again = gil.get_latent_representation(adata, n_tokens=10)
    np.testing.assert_allclose(some, again[[3, 7]], rtol=1e-4, atol=1e-5)


def test_genes_that_are_predicted_are_not_seen():
    gil, adata = trained(), cells()
    planted = adata.copy()
    place = adata.var_names.get_indexer(ONE)
    dense = np.asarray(adata.X.todense())
    adata.obs["total_counts"] = planted.obs["total_counts"] = 1000
    dense[:, place] *= 2
    planted.X = dense
    found = gil.predict(adata, ONE, library_key="total_counts")
    assert found.shape == (120, 6)
    assert found.columns.tolist() == ONE
    assert found.equals(gil.predict(planted, ONE, library_key="total_counts"))
    lacking = adata[:, [gene not in ONE for gene in adata.var_names]].copy()
    with pytest.warns(UserWarning, match="missing genes count as not observed"):
        other = gil.predict(lacking, ONE, library_key="total_counts")
    np.testing.assert_allclose(other, found, rtol=1e-5)
    with pytest.raises(ConfigError, match="1 of the 1 genes are not known to the model"):
        gil.predict(adata, "nobody")


def test_settings_that_make_no_sense_are_refused():
    for given, message in (
        ({"mask_rate": 0.0}, "mask_rate is 0.0"),
        ({"expression_share": 1.5}, "expression_share is 1.5"),
        ({"n_heads": 3}, "the heads must divide it"),
        ({"target_sum": 0.0}, "target_sum is 0.0"),
        ({"query_weight": -1.0}, "query_weight is -1.0"),
        ({"detection_weight": -1.0}, "detection_weight is -1.0"),
        ({"n_unexpressed": -1}, "n_unexpressed is -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            GILConfig(**given)
    with pytest.raises(ConfigError, match="size is 'lapto'; closest: 'laptop'"):
        GILConfig.of_size("lapto")


def test_sizes_are_the_paper_s_and_a_laptop_s():
    paper = GILConfig.of_size("paper")
    assert (paper.d_model, paper.n_layers, paper.n_heads, paper.n_tokens) == (256, 6, 8, 512)
    assert paper.mask_rate == 0.4
    training = default_training(5000, 256)
    assert (training.max_epochs, training.batch_size, training.learning_rate) == (5, 128, 5e-4)
    assert training.weight_decay == 0


def test_a_file_of_stages_may_be_given_and_must_fit_the_cells(tmp_path):
    stages().save(tmp_path / "stages.json")
    assert GIL(cells(), tmp_path / "stages.json", **SMALL).stages == stages()
    with pytest.raises(DataError, match="cells of the stages are not in the data"):
        GIL(cells(80), tmp_path / "stages.json", **SMALL)


@pytest.mark.parametrize("settings", [{"combine": "concat"}, {"loss": "poisson"}])
def test_other_tokens_and_losses_train_and_grow(settings):
    gil = model(["distillation", Replay(memory=5)], **settings).train(**QUICK)
    assert np.isfinite(gil.losses().to_numpy()).all()
    if "combine" in settings:
        assert (gil.trained.get_gene_embeddings()[:, -1] == 0).all()


def test_before_training_there_is_no_model():
    with pytest.raises(ConfigError, match="call train"):
        model().trained  # noqa: B018


def test_genes_start_at_their_components_and_later_ones_where_these_are_mapped():
    learner = model()
    begun: dict[int, torch.Tensor] = {}
    place = learner._place_genes

    def watched(module, first, rows):
        place(module, first, rows)
        begun[first] = module.genes.detach().clone()

    learner._place_genes = watched
    learner.train(**QUICK)
    staged, n_base = learner.staged, learner.stages.n_known[0]
    base = staged.cells.with_genes(learner.stages.vocabulary[:n_base], 1.0)
    expected = gene_components(base, np.sort(staged.rows(0)), 16, learner.seed)
    assert torch.equal(begun[0], expected)
    after = torch.from_numpy(learner.after("base").get_gene_embeddings())
    assert torch.equal(begun[n_base][:n_base], after)  # what was learnt stays where it is
    new = begun[n_base][n_base:]
    view = staged.cells.with_genes(learner.stages.vocabulary[: n_base + len(new)], 1.0)
    found = gene_components(view, np.sort(staged.rows(1)), 16, learner.seed)
    here = found[:n_base].abs().sum(1) > 0
    wanted = mapped(found[n_base:], found[:n_base][here], after[here])
    torch.testing.assert_close(new, wanted, rtol=1e-4, atol=1e-4)


def test_genes_of_cells_without_any_known_gene_start_at_their_components():
    """Nothing is there to map them by, and their embeddings were NaN."""
    adata, found = cells(), stages()
    dense = np.asarray(adata.X.todense())
    rows = adata.obs_names.get_indexer(list(found.stages[2].cells))
    dense[rows] += np.isin(adata.var_names, TWO)  # no cell is left empty
    dense[np.ix_(rows, np.flatnonzero(~np.isin(adata.var_names, TWO)))] = 0
    adata.X = dense.astype(np.float32)
    methods = [Replay(memory=5), DER(memory=5), "features", "ghosts", "distillation", EWC()]
    gil = GIL(adata, found, method=methods, **SMALL).train(**QUICK)
    assert np.isfinite(gil.trained.get_gene_embeddings()).all()
    assert np.isfinite(gil.losses().to_numpy()).all()


def test_genes_may_start_at_random():
    learner = model(gene_start="random")
    learner.train(**QUICK)
    assert learner.after("base").config.gene_start == "random"
    with pytest.raises(ConfigError, match="gene_start is 'pca'"):
        model(gene_start="pca")


@pytest.mark.parametrize("at", ["keep", "write_json", "save_model_dir"])
def test_a_training_that_was_stopped_while_a_stage_was_kept_goes_on(at, tmp_path, monkeypatch):
    """At the end of the second stage: before, between and after the files of what is kept."""
    methods = [DER(memory=10, batch=8), EWC(n_batches=3, batch=8)]
    whole, calls = trained(methods), []
    where = StageRecord if at == "keep" else record
    done = getattr(where, at)
    # The first stage's, and of the second the last call; write_json also begins the directory.
    last = {"keep": 2, "write_json": 3, "save_model_dir": 4}[at]

    def stopping(*given, **more):
        calls.append(1)
        if len(calls) == last:
            raise KeyboardInterrupt
        return done(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(where, at, stopping)
        with pytest.raises(KeyboardInterrupt):
            model(methods).train(run_dir=tmp_path, **QUICK)
    assert (tmp_path / "stages" / "0" / "model").is_dir()
    assert not (tmp_path / "stages" / "1" / "model").exists()
    fresh = [DER(memory=10, batch=8), EWC(n_batches=3, batch=8)]
    assert same(whole, model(fresh).train(run_dir=tmp_path, resume=True, **QUICK))


def test_stages_go_on_under_the_version_of_the_order_that_they_were_begun_with(tmp_path):
    learner = model()
    asked = (learner.stages, learner.settings())
    assert StageRecord(tmp_path, False, *asked).order == 2
    assert StageRecord(tmp_path, True, *asked).order == 2
    settings = json.loads((tmp_path / "increment.json").read_text())
    del settings["order"]  # as before orders had versions
    (tmp_path / "increment.json").write_text(json.dumps(settings))
    assert StageRecord(tmp_path, True, *asked).order == 1


def test_a_directory_that_holds_something_else_is_not_written_to(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"1 entry, first 'thesis.txt'; nothing was changed"):
        model().train(run_dir=tmp_path, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(CheckpointError, match=r"thesis.txt is a file"):
        model().train(run_dir=tmp_path / "thesis.txt", **QUICK)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.json", "{}", "cannot be read as the errors of 40 genes"),
        ("scores.json", '{"one": {"tokens": [1], "queries": [1], "counts": [1]}}', "of 40 genes"),
        ("scores.json", "[]", "cannot be read as the errors of 40 genes"),
        ("scores.json", "[" * 10**6, "cannot be read as the errors of 40 genes"),
        ("metrics.jsonl", "", "holds no record of a stage that is done"),
        ("metrics.jsonl", "[7]\n", "line 1, is damaged"),
        ("metrics.jsonl", "[" * 10**6 + "\n", "line 1, is damaged"),
        ("model/manifest.json", "[]", "manifest.json is damaged"),
        ("../../increment.json", "[]", "increment.json cannot be read"),
        ("../../increment.json", "[" * 10**6, "increment.json cannot be read"),
    ],
)
def test_what_was_kept_of_a_stage_and_then_damaged_is_told_of(name, content, message, tmp_path):
    model().train(run_dir=tmp_path, **QUICK)
    assert (tmp_path / "stages" / "1" / name).exists()
    (tmp_path / "stages" / "1" / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        model().train(run_dir=tmp_path, resume=True, **QUICK)


@pytest.mark.parametrize(
    ("what", "of", "message"),
    [
        ("1/methods", "naive/1/methods", r"is not of this run after stage 'one'.*'rows'"),
        ("1/methods", "three/1/methods", r"holds '2/.*', which none of the run's 2 methods keeps"),
        ("1/model", "narrow/1/model", "after stage 'one', a network of 34 genes"),
        ("1/model", "same/2/model", "after stage 'one', a network of 34 genes"),
        ("1/scores.json", "same/2/scores.json", "after stage 'one', a network of 34 genes"),
        ("1", "same/2", "after stage 'one', a network of 34 genes"),
    ],
)
def test_what_another_run_or_stage_kept_is_refused(what, of, message, tmp_path, others):
    shutil.copytree(others / "same", tmp_path / "run")
    target = tmp_path / "run" / "stages" / what
    source = others / of.split("/", 1)[0] / "stages" / of.split("/", 1)[1]
    if target.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    with pytest.raises(CheckpointError, match=message):
        model(OF_RUNS["same"][0]).train(run_dir=tmp_path / "run", resume=True, **QUICK)


OF_RUNS = {
    "same": ([DER(memory=5, batch=4), EWC(n_batches=2)], {}),
    "three": (["features", "ghosts", EWC(n_batches=2)], {}),
    "naive": ("naive", {}),
    "narrow": ("naive", {"d_model": 8}),
}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Finished runs by name."""
    root = tmp_path_factory.mktemp("runs")
    for name, (methods, settings) in OF_RUNS.items():
        model(methods, **settings).train(run_dir=root / name, **QUICK)
    return root


def test_states_of_methods_that_were_not_trained_are_told_of(tmp_path):
    model().train(run_dir=tmp_path, **QUICK)
    methods = tmp_path / "stages" / "1" / record.METHODS
    for name in ("7/rows", "x", "../../rows"):
        save_model_dir(methods, {name: torch.ones(1)}, {"format": "kernomics gil methods 1"})
        with pytest.raises(CheckpointError, match="which none of the run's 1 method keeps"):
            model().train(run_dir=tmp_path, resume=True, **QUICK)


def test_stages_without_test_cells_are_told_of():
    few = cells(9)
    with pytest.warns(UserWarning, match="2 of the 3 stages have no test cells, first 'one'"):
        gil = GIL(few, stages(few), **SMALL).train(**QUICK)
    assert gil.losses().isna().all().tolist() == [False, True, True]


def test_genes_that_come_later_are_no_part_of_the_library_size():
    learner = trained()
    adata, base = cells(seed=3), learner.after("base")
    without = adata[:, base.genes.tolist()].copy()
    found = base.get_latent_representation(adata)
    assert np.array_equal(found, base.get_latent_representation(without))
    assert not np.array_equal(found, base.extend(ONE).get_latent_representation(adata))


def test_cells_of_which_nothing_is_left_to_see_are_told_of():
    found, adata = trained("naive"), cells()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.predict(adata, ["gene_3"])
    with pytest.warns(UserWarning, match=r"120 of the 120 cells express none .* 40 asked") as told:
        values = found.predict(adata, list(found.trained.genes))
    assert (values.nunique() == 1).all()
    assert told[0].filename == __file__  # not torch's wrapper, which stands between


def test_before_training_there_are_no_losses():
    with pytest.raises(ConfigError, match="no losses yet"):
        model("naive").losses()


def test_a_directory_of_a_training_in_stages_is_known_when_it_is_loaded(tmp_path):
    model("naive").train(1, run_dir=tmp_path / "run", progress=False)
    with pytest.raises(CheckpointError, match="holds a training in stages, and no model beside"):
        kn.models.load(tmp_path / "run")
