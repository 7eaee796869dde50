"""The panels of other seeds and sizes that a run can be asked for besides its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernomics.evaluation.panels import PanelCurve, Stability, panel_curve, panel_stability
from kernomics.evaluation.panels.curve import check_sizes
from kernomics.evaluation.panels.retraining import check_seeds
from kernomics.models import YOTO
from kernomics.train import replace_file


@dataclass(frozen=True)
class Further:
    """What was found besides the run's own panel; None where it was not asked for."""

    stability: Stability | None
    curve: PanelCurve | None

    @property
    def warnings(self) -> list[str]:
        """What went wrong in these trainings; one that serves both is told once."""
        found = [part.warnings for part in (self.stability, self.curve) if part is not None]
        return list(dict.fromkeys(text for texts in found for text in texts))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form of what was asked for."""
        found = {"stability": self.stability, "curve": self.curve}
        return {name: part.to_dict() for name, part in found.items() if part is not None}


def check_again(model: YOTO, stability: int, curve: Sequence[int]) -> None:
    """Refuse numbers of seeds and sizes that `select_again` would."""
    if stability:
        check_seeds(model, stability, least=2)
    if curve:
        check_sizes(model, curve)


def select_again(
    model: YOTO, folder: Path, *, stability: int, curve: Sequence[int], device: str
) -> Further:
    """Select with other seeds and sizes, as `run_selection` was asked."""
    shared: dict[str, Any] = {
        "folder": folder,
        "device": device,
        "progress": model.training.progress,
    }
    seeds = panel_stability(model, stability, **shared) if stability else None
    sizes = panel_curve(model, curve, **shared) if curve else None
    tables = {}
    if seeds is not None:
        tables["stability"] = seeds.table
        tables["consensus"] = seeds.table.loc[seeds.consensus, ["frequency", "mean_rank"]]
    if sizes is not None:
        tables["curve"] = sizes.table.set_index("n_genes")
    for name, table in tables.items():
        text = table.to_csv(float_format="%.6g", lineterminator="\n")
        replace_file(folder / f"{name}.csv", text.encode())
    return Further(seeds, sizes)
