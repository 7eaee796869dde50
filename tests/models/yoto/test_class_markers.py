"""Markers of its own that every class keeps."""

import numpy as np
import pytest

from kernomics.errors import ConfigError
from kernomics.evaluation.panels.retraining import again
from kernomics.models import YOTO


def strengths(model):
    """Return Welch's t of each class against the rest on the training cells, [C, G]."""
    rows = model.split.train
    x = np.log1p(model.cells.batch(rows).dense().numpy().astype(np.float64))
    codes = model.cells.labels["cell_type"].values[rows]
    found = []
    for code in range(len(model.tasks[0].classes)):
        own, rest = x[codes == code], x[codes != code]
        error = own.var(axis=0) / len(own) + rest.var(axis=0) / len(rest)
        found.append((own.mean(axis=0) - rest.mean(axis=0)) / np.sqrt(error))
    return np.array(found)


def forced(model):
    return set(model.cells.genes[model.bounds.forced])


def test_every_class_keeps_its_strongest_markers(adata):
    model = YOTO(adata, "cell_type", 12, n_markers_per_class=2)
    best = np.argsort(-strengths(model), axis=1)[:, :2]
    assert forced(model) == set(model.cells.genes[best.ravel()])
    for code, name in enumerate(model.tasks[0].classes):
        for gene in model.cells.genes[best[code]]:
            assert ("cell_type", name) in model.constraints.markers[gene]


def test_markers_are_in_the_panel_and_its_record_says_for_whom(adata, train_quickly):
    model = train_quickly(adata, n_markers_per_class=1)
    markers = model.panel.info["markers"]
    assert len(markers) == 4
    assert set(markers) <= set(model.genes)
    assert sorted(markers.values()) == [[["cell_type", f"type_{i}"]] for i in range(4)]
    assert (model.ranking.loc[list(markers), "score"] == np.inf).all()
    assert "markers" not in train_quickly(adata).panel.info


def test_genes_that_cannot_be_used_are_passed_over(adata):
    first = YOTO(adata, "cell_type", 12, n_markers_per_class=1)
    gone = sorted(forced(first))
    model = YOTO(
        adata, "cell_type", 12, n_markers_per_class=1, forbidden_genes=gone[:2],
        exclude_patterns=[f"{gene}$" for gene in gone[2:]],
    )  # fmt: skip
    t = strengths(model)
    t[:, np.isin(model.cells.genes, gone)] = -np.inf
    assert forced(model) == set(model.cells.genes[t.argmax(axis=1)])


def test_forced_genes_that_are_markers_count(adata):
    model = YOTO(adata, "cell_type", 12, n_markers_per_class=1)
    t = strengths(model)
    second, plain = model.cells.genes[[np.argsort(-t[0])[1], t.max(axis=0).argmin()]]
    with_one = YOTO(
        adata, "cell_type", 12, n_markers_per_class=1, forced_genes=second, extend=[plain]
    )
    rest = set(model.cells.genes[t[1:].argmax(axis=1)])
    assert forced(with_one) == {second, plain} | rest
    assert with_one.constraints.markers[second] == [("cell_type", "type_0")]
    assert plain not in with_one.constraints.markers


def test_gene_may_serve_a_class_of_each_label(adata):
    adata.obs["same"] = adata.obs["cell_type"].astype(str)
    model = YOTO(adata, ["cell_type", "same", "age"], 4, n_markers_per_class=1)
    assert len(forced(model)) == 4
    gene = next(iter(model.constraints.markers))
    (name,) = {name for _, name in model.constraints.markers[gene]}
    assert model.constraints.marker_for([gene, "no"]) == [f"cell_type: {name}; same: {name}", ""]


def test_panel_too_small_for_the_markers_is_refused_with_the_number_needed(adata):
    model = YOTO(adata, "cell_type", 8, n_markers_per_class=2)  # 8 are enough for these
    plain = model.cells.genes[strengths(model).max(axis=0).argmin()]
    with pytest.raises(ConfigError) as caught:
        YOTO(adata, "cell_type", 8, n_markers_per_class=2, forced_genes=plain)
    assert (
        "n_markers_per_class = 2 needs 9 genes: 8 markers beside 1 forced, and n_genes "
        "is 8; raise n_genes to at least 9" in str(caught.value)
    )


def test_budget_that_the_markers_exceed_is_refused(adata):
    model = YOTO(adata, "cell_type", 8, n_markers_per_class=2)
    costs = {gene: 10.0 if gene in forced(model) else 1.0 for gene in model.cells.genes}
    options = {"gene_costs": costs, "budget": 50.0}
    YOTO(adata, "cell_type", 8, **options)
    with pytest.raises(ConfigError, match=r"cost 80.* n_markers_per_class = 2, which forces 8"):
        YOTO(adata, "cell_type", 8, n_markers_per_class=2, **options)


def test_class_with_too_few_markers_is_named_and_keeps_those_there_are(adata):
    # Only the markers of three types are usable.
    own = adata.var_names[adata.var["marker_of"] == "type_3"].tolist()
    with pytest.warns(UserWarning, match=r"1 class has fewer .*'type_3' of cell_type \(\d\)"):
        model = YOTO(adata, "cell_type", 60, n_markers_per_class=8, forbidden_genes=own)
    assert any("'type_3' of cell_type" in note for note in model.warnings)
    others = adata.var_names[adata.var["marker_of"].isin(["type_0", "type_1", "type_2"])]
    assert set(others) <= forced(model)


def test_label_without_classes_has_no_markers(adata):
    with pytest.raises(ConfigError, match="no label has classes: age"):
        YOTO(adata, "age", 8, n_markers_per_class=1)


@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_number_of_markers_is_a_number(adata, value):
    with pytest.raises(ConfigError, match="n_markers_per_class"):
        YOTO(adata, "cell_type", 8, n_markers_per_class=value)


def test_same_selection_with_another_seed_keeps_markers_too(adata):
    model = YOTO(adata, "cell_type", 8, n_markers_per_class=1)
    other = again(model, seed=5)
    assert other.options["n_markers_per_class"] == 1
    assert forced(other) == forced(model)
    assert other.constraints.description["n_markers_per_class"] == 1
