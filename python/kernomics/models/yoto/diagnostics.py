"""What can go wrong in a YOTO training, read off its history (signs named in the paper)."""

from __future__ import annotations

from collections.abc import Sequence

from kernomics.models.tasks import Task
from kernomics.train import History

ALIKE = 1e-4
"""Standard deviation of the scores, relative to the step a score can take, that counts as none."""
STUCK = 0.95
"""A task whose loss stays above this share of its first value has learned next to nothing."""


class TrainingWarning(UserWarning):
    """A training ended, but something in its course says that the panel may be poor."""


def training_warnings(history: History, tasks: Sequence[Task], *, free: bool = True) -> list[str]:
    """Describe scores that never parted and tasks that did not learn."""
    records = [record for record in history if record["split"] == "train"]
    if len(records) < 2:
        return []
    found = []
    spread = records[-1]["score_variance"] ** 0.5
    if free and spread < ALIKE:
        found.append(
            f"The gene scores are nearly all the same (standard deviation {spread:.1e}), so the "
            "panel is close to arbitrary: train longer, or raise score_learning_rate."
        )
    ratios = {
        task.name: records[-1][f"loss/{task.name}"] / records[0][f"loss/{task.name}"]
        for task in tasks
        if task.weight > 0 and records[0].get(f"loss/{task.name}", 0.0) > 0
    }
    stuck = [name for name, ratio in ratios.items() if ratio > STUCK]
    if stuck and len(stuck) < len(ratios):
        best = min(ratios, key=lambda name: ratios[name])
        found.append(
            f"Task {stuck[0]!r} did not learn (its loss went to {ratios[stuck[0]]:.0%} of the "
            f"first) while {best!r} did ({ratios[best]:.0%}): one task may dominate; raise the "
            "weight of the other with task_weights, if it can be predicted from these genes at "
            "all."
        )
    elif stuck:
        found.append(
            f"The loss of {', '.join(map(repr, stuck))} did not fall: train longer, or check "
            "whether these labels can be predicted from the counts at all."
        )
    return found
