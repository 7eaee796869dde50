"""What each method against forgetting does, and which go together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from staged_example import QUICK, model, staged, trained

from kernomics.errors import ConfigError
from kernomics.models.gil.lesson import Lesson
from kernomics.models.gil.methods import (
    DER,
    EWC,
    METHODS,
    Adapters,
    Distillation,
    Replay,
    Situation,
    as_methods,
)
from kernomics.models.gil.module import GILModule
from kernomics.models.gil.tokens import expressed_genes
from kernomics.nn import drawing_from
from kernomics.train import RowAdamW


def lesson_of(*methods, n_known=28, n_genes=34, number=1):
    """A lesson of stage "one" whose previous model is another network of the base genes."""
    gil, found = model(), staged()
    with drawing_from(1):
        module, previous = (GILModule(n, gil.config, 5) for n in (n_genes, n_known))
    situation = Situation(number, module, previous.grown([]), found, found.rows(number), 0)
    return Lesson(situation, methods)


def test_absent_genes_keep_their_embeddings_to_the_bit():
    gil = trained()
    one, two = gil.after("one").get_gene_embeddings(), gil.after("two").get_gene_embeddings()
    assert np.array_equal(one[28:34], two[28:34])
    assert not np.array_equal(one[:28], two[:28])
    decayed = model().train(**QUICK, weight_decay=0.1)
    one, two = (decayed.after(name).get_gene_embeddings() for name in ("one", "two"))
    assert np.array_equal(one[28:34], two[28:34])


def test_the_row_wise_optimiser_keeps_absent_genes_too():
    lesson = lesson_of()
    genes, found = lesson.module.genes, lesson.situation.staged
    touched: list[torch.Tensor] = []
    optimizer = RowAdamW(
        [{"params": [genes], "rows": lambda: touched[-1]}], lr=0.1, weight_decay=0.1
    )
    before = genes.detach().clone()
    for step in range(3):
        cells = found.cells.batch(found.rows(0)[step * 8 : step * 8 + 8])
        tokens = lesson.module.tokens(cells, lesson.module.at(step))
        touched.append(tokens.gene_ids.unique())
        optimizer.zero_grad()
        lesson.module.value_losses(lesson.module(tokens))["loss"].backward()
        optimizer.step()
    absent = ~torch.isin(torch.arange(34), torch.cat(touched))
    assert absent[28:].all()
    assert torch.equal(genes[absent], before[absent])
    assert not torch.equal(genes[~absent], before[~absent])


def test_frozen_old_genes_predict_the_same_to_the_bit():
    gil = trained("freezing")
    base, last = gil.after("base").module, gil.after("two").module
    found = staged()
    cells = found.cells.batch(found.rows(0))
    tokens = base.tokens(cells, base.at(3))
    for one, other in zip(base(tokens), last(tokens), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(base.genes, last.genes[:28])
    assert not torch.equal(gil.after("one").module.genes[28:34], base.grown([34]).genes[28:])


def test_the_previous_model_sees_the_genes_it_knows_alone():
    lesson = lesson_of(Distillation())
    found = lesson.situation.staged
    cells = found.cells.batch(lesson.situation.train[:12])
    seen = []
    lesson.situation.previous.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    lesson.training_loss(cells)
    (tokens,) = seen
    assert int(tokens.gene_ids.max()) < 28
    every = lesson.module.tokens(cells, lesson.module.drawn_by)
    known = every.gene_ids < 28
    assert torch.equal(tokens.gene_ids, every.gene_ids[known])
    assert torch.equal(tokens.hidden, every.hidden[known])


def test_distillation_is_the_squared_difference_at_known_genes():
    lesson = lesson_of(Distillation(weight=3.0))
    found = lesson.situation.staged
    cells = found.cells.batch(lesson.situation.train[:12])
    losses = lesson.training_loss(cells)
    every = lesson.module.tokens(cells, lesson.module.drawn_by)
    mine, teacher = lesson.module(every), lesson.situation.previous(every.of(every.gene_ids < 28))
    known = every.gene_ids[every.hidden] < 28
    expected = (mine.tokens[known] - teacher.tokens).square().mean()
    expected = expected + (mine.queries[known] - teacher.queries).square().mean()
    torch.testing.assert_close(losses["loss/distillation"], 3 * expected)
    torch.testing.assert_close(
        losses["loss"],
        losses["loss/tokens"]
        + losses["loss/queries"]
        + 2 * losses["loss/detection"]
        + 3 * expected,
    )


def test_a_model_distilled_from_itself_differs_by_nothing_where_no_new_gene_is_seen():
    lesson = lesson_of(Distillation(), n_genes=28, number=0)
    lesson.module.load_state_dict(lesson.situation.previous.state_dict())
    cells = lesson.situation.staged.cells.batch(lesson.situation.train[:12])
    assert lesson.training_loss(cells)["loss/distillation"].item() == 0


def test_the_first_stage_is_the_same_whatever_the_method():
    base = trained().after("base").module.state_dict()
    for method in (
        "freezing",
        "adapters",
        Replay(memory=10),
        "distillation",
        ["distillation", Replay(10)],
    ):
        other = trained(method).after("base").module.state_dict()
        assert all(torch.equal(base[name], other[name]) for name in base)


def test_joint_trains_all_stages_at_once():
    gil = trained("joint")
    assert list(gil.scores) == ["start", "two"]
    n = sum(len(gil.staged.rows(i)) for i in range(3))
    assert gil.history.select("train")[0]["cells"] == n
    with pytest.raises(ConfigError, match="no training ended with stage 'base'"):
        gil.after("base")


def test_replay_shows_earlier_stages_genes_again():
    gil = trained([Replay(memory=10), Distillation()])
    one, two = (gil.after(name).get_gene_embeddings() for name in ("one", "two"))
    assert not np.array_equal(one[28:34], two[28:34])
    records = [r for r in gil.history if r["stage"] == "two" and r["split"] == "train"]
    assert records[0]["cells"] > 1.8 * len(gil.staged.rows(2))
    assert "loss/distillation" in records[0]


def test_planted_values_reach_nothing():
    """Neither training nor scores hang on counts of genes that a cell's stage lacks."""
    from staged_example import cells, stages, with_planted

    adata = cells()
    planted = with_planted(adata, stages(adata))
    for method in (
        "naive",
        ["distillation", Replay(memory=10)],
        "joint",
        "freezing",
        ["adapters", "features"],
        [DER(memory=10, batch=8), "features", "ghosts", EWC(n_batches=3, batch=8)],
    ):
        one, other = trained(method, adata=adata), trained(method, adata=planted)
        assert one.history.without_timings() == other.history.without_timings()
        assert one.losses().equals(other.losses())
        for a, b in zip(
            one.trained.module.parameters(), other.trained.module.parameters(), strict=True
        ):
            assert torch.equal(a, b)


