"""How much a panel depends on the seed, and the panel that several seeds agree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kernomics._arguments import checked
from kernomics._optional import require_extra
from kernomics.errors import CheckpointError, ConfigError
from kernomics.evaluation.panels.retraining import (
    OWN_NETWORK,
    Trainings,
    again,
    check_seeds,
    identity,
    network_scores,
    panel_with_order,
    predictor_of,
    progress_bar,
    regression_scores,
    trained,
)
from kernomics.models import YOTO, Panel
from kernomics.models.yoto.budget import ROUNDING

CONSENSUS = "consensus"
REGRESSION = "independent regression"


@dataclass(frozen=True, eq=False)
class Stability:
    """Panels of several seeds, how similar they are, and what they agree on.

    Attributes
    ----------
    panels
        For each seed, its genes, best first.
    scores
        Index seed, one column per ``task/metric``: each panel's own network on the held-out cells.
        Without columns if none are held out.
    regression_scores
        The same for an independent logistic or ridge regression.
    overlap
        Jaccard index of each pair of panels, [seed, seed].
    kuncheva
        Mean overlap corrected for chance, see `kuncheva_index`, over the genes that were free to
        be chosen.
    frequency
        For each gene selected by any seed, the share of seeds that selected it, largest first.
    consensus
        As many genes as a panel has, by frequency, ties by mean rank; forced genes are in it.
    consensus_panel
        The consensus genes with their own predictor; None if not requested.
    consensus_scores
        Of that panel on the held-out cells: index ``"its own network"`` and
        ``"independent regression"``, columns as in `scores`.
    resampled
        Whether the seeds also differ in their training cells.
    warnings
        What went wrong in training an additional seed, or with the consensus.
    """

    panels: dict[int, list[str]]
    scores: pd.DataFrame
    regression_scores: pd.DataFrame
    overlap: pd.DataFrame
    kuncheva: float
    frequency: pd.Series[float]
    consensus: list[str]
    consensus_panel: Panel | None = None
    consensus_scores: pd.DataFrame = field(default_factory=pd.DataFrame)
    resampled: bool = False
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        always = int((self.frequency == 1).sum())
        return (
            f"{len(self.panels)} seeds: mean Jaccard index {self.mean_overlap:.2f}, Kuncheva index "
            f"{self.kuncheva:.2f}; {always} genes in every panel"
        )

    @property
    def mean_overlap(self) -> float:
        """Mean Jaccard index over pairs of seeds."""
        values = self.overlap.to_numpy()
        return float(values[np.triu_indices(len(values), 1)].mean())

    @property
    def table(self) -> pd.DataFrame:
        """Genes by frequency: ``frequency``, ``mean_rank``, ``consensus``, ``seed_<n>`` (rank)."""
        ranks = _ranks(self.panels)
        table = pd.DataFrame(
            {
                "frequency": self.frequency,
                "mean_rank": ranks.mean(axis=1),
                "consensus": self.frequency.index.isin(self.consensus),
            },
            index=self.frequency.index,
        )
        return table.join(ranks.astype("Int64").add_prefix("seed_"))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form, without the consensus panel's network."""
        return {
            "panels": self.panels,
            "scores": _by_row(self.scores),
            "regression_scores": _by_row(self.regression_scores),
            "overlap": _by_row(self.overlap),
            "mean_overlap": self.mean_overlap,
            "kuncheva": self.kuncheva,
            "frequency": self.frequency.to_dict(),
            "consensus": self.consensus,
            "consensus_scores": _by_row(self.consensus_scores),
            "resampled": self.resampled,
        }


