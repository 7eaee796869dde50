"""`attribute`: from a model and cells to scores of genes, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phenotyped_cells import collection, conditions, module_of

from kernomics.attribution import (
    PanelSource,
    PhenotypeSource,
    ReconstructionSource,
    attribute,
    attribute_pairs,
    deeplift_pairs,
    grad_x_delta,
    integrated_gradients,
    make_pairs,
)
from kernomics.attribution.separation import separation
from kernomics.data import CellCollection, concat
from kernomics.errors import ConfigError, DataError, TrainingError
from kernomics.models import YOTO, PhenotypeModel, PolyGene, TxFM

pytestmark = pytest.mark.filterwarnings("ignore:the model hardly tells:UserWarning")
ASKED = {"target": "treatment", "case": "drug", "baseline": "control"}


@pytest.fixture(scope="module")
def model():
    trained = PolyGene(conditions(), ["treatment", "cell_type"], d_model=32, n_layers=1, n_heads=2)
    return trained.train(max_epochs=20, batch_size=16, learning_rate=5e-3, progress=False)


def untrained(cells) -> PhenotypeModel:
    return PhenotypeModel(module_of(), cells.genes.tolist(), {})


def test_the_raised_genes_matter_most(model):
    found = attribute(model.cells, model, **ASKED, controlled="cell_type", n_baselines=3)
    raised = found.table.index[:5].tolist()
    assert set(found.top(3, "signed_by_change").index) <= set(raised)
    assert (found.table.loc[raised, "expression_change"] > 0).all()
    assert set(found.pairs.case.tolist()) <= set(model.split.train.tolist())
    assert found.summary()["n_pairs"] == len(found.pairs)
    assert set(found.by_group["absolute"].columns) == {"type_0", "type_1", "type_2"}


def test_a_model_that_cannot_tell_the_cells_apart_is_told(model):
    found = attribute(model.cells, model, **ASKED, controlled="cell_type", n_baselines=3)
    assert found.params["separation"] > 0.9
    cells = collection()
    with pytest.warns(UserWarning, match=r"the model hardly tells drug from control in these"):
        weak = attribute(cells, untrained(cells), **ASKED, n_pairs=10)
    assert weak.params["separation"] < 0.6


def test_separation_is_the_area_under_the_roc_curve():
    metrics = pytest.importorskip("sklearn.metrics")
    cells = collection()
    model = untrained(cells)
    source = PhenotypeSource(model, cells, "treatment")
    pairs = make_pairs(cells.labels["treatment"], "drug", "control", np.arange(240), n_pairs=150)
    rows = np.union1d(pairs.case, pairs.baseline)
    p = model.probabilities(cells, "treatment", rows=rows)["treatment"].astype(np.float64)
    expected = metrics.roc_auc_score(np.isin(rows, pairs.case), np.log(p[:, 1]) - np.log(p[:, 0]))
    assert separation(source, pairs, 1, 0) == pytest.approx(expected, abs=1e-3)


def test_reduced_scores_are_means_over_pairs():
    cells = collection()
    model = untrained(cells)
    source = PhenotypeSource(model, cells, "treatment")
    pairs = make_pairs(cells.labels["treatment"], "drug", "control", np.arange(240), n_pairs=150)
    found = attribute_pairs(source, pairs, 1)
    each = grad_x_delta(source, pairs.case, pairs.baseline, 1)
    forward = torch.zeros(150, 60, dtype=torch.float64)
    forward[each.blend.pairs, each.blend.gene_ids] = each.forward.double()
    backward = torch.zeros(150, 60, dtype=torch.float64)
    backward[each.blend.pairs, each.blend.gene_ids] = each.backward.double()
    change = torch.zeros(150, 60, dtype=torch.float64)
    change[each.blend.pairs, each.blend.gene_ids] = each.change.double()
    absolute = (forward.abs() + backward.abs()) / 2
    expected = {
        "forward": forward.mean(0),
        "backward": backward.mean(0),
        "importance": (forward + backward).mean(0) / 2,
        "effect": (forward - backward).mean(0) / 2,
        "absolute": absolute.mean(0),
        "signed_by_change": absolute.mean(0) * change.mean(0).sign(),
        "expression_change": change.mean(0),
        "forward_sd": forward.std(0, correction=0),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found.table[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    counts = torch.bincount(each.blend.gene_ids, minlength=60)
    np.testing.assert_array_equal(found.table["n_pairs"], counts)
    np.testing.assert_allclose(
        found.zeros["forward"], float((each.forward == 0).double().mean()), atol=0.05
    )


def test_normalised_pairs_count_alike():
    cells = collection()
    source = PhenotypeSource(untrained(cells), cells, "treatment")
    pairs = make_pairs(cells.labels["treatment"], "drug", "control", np.arange(240), n_pairs=1)
    found = attribute_pairs(source, pairs, 1, normalise=True)
    for name in ("forward", "backward"):
        assert np.square(found.table[name]).sum() == pytest.approx(1, rel=1e-9)


def test_groups_average_to_the_whole():
    cells = collection()
    found = attribute(cells, untrained(cells), **ASKED, controlled="cell_type", seed=3)
    weights = np.bincount(found.pairs.group) / len(found.pairs)
    for name in ("forward", "absolute"):
        np.testing.assert_allclose(
            found.by_group[name].to_numpy() @ weights, found.table[name], rtol=1e-9, atol=1e-12
        )


def test_integrated_gradients_are_complete_and_one_way():
    cells = collection()
    found = attribute(cells, untrained(cells), **ASKED, engine="integrated_gradients", n_pairs=20)
    assert found.summary()["completeness"]["max"] < 1e-3
    assert found.params["complete"] is True
    np.testing.assert_array_equal(found.table["importance"], 0)
    np.testing.assert_allclose(found.table["effect"], found.table["forward"])


def test_deeplift_is_complete_for_a_panel_and_for_a_txfm():
    model = YOTO(conditions(), "treatment", 6).train(max_epochs=5, progress=False)
    found = attribute(model.cells, model, **ASKED, n_pairs=20, engine="deeplift")
    assert found.summary()["completeness"]["max"] < 1e-4
    encoder = TxFM(conditions(), d_model=16, n_layers=1, n_heads=2).train(1, progress=False).trained
    source = ReconstructionSource(encoder, collection(), gene=encoder.genes[2])
    scores = deeplift_pairs(source, np.array([3, 9]), np.array([4, 10]), 0)
    change = scores.outputs[:, 0] - scores.outputs[:, 1]
    total = torch.zeros(2).index_add_(0, scores.blend.pairs, scores.forward)
    torch.testing.assert_close(total, change, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_scores():
    cells = collection()
    model = untrained(cells)
    one, two = (attribute(cells, model, **ASKED, seed=4, n_pairs=30) for _ in range(2))
    np.testing.assert_array_equal(one.table, two.table)


@pytest.mark.parametrize("engine", ["grad_x_delta", "deeplift"])
def test_autocast_about_the_call_changes_nothing(engine):
    cells = collection()
    asked = {**ASKED, "n_pairs": 12, "engine": engine}
    plain = attribute(cells, untrained(cells), **asked)
    with torch.autocast("cpu", torch.bfloat16):
        other = attribute(cells, untrained(cells), **asked)
    assert np.array_equal(plain.table["effect"], other.table["effect"])
    assert np.array_equal(plain.completeness, other.completeness)


def test_a_yoto_is_attributed_through_its_panel():
    model = YOTO(conditions(), "treatment", 6).train(max_epochs=10, progress=False)
    found = attribute(model.cells, model, **ASKED, n_pairs=20, normalise=False)
    assert found.table.index.tolist() == model.genes
    source = PanelSource(model.panel, model.cells, "treatment")
    row, other = found.pairs.case[0], found.pairs.baseline[0]
    one = grad_x_delta(source, np.array([row]), np.array([other]), 1)
    x = source.inputs(np.array([row])).features.view(1, -1).clone().requires_grad_()
    slope = torch.autograd.grad(model.panel.network.outputs(x)[0][0, 1], x)[0]
    reference = source.inputs(np.array([other])).features.view(1, -1)
    torch.testing.assert_close(one.forward, (slope * (x - reference)).detach()[0])
    complete = integrated_gradients(source, np.array([row]), np.array([other]), 1)
    effect = complete.outputs[0, 0] - complete.outputs[0, 1]
    # A rule of 16 points, over the kinks of a network of rectified units.
    torch.testing.assert_close(complete.forward.sum(), effect, rtol=0.03, atol=0.01)


def test_a_txfm_is_attributed_for_a_gene_and_for_a_sum_of_its_latent():
    adata = conditions()
    encoder = TxFM(adata, d_model=16, n_layers=1, n_heads=2).train(1, progress=False).trained
    cells = collection()
    rows = (np.array([3, 9]), np.array([4, 10]))
    gene = encoder.genes[2]
    source = ReconstructionSource(encoder, cells, gene=gene)
    found = grad_x_delta(source, *rows, 0)
    expected = encoder.get_normalized_expression(cells, genes=[gene], rows=[3, 9])
    np.testing.assert_allclose(found.outputs[:, 0], expected[:, 0], rtol=1e-4, atol=1e-5)
    weights = np.linspace(-1, 1, 16).astype(np.float32)
    latent = encoder.get_latent_representation(cells, rows=[3, 9])
    found = grad_x_delta(ReconstructionSource(encoder, cells, weights=weights), *rows, 0)
    np.testing.assert_allclose(found.outputs[:, 0], latent @ weights, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(found.forward).all()
    with pytest.raises(ConfigError, match="weights has shape"):
        ReconstructionSource(encoder, cells, weights=weights[:3])
    with pytest.raises(DataError, match="the model has no gene 'nothing'"):
        ReconstructionSource(encoder, cells, gene="nothing")


def test_a_txfm_shows_the_genes_that_it_draws_itself():
    options = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_tokens": 8, "masking_power": 2.0}
    encoder = TxFM(conditions(), **options).train(1, progress=False).trained
    cells, rows = collection(), np.arange(6)
    source = ReconstructionSource(encoder, cells, gene=encoder.genes[0], n_tokens=8)
    shown = source.inputs(rows)
    expected = encoder.get_normalized_expression(
        cells, genes=[encoder.genes[0]], rows=rows, n_tokens=8
    )
    found = source.outputs(shown, shown.features)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)
    scores = deeplift_pairs(source, rows[:3], rows[3:], 0)
    total = torch.zeros(3).index_add_(0, scores.blend.pairs, scores.forward)
    change = scores.outputs[:, 0] - scores.outputs[:, 1]
    torch.testing.assert_close(total, change, rtol=1e-4, atol=1e-5)


def test_cells_with_more_genes_than_are_shown_are_told():
    cells = collection()
    with pytest.warns(UserWarning, match="cells express more than n_tokens = 5 genes"):
        attribute(cells, untrained(cells), **ASKED, n_tokens=5, n_pairs=4)


def test_the_genes_shown_of_a_cell_are_those_that_predictions_see():
    cells = collection()
    model = untrained(cells)
    source = PhenotypeSource(model, cells, "treatment", output="probabilities", n_tokens=12)
    inputs = source.inputs(np.array([50, 7]))
    found = source.outputs(inputs, inputs.features)
    expected = model.probabilities(cells, "treatment", rows=[50, 7], n_tokens=12)["treatment"]
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target": "disease"}, "the model has no phenotype 'disease'"),
        ({"case": "poison"}, "case is 'poison', a value of 'treatment' that the model was not"),
        ({"engine": "deep"}, "engine is 'deep'"),
        ({"contrast": "none"}, "contrast"),
        ({"output": "odds"}, "output is 'odds'"),
        ({"engine": "integrated_gradients", "contrast": "empty"}, "contrast='empty' goes with"),
        ({"controlled": "nowhere"}, "obs has no column 'nowhere'"),
        ({"controlled": ["cell_type", ASKED["target"]]}, "controlled has the target"),
        ({"rows": [1, 999]}, "999"),
        ({"n_tokens": 0}, "n_tokens is 0"),
    ],
)
def test_what_cannot_be_attributed_is_told(asked, message):
    cells = collection()
    with pytest.raises((ConfigError, DataError), match=message):
        attribute(cells, untrained(cells), **{**ASKED, **asked})


def test_scores_that_are_not_finite_are_refused():
    cells = collection()
    model = untrained(cells)
    with torch.no_grad():
        model.module.heads[0].weight[0, 0] = torch.nan
        model.module.heads[0].weight[1, 0] = torch.nan
    with pytest.raises(TrainingError, match="forward scores are NaN or infinite"):
        attribute(cells, model, **ASKED, n_pairs=4)


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="model is 3: it must be PolyGene"):
        attribute(collection(), 3, **ASKED)


def test_cells_of_the_model_are_known_by_name_and_total(model):
    adata = conditions()
    some = adata[::-2].copy()
    found = attribute(some, model, **ASKED, n_pairs=5)
    train = set(model.cells.cell_names[model.split.train])
    assert found.params["n_cells_given"] == sum(name in train for name in some.obs_names)
    taken = np.concatenate([found.pairs.case, found.pairs.baseline])
    assert set(some.obs_names[taken]) <= train
    with pytest.warns(UserWarning, match="these cells are not those that the model was made with"):
        other = attribute(conditions(seed=9), model, **ASKED, n_pairs=5)
    assert other.params["n_cells_given"] == 240


def test_cells_without_a_gene_of_the_model_are_left_out():
    adata = conditions()
    counts = np.asarray(adata.X)
    counts[:7, :50] = 0
    counts[:7, 50:] += 1
    adata.X = counts
    known = CellCollection.from_anndata(adata, labels_key=["treatment", "cell_type"])
    small = PhenotypeModel(module_of(n_genes=50), known.genes[:50].tolist(), {})
    with pytest.warns(UserWarning, match="7 of 240 cells have no count of the model's genes"):
        found = attribute(known, small, **ASKED)
    assert not set(range(7)) & set(found.pairs.case.tolist() + found.pairs.baseline.tolist())


def test_genes_that_one_data_set_did_not_measure_get_no_score_from_its_pairs():
    adata = conditions()
    drug = (adata.obs["treatment"] == "drug").to_numpy()
    parts = [adata[drug][:, :50].copy(), adata[~drug].copy()]
    read = [CellCollection.from_anndata(a) for a in parts]
    cells = concat({"one": read[0], "two": read[1]}, labels_key=["treatment", "cell_type"])
    model = PhenotypeModel(module_of(), cells.genes.tolist(), {})
    found = attribute(cells, model, **ASKED, n_pairs=60)
    unmeasured = found.table.loc[adata.var_names[50:]]
    assert (unmeasured["n_pairs"] == 0).all()
    assert (unmeasured[["forward", "backward", "absolute", "expression_change"]] == 0).all().all()
    assert (found.table["n_pairs"] > 0).any()


def test_the_unlabelled_category_of_the_training_stays_unlabelled():
    adata = conditions()
    types = adata.obs["cell_type"].astype(str).to_numpy().astype(object)
    types[:40] = "unknown"
    adata.obs["cell_type"] = types
    model = PolyGene(adata, ["treatment", "cell_type"], unlabelled_category="unknown", d_model=16,
                     n_heads=2, n_layers=1).train(max_epochs=1, progress=False)  # fmt: skip
    with pytest.warns(UserWarning, match=r"40 \(cell_type is missing\)"):
        found = attribute(adata, model, **ASKED, controlled="cell_type", rows=np.arange(240))
    assert "unknown" not in found.pairs.groups
    assert set(model.predict(adata)["cell_type"]) <= {"type_0", "type_1", "type_2"}


def test_empty_baselines_are_measured_against_the_empty_cell():
    cells = collection()
    model = untrained(cells)
    found = attribute(cells, model, **ASKED, contrast="empty", n_pairs=1, normalise=False)
    row = found.pairs.case[:1]
    source = PhenotypeSource(model, cells, "treatment")
    inputs = source.inputs(row)
    whole = source.outputs(inputs, inputs.features)[0, 1].item()
    no_genes = inputs.__class__(
        inputs.gene_ids[:0], torch.tensor([0]), inputs.features[:0], inputs.expression[:0], row
    )
    effect = whole - source.outputs(no_genes, no_genes.features)[0, 1].item()
    total, size = found.table["forward"].sum(), found.table["forward"].abs().sum()
    expected = abs(total - effect) / max(abs(effect), 0.1 * size)
    assert found.completeness[0] == pytest.approx(expected, rel=1e-3)
    np.testing.assert_array_equal(found.table["effect"], found.table["importance"])
    panel = YOTO(conditions(), "treatment", 6).train(max_epochs=10, progress=False)
    with pytest.raises(ConfigError, match="a panel needs all of its genes"):
        attribute(panel.cells, panel, **ASKED, contrast="empty")


def test_phenotypes_that_are_shown_may_be_one_name(model):
    cells = collection()
    one, two = (PhenotypeSource(model, cells, "treatment", x) for x in ("cell_type", ["cell_type"]))
    np.testing.assert_array_equal(one.codes, two.codes)
    assert (one.codes >= 0).any()


@pytest.mark.parametrize("engine", ["grad_x_delta", "deeplift", "integrated_gradients"])
@pytest.mark.parametrize("output", [-1, 2, "drug"])
def test_an_output_that_is_none_of_the_sources_is_told(engine, output):
    cells = collection()
    source = PhenotypeSource(untrained(cells), cells, "treatment")
    pairs = make_pairs(cells.labels["treatment"], "drug", "control", np.arange(240), n_pairs=4)
    with pytest.raises(ConfigError, match=f"output is {output}: a class by its number, 0 to 1"):
        attribute_pairs(source, pairs, output, engine=engine)


def test_sources_refuse_what_is_no_model_or_cells(model):
    with pytest.raises(ConfigError, match=r"model is .*: it must be"):
        PhenotypeSource("runs/model", collection(), "treatment")
    with pytest.raises(ConfigError, match=r"cells is AnnData.*: it must be a CellCollection"):
        PhenotypeSource(model, conditions(), "treatment")
    with pytest.raises(ConfigError, match=r"panel is .*: it must be"):
        PanelSource(model, collection(), "treatment")
    with pytest.raises(ConfigError, match=r"encoder is .*: it must be"):
        ReconstructionSource(model, collection(), gene="gene_1")


def test_the_top_of_fewer_than_no_genes_is_told(model):
    found = attribute(model.cells, model, **ASKED, n_pairs=4)
    assert not len(found.top(0))
    with pytest.raises(ConfigError, match="n is -1: at least 0 is needed"):
        found.top(-1)


def test_where_numbers_are_double_by_default_scores_are_the_same(model):
    expected = attribute(model.cells, model, **ASKED, n_pairs=4, engine="deeplift").table
    torch.set_default_dtype(torch.float64)
    try:
        found = attribute(conditions(), model, **ASKED, n_pairs=4, engine="deeplift").table
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(found["effect"], expected["effect"], rtol=1e-4, atol=1e-6)
