"""What YOTO refuses, and what it says."""

import math

import numpy as np
import pytest

from kernomics.data import CellCollection, make_split
from kernomics.errors import ConfigError, DataError, TrainingError
from kernomics.models import YOTO


def relabelled(adata, **columns):
    for name, values in columns.items():
        adata.obs[name] = values
    return adata


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_genes": 121}, ConfigError, "120 of 120 genes are usable; lower n_genes"),
        ({"n_genes": 0}, ConfigError, "n_genes is 0: a panel needs at least 1 gene"),
        ({"n_genes": 2.0}, ConfigError, "n_genes is 2.0: it must be an integer"),
        ({"labels_key": "celltype"}, DataError, "no column 'celltype'; closest: 'cell_type'"),
        ({"labels_key": None}, ConfigError, "labels_key is empty; there are: 'cel"),
        ({"labels_key": "same"}, DataError, "'same' has one value, 'x', in all 400 labelled cells"),
        ({"labels_key": "none"}, DataError, "'none': all 400 cells are unlabelled"),
        (
            {"forced_genes": ["gene_1", "gene_2"], "n_genes": 1},
            ConfigError,
            "2 genes are forced, more than n_genes = 1",
        ),
        (
            {"forced_genes": ["gene_1"], "forbidden_genes": ["gene_3", "gene_1"]},
            ConfigError,
            "1 gene is both forced and forbidden, first 'gene_1'",
        ),
        (
            {"forced_genes": ["gene_1", "gen_2"]},
            DataError,
            "1 of 2 forced genes are not in the data, first 'gen_2'; closest: 'gene_2'",
        ),
        ({"forbidden_genes": "GENE"}, DataError, "1 of 1 forbidden genes are not in the data"),
        ({"layer": "count"}, DataError, "there is no layer 'count'; there are none"),
        ({"split": "group"}, ConfigError, "needs split_key"),
        ({"split": "group", "split_key": "dono"}, DataError, "'dono'; closest: 'donor'"),
        ({"split_key": "donor"}, ConfigError, "split='stratified' uses no groups"),
        ({"split": "groups"}, ConfigError, "split is 'groups'; closest: 'group'"),
        ({"fractions": (0.5, 0.1, 0.1)}, ConfigError, "sum to 0.7"),
        (
            {"task_weights": {"cell": 1.0}},
            ConfigError,
            "task_weights names 'cell', which is not a label",
        ),
        ({"task_weights": {"cell_type": -1}}, ConfigError, "weight of task 'cell_type' is -1"),
        ({"task_weights": {"cell_type": math.nan}}, ConfigError, "'cell_type' is nan"),
        ({"label_kinds": {"age": "categorical"}}, ConfigError, "label_kinds names 'age'"),
        ({"unlabelled_category": "Unknown"}, DataError, "'Unknown' occurs in none of the label"),
        ({"seed": 1.5}, ConfigError, "seed is 1.5"),
        ({"seed": 2**63}, ConfigError, "it must be an integer of 64 bits"),
        ({"relaxatoin": "softmax"}, ConfigError, "no setting 'relaxatoin'; closest: 'relaxation'"),
        ({"label_key": "cell_type"}, ConfigError, "'label_key'; closest: 'labels_key'"),
        ({"layr": "counts"}, ConfigError, "no setting 'layr'; closest: 'layer'"),
    ],
)
def test_input_that_cannot_be_used_is_named_with_a_remedy(adata, options, error, message):
    relabelled(adata, same="x", none=[None] * 400)
    with pytest.raises(error) as caught:
        YOTO(adata, **{"labels_key": "cell_type", "n_genes": 8, **options})
    assert message in str(caught.value)


