"""Keyword arguments that YOTO takes on top of those named, for editors and type checkers.

How cells are read and what the configuration sets go through one ``**options``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kernomics.data import Split
from kernomics.data.labels import Kind
from kernomics.data.readers.inputs import ReadOptions
from kernomics.data.splits import How
from kernomics.models.tasks import ClassWeights
from kernomics.models.yoto.config import YOTOConfig
from kernomics.models.yoto.network import Transform
from kernomics.models.yoto.start_rankings import Ranking
from kernomics.models.yoto.start_records import Judge
from kernomics.models.yoto.warm_start import PanelSource
from kernomics.ops.gumbel_topk import Relaxation


class YOTOOptions(ReadOptions, total=False):
    """`ReadOptions`, and the settings of `YOTOConfig` but `n_genes`."""

    relaxation: Relaxation
    tau_start: float
    tau_end: float
    start_genes: int | None
    shrink_until: float
    noise_start: float
    noise_end: float
    noise_until: float
    marker_prior: float
    fix_panel_at: float
    hidden: tuple[int, ...]
    dropout: float
    private_encoders: bool
    label_smoothing: float
    transform: Transform
    class_weights: ClassWeights | None
    score_learning_rate: float
    min_cells: int
    n_starts: int
    halving: bool
    start_rankings: tuple[Ranking, ...]
    judge: Judge


class SelectOptions(YOTOOptions, total=False):
    """`YOTOOptions`, and the arguments of `YOTO` beside cells, labels, size and seed."""

    unlabelled_category: str | None
    label_kinds: Mapping[str, Kind] | None
    split: How | Split
    split_key: str | None
    fractions: tuple[float, float, float]
    forced_genes: str | Sequence[str]
    forbidden_genes: str | Sequence[str]
    exclude_patterns: str | Sequence[str]
    min_detection: float
    max_detection: float
    n_markers_per_class: int
    extend: PanelSource | None
    start_from: PanelSource | None
    gene_costs: Mapping[str, float] | str | None
    budget: float | None
    task_weights: Mapping[str, float] | None
    config: YOTOConfig | None
