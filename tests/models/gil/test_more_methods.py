"""DER++, feature and ghost distillation, and EWC: their losses, and what they keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from staged_example import ONE, QUICK, SMALL, cells, model, staged, trained

from kernomics.data import gene_stages
from kernomics.errors import ConfigError
from kernomics.models import GIL
from kernomics.models.gil.lesson import Lesson
from kernomics.models.gil.memory import reservoir
from kernomics.models.gil.methods import DER, EWC, Features, Ghosts, Situation
from kernomics.models.gil.methods.der import STORED_DRAW
from kernomics.models.gil.methods.ghosts import with_ghosts
from kernomics.models.gil.module import HIDDEN, GILModule
from kernomics.nn import drawing_from

KINDS = [DER(memory=10, batch=8), Features(), Ghosts(), EWC()]


def lesson_of(method, number=2):
    """A lesson of stage "two", whose previous model is another network of 34 genes."""
    gil, found = model(), staged()
    with drawing_from(1):
        module, previous = (GILModule(n, gil.config, 5) for n in (40, 34))
    situation = Situation(number, module, previous.grown([]), found, found.rows(number), 0)
    return Lesson(situation, [method])


def batch_of(lesson, n=12):
    return lesson.situation.staged.cells.batch(lesson.situation.train[:n])


@pytest.mark.parametrize("method", KINDS)
def test_a_method_trains_alone_and_the_first_stage_is_the_naive_one_s(method):
    gil, naive = trained(method), trained()
    for a, b in zip(
        gil.after("base").module.parameters(), naive.after("base").module.parameters(), strict=True
    ):
        assert torch.equal(a, b)
    assert not np.array_equal(
        gil.trained.get_gene_embeddings(), naive.trained.get_gene_embeddings()
    )
    last = [r for r in gil.history if r["stage"] == "two" and r["split"] == "train"]
    assert last[0][f"loss/{method.name}"] > 0
    again = model(method).train(**QUICK)
    assert again.losses().equals(gil.losses())


@pytest.mark.parametrize("method", [DER(memory=10, batch=8), EWC()])
def test_what_a_method_keeps_is_read_again(method, tmp_path: Path):
    whole = model(method).train(run_dir=tmp_path, **QUICK)
    for stage in (1, 2):  # as if stopped after the first stage
        folder = tmp_path / "stages" / str(stage)
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    fresh = type(method)(**{k: v for k, v in method.settings().items() if k != "name"})
    again = model(fresh).train(run_dir=tmp_path, resume=True, **QUICK)
    assert again.losses().equals(whole.losses())
    assert again.history.without_timings() == whole.history.without_timings()


def test_der_holds_predictions_near_those_of_when_the_cells_were_kept():
    method = DER(memory=6, alpha=1.0, beta=1e-9, batch=12)
    lesson = lesson_of(method)
    found = lesson.situation.staged
    for number in (0, 1):
        method.end(Situation(number, lesson.module, None, found, found.rows(number), 0))
    kept = np.concatenate([reservoir(found, i, 6, 0) for i in (0, 1)])
    assert sorted(method._stored["rows"].tolist()) == sorted(kept.tolist())
    cells = batch_of(lesson)
    assert lesson.training_loss(cells)["loss/der"].item() < 1e-5
    with torch.no_grad():
        for name in ("tokens", "queries"):
            method._stored[name] += 0.5
    assert lesson.training_loss(cells)["loss/der"].item() == pytest.approx(0.5, rel=1e-4)
    # Each value stored is that of its own cell.
    rows = method._stored["rows"].numpy()
    module = lesson.module
    start = 0
    for row, n in zip(rows, method._stored["n"].tolist(), strict=True):
        one = found.cells.batch(np.array([row]))
        alone = module(module.tokens(one, module.at(STORED_DRAW)))
        stored = method._stored["tokens"][start : start + n] - 0.5
        torch.testing.assert_close(stored, alone.tokens.detach(), rtol=1e-4, atol=1e-5)
        start += n


def test_features_are_the_states_and_the_answers_of_the_previous_model():
    lesson = lesson_of(Features(weight=2.0))
    cells = batch_of(lesson)
    found = lesson.training_loss(cells)["loss/features"]
    module, previous = lesson.module, lesson.situation.previous
    tokens = module.tokens(cells, module.drawn_by)
    mine, teacher = module(tokens), previous(tokens.of(tokens.gene_ids < 34))
    from kernomics.nn.philox import STREAM_GHOSTS, uniforms

    genes = (uniforms(module.drawn_by, cells.cell_ids, 32, STREAM_GHOSTS) * 34).long().flatten()
    at = torch.arange(12).repeat_interleave(32)
    answers = module.ask(mine.cls, at, genes) - previous.ask(teacher.cls, at, genes)
    expected = (mine.cls - teacher.cls).square().mean() + answers.square().mean()
    torch.testing.assert_close(found, 2 * expected)


def test_ghosts_are_old_specific_genes_shown_hidden_to_both_models():
    lesson = lesson_of(Ghosts(weight=2.0, n_ghosts=4))
    cells, module, previous = batch_of(lesson), lesson.module, lesson.situation.previous
    tokens = module.tokens(cells, module.drawn_by)
    known = tokens.of(tokens.gene_ids < 34)
    shown = with_ghosts(known, cells, 28, 34, 4, module.drawn_by)
    ghost = shown.gene_ids >= 28
    assert shown.hidden[ghost].all()
    assert (shown.values[ghost] == HIDDEN).all()  # which tells them from what the cell has
    assert torch.equal(shown.lengths, known.lengths + 4)
    assert set(shown.gene_ids[ghost].tolist()) == set(range(28, 34))
    keys = shown.cells * 40 + shown.gene_ids
    assert torch.equal(keys, keys.unique())  # by cell, ascending, none twice
    rest = zip(known[:3], shown[:3], strict=True)
    assert all(torch.equal(before, after[~ghost]) for before, after in rest)
    mine, teacher = module(shown), previous(shown)
    at = ghost[shown.hidden]
    parts = [
        (getattr(mine, name) - getattr(teacher, name))[at].square().mean()
        for name in ("tokens", "queries")
    ]
    expected = 2 * (parts[0] + module.config.query_weight * parts[1])
    torch.testing.assert_close(lesson.training_loss(cells)["loss/ghosts"], expected)


def test_a_gene_that_a_cell_has_measured_is_no_ghost_there():
    """Kept cells of an earlier stage come with their own genes."""
    lesson = lesson_of(Ghosts())
    found, module = lesson.situation.staged, lesson.module
    cells = found.cells.batch(np.concatenate([found.rows(1)[:5], found.rows(2)[:3]]))
    tokens = module.tokens(cells, module.drawn_by)
    known = tokens.of(tokens.gene_ids < 34)
    shown = with_ghosts(known, cells, 28, 34, 99, module.drawn_by)
    assert (shown.lengths - known.lengths).tolist() == [0] * 5 + [6] * 3


def test_in_the_second_stage_there_are_no_ghosts():
    gil = trained(Ghosts())
    one = [r for r in gil.history if r["stage"] == "one" and r["split"] == "train"]
    assert "loss/ghosts" not in one[0]
    naive = trained()
    assert naive.losses().loc["one"].equals(gil.losses().loc["one"])


def test_a_ghost_s_embedding_learns_nothing_from_being_shown():
    gil = trained(Ghosts())
    one, two = (gil.after(name).get_gene_embeddings() for name in ("one", "two"))
    assert np.array_equal(one[28:34], two[28:34])


def test_values_that_are_0_in_float32_make_no_ghosts():
    lesson = lesson_of(Ghosts(n_ghosts=4))
    cells = batch_of(lesson)
    expected = lesson.training_loss(cells)["loss/ghosts"].item()
    seen = lesson.module.tokens

    def underflown(cells, draw):
        tokens = seen(cells, draw)
        return tokens._replace(values=tokens.values.masked_fill(tokens.hidden, 0.0))

    lesson.module.tokens = underflown
    assert lesson.training_loss(cells)["loss/ghosts"].item() == expected


def test_two_stages_without_any_ghosts_are_refused():
    adata = cells()
    two = gene_stages(adata, {"one": ONE})
    with pytest.raises(ConfigError, match="of these 2 stages only the last has any"):
        GIL(adata, two, method="ghosts", **SMALL)
    assert len(GIL(adata, two, method="distillation", **SMALL).train(**QUICK).scores) == 3


def test_more_queries_than_genes_and_more_kept_cells_than_there_are_ask_for_all():
    losses = [
        [r["loss"] for r in trained(methods).history.select("train")]
        for methods in (
            [Features(n_queries=40), DER(memory=5, batch=10)],
            [Features(n_queries=10**30), DER(memory=5, batch=10**30)],
        )
    ]
    assert losses[0] == losses[1]


def test_der_finds_its_kept_cells_once_a_stage(monkeypatch):
    """Their draws go over all cells of a stage: in every step they would take longer than it."""
    from kernomics.models.gil.methods import base

    made = []

    def counting(staged, stage, *given):
        made.append(stage)
        return reservoir(staged, stage, *given)

    monkeypatch.setattr(base, "reservoir", counting)
    trained(DER(memory=5))
    assert made == [0, 0, 1]


@pytest.mark.parametrize("settings", [{"n_unexpressed": 0}, {"combine": "concat"}])
def test_ewc_leaves_weights_that_the_loss_does_not_use_free(settings):
    method = EWC(n_batches=3)
    gil = trained(method, **settings)
    assert np.isfinite(gil.losses().to_numpy()).all()
    unused = method._held["of.detection_head.weight"].abs().max()
    assert (unused == 0) == ("n_unexpressed" in settings)


def test_ewc_is_a_quadratic_about_the_weights_of_before():
    method = EWC(weight=3.0, n_batches=4, batch=6)
    lesson = lesson_of(method)
    found, module = lesson.situation.staged, lesson.situation.previous
    module.requires_grad_(True)
    method.end(Situation(0, module, None, found, found.rows(0), 0))
    fisher = {n: method._held[f"of.{n}"].clone() for n, _ in module.named_parameters()}
    assert all((f >= 0).all() for f in fisher.values())
    assert fisher["genes"][:28].sum() > 0
    assert (fisher["genes"][28:34] == 0).all()  # absent from the cells of the first stage
    lesson.module.load_state_dict(module.grown([40]).state_dict())
    cells = batch_of(lesson)
    assert lesson.training_loss(cells)["loss/ewc"].item() == 0
    with torch.no_grad():
        lesson.module.genes.add_(0.1)
    expected = 1.5 * 0.01 * fisher["genes"].sum().item()
    assert lesson.training_loss(cells)["loss/ewc"].item() == pytest.approx(expected, rel=1e-3)
    # A second stage's information is added to the first's.
    method.end(Situation(1, lesson.module, None, found, found.rows(1), 0))
    assert (method._held["of.genes"][:28] >= fisher["genes"][:28]).all()
    assert len(method._held["of.genes"]) == 40


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (DER(memory=22), "memory is 22 cells of each stage"),
        (DER(memory=5, alpha=0.0), "alpha is 0.0"),
        (DER(memory=5, batch=0), "batch is 0"),
        (Features(weight=-1.0), "weight is -1.0"),
        (Ghosts(n_ghosts=0), "n_ghosts is 0"),
        (EWC(n_batches=0), "n_batches is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(method, message):
    with pytest.raises(ConfigError, match=message):
        model(method)


def test_the_cells_that_ewc_measures_by_are_of_the_whole_stage():
    """Not the first ones of the data, which may be of one data set alone."""
    method, found = EWC(n_batches=3, batch=5), staged()
    lesson = lesson_of(method)
    seen, batch = [], found.cells.batch
    cells = CellsSpy(found.cells, lambda rows: seen.append(rows) or batch(rows))
    spied = replace(found, cells=cells)
    for number in (0, 1):
        method.end(Situation(number, lesson.module, None, spied, found.rows(number), 0))
    first, other = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert len(set(first.tolist())) == 15
    assert np.isin(first, found.rows(0)).all()
    assert np.isin(other, found.rows(1)).all()
    assert first.max() > found.rows(0)[30]
    assert [len(rows) for rows in seen] == [5] * 6


class CellsSpy:
    """A collection that tells of which cells are read."""

    def __init__(self, cells, batch):
        self.cells, self.batch = cells, batch

    def __getattr__(self, name):
        return getattr(self.cells, name)