def test_usable_genes_count_out_the_forbidden_and_the_unseen(adata):
    dense = adata.X.toarray()
    dense[:, :20] = 0
    adata.X = dense
    forbidden = adata.var_names[15:30].tolist()
    with pytest.raises(ConfigError) as caught:
        YOTO(adata, "cell_type", 91, forbidden_genes=forbidden)
    assert (
        "n_genes = 91 but only 90 of 120 genes are usable: 15 are forbidden and 20 are detected "
        "in fewer than 1 training cells; lower n_genes"
    ) in str(caught.value)
    assert len(YOTO(adata, "cell_type", 90, forbidden_genes=forbidden).bounds.forbidden) == 30


def test_class_with_one_cell_is_named_and_can_be_trained_with(adata, train_quickly):
    types = adata.obs["cell_type"].astype(str).to_numpy()
    types[7] = "rare"
    with (
        pytest.warns(UserWarning, match=r"'rare' \(1 cell: none in validation and test\)"),
        pytest.warns(UserWarning, match=r"fewer than 5 training cells: 'rare' \(1 training cell\)"),
    ):
        model = train_quickly(relabelled(adata, cell_type=types), max_epochs=4)
    assert "rare" in model.tasks[0].classes
    assert np.isfinite(model.history.column("loss")).all()
    assert np.isfinite(model.test_metrics()["cell_type"]["macro_f1"])


def test_label_with_one_class_in_the_training_part_alone_is_refused(adata):
    split = make_split(400, how="random", seed=0)
    rare = np.full(400, "a", dtype=object)
    rare[split.test] = "b"
    with pytest.raises(DataError, match="among the training cells, label 'rare' has one value"):
        YOTO(relabelled(adata, rare=rare), "rare", 8, split=split)


def test_split_of_other_data_is_refused(adata):
    with pytest.raises(ConfigError, match="names rows 0 … 499, but there are 400 cells"):
        YOTO(adata, "cell_type", 8, split=make_split(500, how="random"))


def test_reading_options_beside_a_collection_are_refused(adata):
    cells = CellCollection.from_anndata(adata, labels_key="cell_type")
    with pytest.raises(ConfigError, match=r"labels_key names 'age', .* was read with 'cell_type'"):
        YOTO(cells, "age", 8)


def test_counts_that_are_not_integers_are_located(adata):
    adata.X = adata.X * 1.5
    with pytest.raises(
        DataError, match=r"X does not hold counts: .* not integers, first .* at cell"
    ):
        YOTO(adata, "cell_type", 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device 'gpu' does not exist; use 'cpu' or 'cuda'"),
        ({"device": "cuda:99"}, "sees"),
        ({"device": "meta"}, "device 'meta' has no kernels here"),
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"batchsize": 3}, "no setting 'batchsize'; closest: 'batch_size'"),
        ({"resume": True}, "resume=True needs the run_dir"),
    ],
)
def test_training_settings_that_make_no_sense_are_named(adata, options, message):
    with pytest.raises(ConfigError) as caught:
        YOTO(adata, "cell_type", 8).train(**{"progress": False, **options})
    assert message in str(caught.value)


def test_nothing_is_read_from_an_untrained_model(adata, tmp_path):
    model = YOTO(adata, "cell_type", 8)
    for use in (lambda: model.genes, lambda: model.predict(adata), lambda: model.save(tmp_path)):
        with pytest.raises(ConfigError, match=r"there is no panel yet; call train\(\) first"):
            use()


def test_nan_scores_stop_the_training_and_are_named(adata, tmp_path):
    # A gradient spoilt once: without a norm to check, it shows in the next step's scores,
    # in all of them, since they share one scale.
    model = YOTO(adata, "cell_type", 8)
    inner = model._optimizer

    def spoiling(module):
        module.selector.scores.register_hook(
            lambda grad: grad.index_fill(0, grad.new_tensor([5], dtype=int), math.nan)
        )
        return inner(module)

    model._optimizer = spoiling
    with pytest.raises(TrainingError, match="the norm of the gradient is nan in step 1"):
        model.train(max_epochs=1, progress=False)
    with pytest.raises(ValueError, match="NaN for 120 of 120 genes in row 0, first gene 0"):
        model.train(max_epochs=1, progress=False, max_grad_norm=None)
