"""The second part of a training, in which the panel stays and the network begins afresh."""

import pytest
import torch

from kernomics import datasets
from kernomics.models import YOTO
from kernomics.models.panel_network import Schedule


@pytest.fixture(scope="module")
def adata():
    return datasets.simulate(300, 80, 4, 5, seed=5)


def watched(model, **training):
    """Train, and return per step the scores and the genes seen."""
    seen = []
    make = model._optimizer

    def hooked(module):
        def note(layer, *_):
            if module.training:
                scores = module.selector.scores.detach().clone()
                weights = module.heads[0].weight.detach().clone()
                seen.append((module.step, scores, layer.touched.tolist(), weights))

        module.first.register_forward_hook(note)
        return make(module)

    model._optimizer = hooked
    model.train(progress=False, **training)
    return seen


def test_panel_and_scores_stay_once_fixed(adata):
    model = YOTO(adata, "cell_type", 6, fix_panel_at=0.5, noise_start=1.0)
    seen = watched(model, max_epochs=4, batch_size=70)
    assert [step for step, *_ in seen] == list(range(12))
    assert len({tuple(genes) for _, _, genes, _ in seen[:6]}) > 1
    assert not torch.equal(seen[4][1], seen[5][1])
    assert all(torch.equal(scores, seen[6][1]) for _, scores, _, _ in seen[6:])
    panel = sorted(adata.var_names.get_indexer(model.genes))
    assert all(genes == panel for _, _, genes, _ in seen[6:])


def test_network_begins_afresh_and_goes_on_learning(adata):
    model = YOTO(adata, "cell_type", 6, fix_panel_at=0.5)
    seen = watched(model, max_epochs=4, batch_size=70)
    first, last_before, fresh, last = (seen[i][3] for i in (0, 5, 6, 11))
    assert torch.equal(fresh, first)
    assert not torch.equal(last_before, fresh)
    assert not torch.equal(last, fresh)


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