@checked
def panel_stability(
    model: YOTO | Callable[[int], YOTO],
    seeds: int | Sequence[int] = 5,
    *,
    resample: bool = False,
    predictor: bool = True,
    folder: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Stability:
    """Select with several seeds, compare the panels and form the consensus.

    A seed decides the initial weights, the order of the cells and the noise. All seeds have the
    same validation and held-out cells, so that their scores can be compared.

    Parameters
    ----------
    model
        What to select. If trained, its panel is used for its seed; the model itself is not changed.
        Or a function that makes an untrained model from a seed; all models must hold out the same
        cells.
    seeds
        How many, at least 2, the model's own first and then those after it; or a list of them.
    resample
        Train each additional seed on only 80 % of the training cells, drawn with the seed: the
        panels then also show how much the choice depends on the particular cells (stability
        selection after Meinshausen and Bühlmann, J. R. Stat. Soc. B 72, 2010, who draw half).
    predictor
        Train a predictor for the consensus as well.
    folder
        Where to keep each finished training run (``trainings/``) and the consensus panel
        (``consensus/``), such as a run directory. Runs found there are not repeated, and the result
        is the same.
    device
        Where to train.
    progress
        Whether to show a progress bar over the training runs.

    Raises
    ------
    ConfigError
        If the seeds are invalid, or a function's models hold out different cells.
    ImportError
        Without scikit-learn (extra ``report``).
    """
    make, template = (None, model) if isinstance(model, YOTO) else (model, None)
    numbers = check_seeds(template, seeds, least=2)
    require_extra("sklearn", purpose="panel_stability")
    if resample and make is not None:
        raise ConfigError("resample=True needs a model; a function chooses its training cells")
    first = make(numbers[0]) if make is not None else model
    assert isinstance(first, YOTO)
    trainings = Trainings(first, folder, device)
    panels: dict[int, list[str]] = {}
    own: dict[int, Any] = {}
    regression: dict[int, Any] = {}
    found = []
    n_steps = len(numbers) + predictor
    with progress_bar("seeds", n_steps, progress) as bar:
        for seed in numbers:
            own_panel = make is None and first.panel is not None and seed == first.seed
            if own_panel:
                one = first
            elif make is None:
                one = again(first, seed=seed, resample=resample)
            else:
                one = first if seed == numbers[0] else make(seed)
                _require_same_held_out(first, one, seed)
            record = trainings.record(one, ["test"])
            panels[seed] = record["genes"]
            own[seed], regression[seed] = record["network"]["test"], record["regression"]["test"]
            if not own_panel:  # its warnings were given before
                found += [f"Seed {seed}: {text}" for text in record["warnings"]]
            bar.update()
        frequency, consensus = agreement(panels)
        found += above_budget(first, consensus)
        panel, scores = None, pd.DataFrame()
        if predictor:
            panel = _consensus_panel(first, consensus, frequency, list(panels), folder, device)
            scores = _wide(
                {
                    OWN_NETWORK: network_scores(first, panel, "test"),
                    REGRESSION: regression_scores(first, consensus, "test"),
                },
                "predictor",
            )
            bar.update()
    forced = first.cells.genes[first.bounds.forced].tolist()
    free = [[gene for gene in genes if gene not in forced] for genes in panels.values()]
    return Stability(
        panels=panels,
        scores=_wide(own, "seed"),
        regression_scores=_wide(regression, "seed"),
        overlap=jaccard_matrix(panels),
        kuncheva=kuncheva_index(free, first.bounds.usable - len(forced)),
        frequency=frequency,
        consensus=consensus,
        consensus_panel=panel,
        consensus_scores=scores,
        resampled=resample,
        warnings=found,
    )


# -- how alike panels are --------------------------------------------------------------------------


def jaccard_matrix(panels: Mapping[int, Sequence[str]]) -> pd.DataFrame:
    """Return |A ∩ B| / |A ∪ B| for each pair of panels, float64 [seed, seed]."""
    index = pd.Index(list(panels), name="seed")
    sets = [set(genes) for genes in panels.values()]
    values = [[len(a & b) / len(a | b) for b in sets] for a in sets]
    return pd.DataFrame(values, index=index, columns=index)


def kuncheva_index(panels: Sequence[Sequence[str]], n_genes: int) -> float:
    r"""Return the mean overlap of panels, corrected for the overlap that chance gives.

    Two panels of k out of G genes that share r have the index (Kuncheva, IASTED Artificial
    Intelligence and Applications, 2007)

    .. math:: (r − k²/G) / (k − k²/G),

    1 if they are the same, 0 if they share as many as random panels do, less if fewer. The mean
    over all pairs of M panels equals (Nogueira, Sechidis and Brown, JMLR 18(174), 2018)

    .. math:: 1 − \frac{M/(M−1) · Σ_g p_g (1 − p_g)}{k̄ (1 − k̄/G)},

    with p_g the share of panels that hold gene g and k̄ the mean size, which also serves panels of
    different sizes and is what is computed.
    """
    count = len(panels)
    if count < 2:
        raise ConfigError(f"an overlap needs at least 2 panels, not {count}")
    holders = pd.Series([gene for genes in panels for gene in set(genes)], dtype=object)
    share = holders.value_counts().to_numpy() / count
    if len(share) > n_genes:
        raise ConfigError(
            f"the panels hold {len(share):,} different genes, more than the {n_genes:,} that could "
            "be chosen; give the number of all usable genes"
        )
    size = float(share.sum())
    chance = size * (1 - size / n_genes) if n_genes else 0.0
    if chance <= 0:
        return float("nan")
    spread = float((share * (1 - share)).sum()) * count / (count - 1)
    return 1 - spread / chance


def _ranks(panels: Mapping[int, Sequence[str]]) -> pd.DataFrame:
    """Return ranks from 1, float64 [genes of any panel, seed], NaN where a panel lacks the gene."""
    columns = {
        seed: pd.Series(np.arange(1.0, len(genes) + 1), index=pd.Index(genes, name="gene"))
        for seed, genes in panels.items()
    }
    return pd.DataFrame(columns).rename_axis("gene")


def agreement(panels: Mapping[int, Sequence[str]]) -> tuple[pd.Series[float], list[str]]:
    """Return each gene's frequency, and the consensus."""
    ranks = _ranks(panels)
    table = pd.DataFrame({"frequency": ranks.notna().mean(axis=1), "mean_rank": ranks.mean(axis=1)})
    # A last tie goes by name, so that no order of reading decides.
    table = table.sort_index().sort_values(
        ["frequency", "mean_rank"], ascending=[False, True], kind="stable"
    )
    # Only the models of a function may differ in size.
    size = int(np.median([len(genes) for genes in panels.values()]))
    return table["frequency"], table.index[:size].tolist()


# -- the consensus ---------------------------------------------------------------------------------


def _consensus_panel(
    model: YOTO,
    genes: list[str],
    frequency: pd.Series[float],
    seeds: list[int],
    folder: str | Path | None,
    device: str | torch.device,
) -> Panel:
    """Train the predictor of the consensus, or load the one that was kept."""
    other = predictor_of(model, genes)
    made_as = f"{identity(other)} {seeds}"
    place = None if folder is None else Path(folder) / CONSENSUS
    if place is not None:
        try:
            kept = Panel.load(place)
        except CheckpointError:  # none yet, or damaged
            kept = None
        if kept is not None and kept.info.get("made_as") == made_as and kept.genes == genes:
            return kept
    trained(other, device)
    # In place of gene scores, of which this training had none to learn: the share of seeds.
    never = pd.Series(0.0, index=other.cells.genes).drop(frequency.index)
    panel = panel_with_order(other, genes, pd.concat([frequency, never]))
    panel.info.update(consensus_of_seeds=seeds, made_as=made_as)
    if place is not None:
        panel.save(place)
    return panel


def above_budget(model: YOTO, genes: list[str]) -> list[str]:
    """Say so if the consensus costs more than a panel may: only the seeds' own were bound to it."""
    budget = model.constraints.budget
    if budget is None:
        return []
    total = budget.total(np.flatnonzero(np.isin(model.cells.genes, genes)))
    if total <= budget.limit * (1 + ROUNDING):
        return []
    return [
        f"The consensus costs {total:,g}, more than the budget of {budget.limit:,g} that the "
        "panel of each seed keeps to."
    ]


def _require_same_held_out(first: YOTO, other: YOTO, seed: int) -> None:
    same = first.cells.fingerprint == other.cells.fingerprint and np.array_equal(
        first.split.test, other.split.test
    )
    if not same:
        raise ConfigError(
            f"the model made for seed {seed} holds out different cells from the first, so their "
            "scores cannot be compared; give all models the same Split with split="
        )


def _wide(rows: Mapping[Any, Any], name: str) -> pd.DataFrame:
    """Put scores per row, task and metric into columns ``task/metric``."""
    flat = {
        row: {f"{task}/{metric}": value for task, found in scores.items()
              for metric, value in found.items()}
        for row, scores in rows.items()
    }  # fmt: skip
    index = pd.Index(list(rows), name=name)
    return pd.DataFrame.from_dict(flat, orient="index").reindex(index).astype(np.float64)


def _by_row(table: pd.DataFrame) -> dict[Any, dict[Any, float]]:
    return {row: values.to_dict() for row, values in table.iterrows()}