def test_a_cell_shows_specific_genes_in_its_own_stage_or_from_the_memory():
    from kernomics.data import Sampler
    from kernomics.models.gil.memory import ReplayLoader

    found = staged()
    group = torch.from_numpy(found.stages.group_of_gene())
    kept, share = Replay(memory=10).replayed(lesson_of(number=2).situation)
    loader = ReplayLoader(found.cells, Sampler(found.rows(2), 10, 0), kept, share, 0)
    for batch in loader.epoch(0):
        tokens = expressed_genes(batch, 1e4)
        stage = torch.from_numpy(found.stage_of_cell)[batch.cell_ids % 2**32]
        of_token, from_memory = stage[tokens.cells], batch.cell_ids[tokens.cells] >= 2**32
        specific = group[tokens.gene_ids] > 0
        assert torch.equal(of_token[specific], group[tokens.gene_ids][specific])
        assert ((of_token == 2) == ~from_memory).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("replya", "there is no method 'replya'; closest: 'replay'"),
        ([], "no method is named"),
        (["replay", "replay"], "method 'replay' is named 2 times"),
        (["naive", "replay"], "method 'naive' is combined with 'replay': it stands alone"),
        (["joint", "distillation"], "there is no previous model when all stages are trained at"),
        ([3], "method is 3: a name or a Method"),
        (["replay", "adapters"], "'adapters' is combined with 'replay', which does nothing there"),
        (["adapters", "der"], "'adapters' is combined with 'der', which does nothing there"),
        (["adapters", "ghosts"], "it shows the cells without their new genes, so all weights"),
        (["adapters", "ewc"], "the weights that it holds are fixed; leave one of them out"),
        (
            ["adapters", "freezing"],
            "'freezing' is combined with 'adapters': it stands alone",
        ),
        (Replay(memory="many"), "memory is 'many'"),
        (Adapters(rank=1.5), "rank is 1.5"),
    ],
)
def test_methods_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        as_methods(given)


def test_a_weight_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"weight is 0.0: it must be above 0"):
        model(Distillation(weight=0.0))


def test_every_method_is_known_by_its_name():
    assert {name: kind.name for name, kind in METHODS.items()} == {name: name for name in METHODS}


@dataclass(frozen=True)
class Again(Replay):
    """A method of one's own, which mixes cells into the batches too."""

    name = "again"


def test_two_methods_that_mix_cells_into_the_batches_are_refused():
    """Before anything is trained: the first stage has no kept cells to mix in yet."""
    with pytest.raises(ConfigError, match="methods replay and again mix cells into the batches"):
        model([Replay(memory=5), Again(memory=5)])
