"""The second part of a training, in which the panel stays and the network begins afresh."""

import threading

import pytest
import torch

from kernomics import datasets
from kernomics.data import CellCollection, Sampler
from kernomics.models import YOTO
from kernomics.models.yoto.schedule import Schedule


@pytest.fixture(scope="module")
def adata():
    cells = datasets.simulate(300, 80, 4, 5, seed=5)
    cells.obs["half"] = (cells.obs["cell_type"].cat.codes % 2).astype(str)
    return cells


def watched(model, **training):
    """Train, and return per step the scores, the genes seen, and both networks' heads."""
    seen = []
    make = model._optimizer

    def hooked(module):
        def note(layer, *_):
            if module.training:
                genes = module.fixed_panel if layer is module.predictor else layer.touched
                scores, *heads = (
                    p.detach().clone()
                    for p in (
                        module.selector.scores,
                        module.heads[0].weight,
                        module.predictor.heads[0].weight,
                    )
                )
                seen.append((module.step, scores, genes.tolist(), *heads))

        module.first.register_forward_hook(note)
        module.predictor.register_forward_hook(note)
        return make(module)

    model._optimizer = hooked
    model.train(progress=False, **training)
    return seen


def test_panel_and_scores_stay_once_fixed(adata):
    model = YOTO(adata, "cell_type", 6, fix_panel_at=0.5, noise_start=1.0)
    seen = watched(model, max_epochs=4, batch_size=70)
    assert [step for step, *_ in seen] == list(range(12))
    assert len({tuple(genes) for _, _, genes, *_ in seen[:6]}) > 1
    assert not torch.equal(seen[4][1], seen[5][1])
    assert all(torch.equal(scores, seen[6][1]) for _, scores, *_ in seen[6:])
    panel = sorted(adata.var_names.get_indexer(model.genes))
    assert all(genes == panel for _, _, genes, *_ in seen[6:])


def test_each_part_trains_its_own_network(adata):
    model = YOTO(adata, "cell_type", 6, fix_panel_at=0.5)
    seen = watched(model, max_epochs=4, batch_size=70)
    selecting, predicting = ([step[i] for step in seen] for i in (3, 4))
    assert not torch.equal(selecting[0], selecting[5])
    assert all(torch.equal(weights, selecting[6]) for weights in selecting[6:])
    assert all(torch.equal(weights, predicting[0]) for weights in predicting[:7])
    assert not torch.equal(predicting[6], predicting[11])


@pytest.mark.parametrize("labels", ["cell_type", ["cell_type", "half"]])
def test_panel_keeps_the_predictor_that_was_trained(adata, labels, tmp_path):
    model = YOTO(adata, labels, 6, fix_panel_at=0.5)
    model.train(max_epochs=4, batch_size=70, progress=False)
    cells = model.cells.batch(range(50))
    expected = model.module.eval()(cells)
    panel = adata.var_names.get_indexer(model.genes)
    assert model.cells.genes[panel].tolist() == model.genes
    found = model.panel.network(cells.select_genes(panel))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model")
    loaded = YOTO.load(tmp_path / "model").network(cells.select_genes(panel))
    torch.testing.assert_close(loaded, found, rtol=0, atol=0)


def test_private_encoders_are_for_several_labels_only(adata):
    def network(labels, **settings):
        model = YOTO(adata, labels, 6, **settings)
        return model._module().predictor

    two = ["cell_type", "half"]
    assert len(network(two).private) == 2
    assert len(network("cell_type").private) == 0
    assert len(network(two, private_encoders=False).private) == 0


def test_a_private_encoder_is_added_to_the_shared_one_for_its_own_label(adata):
    model = YOTO(adata, ["cell_type", "half"], 6)
    network = model._module().predictor.eval()
    x = torch.rand(5, 6)
    before = network.outputs(x)
    shared = network.trunk(network.first(x))
    private = network.private[1](x)
    expected = (shared + private) @ network.heads[1].weight.T + network.heads[1].bias
    torch.testing.assert_close(before[1], expected)
    with torch.no_grad():
        network.private[1][0].bias += 1.0
    after = network.outputs(x)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    assert not torch.equal(after[1], before[1])


@pytest.mark.filterwarnings(
    "ignore::kernomics.models.yoto.diagnostics.TrainingWarning"
)  # few steps
def test_reading_the_panel_alone_changes_no_bit(adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    settings = {"max_epochs": 3, "batch_size": 70, "progress": False}
    models = [YOTO(cells, "cell_type", 6).train(**settings) for cells in (adata, path)]
    whole = YOTO(adata, "cell_type", 6)
    whole.cells.load_genes = lambda columns: whole.cells  # all genes to the end
    whole.train(**settings)
    for model in (*models[1:], whole):
        assert model.genes == models[0].genes
        for one, other in zip(
            model.panel.network.parameters(), models[0].panel.network.parameters(), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore::kernomics.models.yoto.diagnostics.TrainingWarning")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_panel_fixed_while_buffers_are_read_ahead_changes_no_bit(
    adata, tmp_path, monkeypatch, accumulate
):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr(
        "kernomics.models.yoto.model.sampler_of",
        lambda split, config, seed, cells: Sampler(
            split.train, config.batch_size, seed, block_size=8, buffer_blocks=5
        ),
    )
    settings = {"max_epochs": 3, "batch_size": 16, "progress": False, "accumulate": accumulate}
    models = []
    for in_memory in (True, False):
        cells = CellCollection.from_anndata(
            tmp_path / "cells.h5ad", labels_key="cell_type", in_memory=in_memory
        )
        assert cells.on_disk is not in_memory
        models.append(YOTO(cells, n_genes=6, fix_panel_at=0.55).train(**settings))
    assert models[0].genes == models[1].genes
    for one, other in zip(*(model.module.state_dict().values() for model in models), strict=True):
        assert torch.equal(one, other)
    assert not [t for t in threading.enumerate() if t.name == "kernomics-reader"]


def test_learning_rate_has_a_cycle_for_each_part(adata):
    model = YOTO(adata, "cell_type", 6, fix_panel_at=0.25)
    model.train(max_epochs=1, progress=False)
    assert model.training.restart_at == 0.25


def test_schedules_run_over_the_selection_alone():
    schedule = Schedule(4, 64, 1.0, (1.0, 0.1), (1.0, 0.0), 1.0, fix_at=0.5)
    assert schedule.selection_steps(20) == 10
    assert schedule.at(0, 20) == (64, 1.0, 1.0)
    assert schedule.at(9, 20) == (4, pytest.approx(0.1), pytest.approx(0.0))
    assert schedule.at(19, 20) == schedule.at(9, 20)


@pytest.mark.parametrize("fix_at", [0.0, 1.0])
def test_without_a_second_part_all_steps_select(fix_at):
    schedule = Schedule(4, 64, 1.0, (1.0, 0.1), (1.0, 0.0), 1.0, fix_at=fix_at)
    assert schedule.selection_steps(20) == 20
