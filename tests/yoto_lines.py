"""A line of the YOTO benchmark's results, for the tests of what is made of them."""

from __future__ import annotations

from typing import Any


def line(
    method: str = "yoto",
    seed: int = 10,
    own: float | None = None,
    lr: float = 0.5,
    **others: Any,
) -> dict[str, Any]:
    """A line of the results, of one task on pbmc3k unless said otherwise."""
    task = others.pop("task", "cell_type")

    def scores(value: float) -> dict[str, float]:
        return {"macro_f1": value, "accuracy": value + 0.01, "auprc": value + 0.02}

    return {
        "experiment": "main", "set": "pbmc3k", "seed": seed, "k": 16, "method": method,
        "poor": "", "config": "new", "commit": "abc", "device": "A chip", "threads": 1,
        "versions": {"torch": "2", "scanpy": "1", "scikit-learn": "1"}, "load": 0.2,
        "cells": {"train": 1000, "validation": 100, "test": 200}, "n_genes": 5000,
        "split": {"how": "stratified", "by": "cell_type", "seed": seed},
        "panels": [{"tasks": [task], "genes": ["A", "B"]}], "n_trainings": 1, "seconds": 2.0,
        "labelled_train": {task: 90}, "wall_seconds": 3.0,
        "scores": {task: {"own": None if own is None else scores(own), "lr": scores(lr)}},
        **others,
    }  # fmt: skip
