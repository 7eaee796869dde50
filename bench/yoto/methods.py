"""The methods of the YOTO benchmark: how each chooses genes, and one judge for all of them.

A method gets a `Problem` and a panel size and returns an `Outcome`: one panel for all tasks, or one
for each, the predictions of its own predictor where it has one, and what it cost. Methods whose
smaller panels are the first genes of a larger one rank once per problem, for the largest.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from bench import machine
from bench.sets import SETS, Problem
from bench.yoto import peers
from bench.yoto.hard_k import HARD_K_OVERRIDES, TOP_K_OVERRIDES
from bench.yoto.persist import PersistBaseline, PersistConfig
from kernomics import baselines, metrics
from kernomics.baselines import round_robin
from kernomics.models import YOTO
from kernomics.models.yoto.config import YOTOConfig, default_training

N_RANDOM = 5  # panels drawn for "random"; their scores are averaged
SMOKE_EPOCHS = 2
METRICS = ("accuracy", "macro_f1", "auprc")
NESTED = ("de", "hvg")  # the first j genes of their larger panels are their panels of j genes

Genes = NDArray[np.int64]
Scores = dict[str, float]


@dataclass(frozen=True, eq=False)
class JudgedPanel:
    """A panel, the tasks it is for, and its own predictor's probabilities on the test cells.

    `info` is what the method says of the training.
    """

    tasks: tuple[str, ...]
    genes: Genes
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method chose, and what it cost.

    Attributes
    ----------
    panels
        One or more; several for one task are averaged.
    n_trainings
        Models trained to choose the genes and to predict from them, over all tasks.
    seconds
        Processor time, over all threads, of choosing and of training the method's own predictor:
        on one thread it is the wall time of a quiet machine, and other work hardly changes it.
    peak_bytes, extra_bytes
        Peak resident size of the process meanwhile, and how far that is above its start.
    warnings
        What was warned of.
    """

    panels: list[JudgedPanel]
    n_trainings: int
    seconds: float
    peak_bytes: int
    extra_bytes: int
    warnings: list[str]


class Cost:
    """Processor time, peak resident size and warnings of a block, ``with Cost() as cost:``."""

    def __enter__(self) -> Cost:
        self._stack = ExitStack()
        caught = self._stack.enter_context(warnings.catch_warnings(record=True))
        assert caught is not None
        self._caught = caught
        warnings.simplefilter("always", UserWarning)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at the present level
        self._resident = machine._status_bytes("VmRSS")
        self._start = time.process_time()
        return self

    def __exit__(self, *error: Any) -> None:
        self.seconds = time.process_time() - self._start
        self.peak_bytes = machine._status_bytes("VmHWM")
        self.extra_bytes = max(0, self.peak_bytes - self._resident)
        self.warnings = [str(warning.message) for warning in self._caught]
        self._stack.close()

    def outcome(self, panels: list[JudgedPanel], n_trainings: int) -> Outcome:
        """Return an outcome with this cost."""
        return Outcome(
            panels, n_trainings, self.seconds, self.peak_bytes, self.extra_bytes, self.warnings
        )


@dataclass(eq=False)
class Bench:
    """A problem, and the rankings of its genes made so far.

    Attributes
    ----------
    problem
        The data set with its split.
    largest
        The largest panel that will be asked for.
    smoke
        Whether to train for two epochs only.
    """

    problem: Problem
    largest: int
    smoke: bool = False
    _ranked: dict[tuple[str, str, int], tuple[Genes, Cost]] = field(default_factory=dict)

    def ranked(self, name: str, task: str, k: int) -> tuple[Genes, Cost]:
        """Return a baseline's k genes for a task, best first, and what finding them cost."""
        size = self.largest if name in NESTED else k
        if (name, task, size) not in self._ranked:
            problem = self.problem
            codes = problem.codes(task, problem.split.train)
            baseline = _baseline(name)
            with Cost() as cost:
                genes = baseline.select(problem.train_counts, codes, size, seed=problem.seed)
            self._ranked[name, task, size] = np.asarray(genes, np.int64), cost
        genes, cost = self._ranked[name, task, size]
        return genes[:k], cost


# ---- the methods --------------------------------------------------------------------------------


def _baseline(name: str, smoke: bool = False) -> Any:
    """Make a baseline with its defaults."""
    if name == "persist":
        few = PersistConfig(
            max_gate_trainings=1, gate_epochs=SMOKE_EPOCHS, mask_epochs=SMOKE_EPOCHS
        )
        return PersistBaseline(few if smoke else None)
    made = {"de": "DEBaseline", "hvg": "HVGBaseline", "l1": "L1Baseline"}
    return getattr(baselines, made[name])()


