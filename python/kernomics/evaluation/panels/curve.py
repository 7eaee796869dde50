"""How a panel's scores grow with its size, and the size to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kernomics._arguments import checked
from kernomics._optional import require_extra
from kernomics.errors import ConfigError
from kernomics.evaluation.panels.retraining import (
    OWN_NETWORK,
    Trainings,
    again,
    check_seeds,
    main_figure,
    mean_known,
    predictor_name,
    progress_bar,
)
from kernomics.models import YOTO
from kernomics.models.yoto.budget import make_budget
from kernomics.train import override


@dataclass(frozen=True, eq=False)
class PanelCurve:
    """Scores of panels of several sizes.

    Attributes
    ----------
    table
        One row per score: ``n_genes``, ``seed``, ``task``, ``predictor`` (``"its own network"``,
        or the independent regression), ``metric``, ``value``, ``part`` (``"validation"`` or
        ``"test"``).
    summary
        Index n_genes: ``value``, the score by which a size is chosen, and its ``standard_error``.
    suggested
        The smallest size within one standard error of the best; see `suggested_size`.
    chosen
        For each size, the genes of the first seed, best first.
    warnings
        What went wrong in an additional training run.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    suggested: int
    chosen: dict[int, list[str]]
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        values = ", ".join(
            f"{size}: {row.value:.3f} ± {row.standard_error:.3f}"
            for size, row in zip(self.summary.index, self.summary.itertuples(), strict=True)
        )
        return f"{values} on the validation cells; {self.suggested} genes are suggested"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {
            "suggested": self.suggested,
            "summary": self.summary.reset_index().to_dict("records"),
            "table": self.table.to_dict("records"),
            "chosen": self.chosen,
        }


@checked
def panel_curve(
    model: YOTO,
    n_genes: Sequence[int],
    *,
    seeds: int | Sequence[int] = 1,
    folder: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> PanelCurve:
    """Select panels of several sizes and suggest one.

    A size is chosen by its panels' own networks on the validation cells: macro-F1, or R² for
    continuous labels, averaged over tasks and seeds. Its standard error is that of a bootstrap over
    these cells (all panels see the same 200 resamples). The spread over seeds is not used: it is
    uninformative for one or two seeds, and with many seeds their mean becomes certain although the
    validation cells remain few. The test cells play no part in the choice.

    Parameters
    ----------
    model
        What to select. If trained, its panel is used for its size and seed; the model itself is not
        changed.
    n_genes
        The sizes.
    seeds
        How many for each size, the model's own first and then those after it; or a list of them.
    folder, device, progress
        As in `panel_stability`, with which training runs are shared.

    Raises
    ------
    ConfigError
        Before any training: for a size these genes cannot give, invalid seeds, or a split without
        validation cells.
    ImportError
        Without scikit-learn (extra ``report``).
    """
    sizes = check_sizes(model, n_genes)
    numbers = check_seeds(model, seeds, least=1)
    require_extra("sklearn", purpose="panel_curve")
    trainings = Trainings(model, folder, device)
    rows: list[dict[str, Any]] = []
    chosen: dict[int, list[str]] = {}
    figures: dict[int, tuple[float, float]] = {}
    found = []
    n_steps = len(sizes) * len(numbers)
    with progress_bar("sizes", n_steps, progress) as bar:
        for size in sizes:
            values, resampled = [], []
            for seed in numbers:
                same = (size, seed) == (model.config.n_genes, model.seed)
                own_panel = same and model.panel is not None
                one = model if own_panel else again(model, seed=seed, n_genes=size)
                record = trainings.record(one, ["validation", "test"])
                rows += _rows(model, size, seed, record)
                chosen.setdefault(size, record["genes"])
                values.append(main_figure(model.tasks, record["network"]["validation"]))
                resampled.append(np.array(record["resampled"], dtype=np.float64))
                if not own_panel:  # its warnings were given before
                    found += [f"{size} genes, seed {seed}: {text}" for text in record["warnings"]]
                bar.update()
            # Per resample the mean over seeds: all of them saw the same resamples.
            means = np.mean(resampled, axis=0)
            figures[size] = mean_known(values), float(np.std(means[~np.isnan(means)], ddof=1))
    summary = pd.DataFrame.from_dict(figures, "index", columns=["value", "standard_error"])
    summary = summary.rename_axis("n_genes")
    columns = ["n_genes", "seed", "task", "predictor", "metric", "value", "part"]
    return PanelCurve(
        table=pd.DataFrame(rows, columns=columns),
        summary=summary,
        suggested=suggested_size(summary),
        chosen=chosen,
        warnings=found,
    )


def suggested_size(summary: pd.DataFrame) -> int:
    """Return the smallest size whose value is within one standard error of the best.

    The error is that of the best value (the one-standard-error rule of Breiman, Friedman, Olshen
    and Stone, Classification and Regression Trees, 1984, section 3.4.3).
    """
    known = summary.dropna(subset=["value"])
    if known.empty:
        raise ConfigError(
            f"none of the {len(summary)} sizes has a score on the validation cells, so none can be "
            "suggested: are these cells labelled?"
        )
    known = known.sort_index()
    values, errors = known["value"].to_numpy(), known["standard_error"].fillna(0.0).to_numpy()
    best = int(values.argmax())
    return int(known.index[values >= values[best] - errors[best]][0])


def check_sizes(model: YOTO, n_genes: Sequence[int]) -> list[int]:
    """Return the sizes of a curve, sorted and each once."""
    try:
        given = list(n_genes)
    except TypeError:
        raise ConfigError(f"n_genes is {n_genes!r}: a curve needs a list of sizes") from None
    if not given:
        raise ConfigError("no sizes are given: a curve needs at least one, such as 8 16 32")
    for size in given:
        override(model.config, n_genes=size)  # refuses what is no size
    sizes = sorted(set(given))
    usable, forced = model.bounds.usable, len(model.bounds.forced)
    too_large = [size for size in sizes if size > usable]
    if too_large:
        raise ConfigError(
            f"{len(too_large)} of {len(sizes)} sizes of the curve are above the {usable:,} of "
            f"{model.cells.n_genes:,} genes that are usable, first {too_large[0]:,}; leave them out"
        )
    if sizes[0] < forced:
        raise ConfigError(
            f"the curve asks for {sizes[0]} genes, but {forced} are forced; leave out sizes below "
            f"{forced}"
        )
    if model.constraints.budget is not None:
        _require_affordable(model, sizes[-1])
    rows = model.split.validation
    if not any(model.cells.labels[task.name].labelled[rows].any() for task in model.tasks):
        raise ConfigError(
            "the size is chosen on the validation cells, and of the split's "
            f"{len(rows):,} none is labelled; give fractions a larger second share"
        )
    return sizes


def _require_affordable(model: YOTO, size: int) -> None:
    """Refuse a size that no panel within the budget has."""
    bounds, options = model.bounds, model.options
    make_budget(
        options["gene_costs"],
        options["budget"],
        model.cells.genes,
        forced=bounds.forced,
        forbidden=bounds.forbidden,
        n_genes=size,
    )


def _rows(model: YOTO, size: int, seed: int, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a training's scores as rows of the table."""
    rows = []
    for part in ("validation", "test"):
        for task in model.tasks:
            for predictor, scores in (
                (OWN_NETWORK, record["network"][part]),
                (predictor_name(task), record["regression"][part]),
            ):
                for metric, value in scores.get(task.name, {}).items():
                    value = float("nan") if value is None else value
                    rows.append(
                        {"n_genes": size, "seed": seed, "task": task.name, "predictor": predictor,
                         "metric": metric, "value": value, "part": part}
                    )  # fmt: skip
    return rows