OVERRIDES: dict[str, Mapping[str, Any]] = {
    "yoto": {},
    "yoto_single": {},
    "hard_k": HARD_K_OVERRIDES,
    "top_k": TOP_K_OVERRIDES,
}


def train_yoto(bench: Bench, k: int, overrides: Mapping[str, Any], per_task: bool) -> Outcome:
    """Train one YOTO for all tasks, or one for each."""
    problem = bench.problem
    groups = [(task,) for task in problem.tasks] if per_task else [problem.tasks]
    panels = []
    with Cost() as cost:
        for tasks in groups:
            cells = problem.cells.with_labels({t: problem.cells.labels[t] for t in tasks})
            model = YOTO(cells, split=problem.split, seed=problem.seed, n_genes=k, **overrides)
            model.train(max_epochs=SMOKE_EPOCHS if bench.smoke else None, progress=False)
            place = {gene: i for i, gene in enumerate(cells.genes)}
            genes = np.array([place[gene] for gene in model.genes], dtype=np.int64)
            outputs = model.trained.outputs(cells, problem.split.test)
            for task in model.tasks:  # a class without training cells has probability 0
                label = cells.labels[task.name]
                whole = np.zeros((len(problem.split.test), label.n_classes), np.float32)
                whole[:, np.isin(label.categories, task.classes)] = outputs[task.name]
                outputs[task.name] = whole
            panels.append(JudgedPanel(tasks, genes, outputs))
    return cost.outcome(panels, len(groups))


def _yoto(name: str, bench: Bench, k: int) -> Outcome:
    return train_yoto(bench, k, OVERRIDES[name], per_task=name in ("yoto_single", "hard_k"))


def _hard_k_joint(name: str, bench: Bench, k: int) -> Outcome:
    """One panel of k genes by turns from hard-k trainings for one task each, one predictor."""
    apart = train_yoto(bench, k, OVERRIDES["hard_k"], per_task=True)
    genes = round_robin([panel.genes for panel in apart.panels], k)
    forced = bench.problem.cells.genes[genes].tolist()
    overrides = {**OVERRIDES["hard_k"], "forced_genes": forced}
    together = train_yoto(bench, k, overrides, per_task=False)
    return Outcome(
        together.panels,
        apart.n_trainings + together.n_trainings,
        apart.seconds + together.seconds,
        max(apart.peak_bytes, together.peak_bytes),
        max(apart.extra_bytes, together.extra_bytes),
        apart.warnings + together.warnings,
    )


def _random(name: str, bench: Bench, k: int) -> Outcome:
    problem = bench.problem
    n_genes = problem.cells.n_genes
    with Cost() as cost:
        drawn = [
            baselines.random_panel(n_genes, k, seed=N_RANDOM * problem.seed + i)
            for i in range(N_RANDOM)
        ]
    return cost.outcome([JudgedPanel(problem.tasks, genes) for genes in drawn], 0)


def _hvg(name: str, bench: Bench, k: int) -> Outcome:
    problem = bench.problem
    genes, cost = bench.ranked("hvg", problem.tasks[0], k)  # looks at no label
    return cost.outcome([JudgedPanel(problem.tasks, genes)], 0)


def _ranked(name: str, bench: Bench, k: int) -> Outcome:
    """One panel for each task; or, for ``…_joint``, one for all by turns over tasks' rankings."""
    base = name.removesuffix("_joint")
    tasks = bench.problem.tasks
    found = [bench.ranked(base, task, k) for task in tasks]
    if base == name:
        panels = [JudgedPanel((t,), genes) for t, (genes, _) in zip(tasks, found, strict=True)]
    else:
        panels = [JudgedPanel(tasks, round_robin([genes for genes, _ in found], k))]
    costs = [cost for _, cost in found]
    return Outcome(
        panels,
        len(tasks) if base == "l1" else 0,
        sum(cost.seconds for cost in costs),
        max(cost.peak_bytes for cost in costs),
        max(cost.extra_bytes for cost in costs),
        [text for cost in costs for text in cost.warnings],
    )


def _persist(name: str, bench: Bench, k: int) -> Outcome:
    problem = bench.problem
    panels, n_trainings = [], 0
    with Cost() as cost:
        for task in problem.tasks:
            codes = problem.codes(task, problem.split.train)
            trained = _baseline(name, bench.smoke).train(
                problem.train_counts,
                codes,
                k,
                seed=problem.seed,
                n_classes=problem.cells.labels[task].n_classes,
            )
            outputs = {task: trained.predict(problem.test_counts)}
            losses = {name: [values[0], values[-1]] for name, values in trained.losses.items()}
            info = {**trained.info, "losses": losses}
            panels.append(JudgedPanel((task,), trained.genes, outputs, info))
            n_trainings += trained.n_trainings
    return cost.outcome(panels, n_trainings)


def _peer(name: str, bench: Bench, k: int) -> Outcome:
    """One panel for each task, chosen by another package in a process of its own."""
    problem, panels, seconds = bench.problem, [], 0.0
    with Cost() as cost:
        for task in problem.tasks:
            codes = problem.codes(task, problem.split.train)
            genes, info = peers.peer_panel(name, problem.train_counts, codes, k, problem.seed)
            panels.append(JudgedPanel((task,), genes, info=info))
            seconds += info["seconds"]
    return dataclasses.replace(cost.outcome(panels, len(panels)), seconds=seconds)


@dataclass(frozen=True)
class Method:
    """A way to choose genes.

    Attributes
    ----------
    title
        For the tables.
    run
        Chooses: called with the method's name, the bench and k.
    several_tasks
        Whether it makes sense for several tasks only.
    only
        The (sets, panel sizes, seeds) it is run for, when not all.
    """

    title: str
    run: Callable[[str, Bench, int], Outcome]
    several_tasks: bool = False
    only: tuple[Sequence[str], Sequence[int], Sequence[int]] | None = None


METHODS = {
    "yoto": Method("YOTO", _yoto),
    "yoto_single": Method("YOTO per task", _yoto, several_tasks=True),
    "hard_k": Method("hard-k per task", _yoto),
    "hard_k_joint": Method("hard-k, joint panel", _hard_k_joint, several_tasks=True),
    "top_k": Method("YOTO without noise", _yoto, only=(tuple(SETS), (32,), range(10, 15))),
    "persist": Method(
        "PERSIST-style", _persist, only=(("pbmc3k", "zheng", "paul15"), (32,), (10, 11))
    ),
    "l1": Method("L1", _ranked),
    "l1_joint": Method("L1, joint panel", _ranked, several_tasks=True),
    "de": Method("DE (Wilcoxon)", _ranked),
    "de_joint": Method("DE, joint panel", _ranked, several_tasks=True),
    "hvg": Method("highly variable", _hvg),
    "random": Method("random (5 panels)", _random),
    **{name: Method(f"{name} {version}", _peer) for name, version in peers.VERSIONS.items()},
}


def settings(name: str, k: int) -> dict[str, Any]:
    """Return what decides a method's panel beside the data and the seed; JSON-able."""
    base = name.removesuffix("_joint")
    if base in OVERRIDES:
        config = YOTOConfig(**{"n_genes": k, **OVERRIDES[base]})
        trainings = [default_training(n) for n in (1_000, 2_000, 10_000)]
        return {
            "config": dataclasses.asdict(config),
            "training": [dataclasses.asdict(training) for training in trainings],
        }
    if base == "random":
        return {"panels": N_RANDOM}
    if base in peers.VERSIONS:
        return {"version": peers.VERSIONS[base], "side": peers.ROUND}
    return {
        name: vars(value) if dataclasses.is_dataclass(value) else value
        for name, value in vars(_baseline(base)).items()
    }


def warm_up(threads: int) -> None:
    """Set the number of threads; import and compile what the first run would be charged with."""
    import numba  # takes a second, and the tables need none of it

    numba.set_num_threads(min(threads, numba.get_num_threads()))
    torch.set_num_threads(threads)
    random = np.random.default_rng(0)
    counts = sparse.csr_matrix(random.poisson(1.0, (40, 10)).astype(np.float32))
    labels = np.arange(40) % 2
    baselines.de_panel(counts, labels, 2)
    metrics.evaluate_genes(counts, labels, counts, labels)


# ---- the judge ----------------------------------------------------------------------------------


def judge(problem: Problem, panels: list[JudgedPanel]) -> dict[str, dict[str, Scores | None]]:
    """Score panels on the test cells.

    Returns
    -------
    dict
        Per task: ``own``, the scores of the panel's own predictor (None without one), and ``lr``,
        those of a logistic regression that sees the panel's counts alone; means over the panels
        for that task.
    """
    found: dict[str, dict[str, Scores | None]] = {}
    for task in problem.tasks:
        truth = problem.codes(task, problem.split.test)
        train = problem.codes(task, problem.split.train)
        own: list[Scores] = []
        lr: list[Scores] = []
        for panel in panels:
            if task not in panel.tasks:
                continue
            if task in panel.outputs:
                output = panel.outputs[task]
                own.append(metrics.classification_metrics(truth, output.argmax(1), output))
            score = metrics.evaluate_genes(
                problem.train_counts[:, panel.genes], train,
                problem.test_counts[:, panel.genes], truth,
            )  # fmt: skip
            lr.append({name: getattr(score, name) for name in METRICS})
        if lr:
            found[task] = {"own": _mean(own) if own else None, "lr": _mean(lr)}
    return found


def _mean(scores: list[Scores]) -> Scores:
    return {name: float(np.mean([score[name] for score in scores])) for name in METRICS}
