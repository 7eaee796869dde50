"""Simulated cells of any number, with marker genes, batches and perturbations that are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from kernomics._arguments import checked
from kernomics.data.csr import Rows
from kernomics.data.rng import Stream, philox
from kernomics.errors import ConfigError

if TYPE_CHECKING:
    from anndata import AnnData

CHUNK_CELLS = 512
"""Cells drawn from one random stream. Part of what a seed means: do not change."""

DEPTHS = (1.0, 1.5, 3.0)
"""Depths, in multiples of the median, at which clusters are drawn; a cell is thinned from the next
above its own, and the last is the deepest there is."""


@dataclass(frozen=True)
class Simulation:
    """What is simulated; see `simulate` for the parameters."""

    n_cells: int
    n_genes: int
    n_types: int
    n_markers: int
    n_batches: int
    n_perturbations: int
    n_targets: int
    mean_counts: float
    depth_spread: float
    dispersion: float
    fold_change: float
    batch_spread: float
    perturbation_fold: float
    type_weights: tuple[float, ...] | None
    seed: int

    def __post_init__(self) -> None:
        at_least = {
            "n_cells": 1, "n_genes": 1, "n_types": 1, "n_markers": 0, "n_batches": 1,
            "n_perturbations": 0, "n_targets": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("mean_counts", "fold_change", "perturbation_fold"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("depth_spread", "dispersion", "batch_spread"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, but is {getattr(self, name)}")
        needed = self.n_types * self.n_markers + self.n_perturbations * self.n_targets
        if needed > self.n_genes:
            raise ConfigError(
                f"{self.n_types} types × {self.n_markers} markers and {self.n_perturbations} "
                f"perturbations × {self.n_targets} targets need {needed:,} genes of their own, but "
                f"n_genes is {self.n_genes:,}"
            )
        weights = self.type_weights
        if weights is not None and (len(weights) != self.n_types or min(weights) <= 0):
            raise ConfigError(f"type_weights must be {self.n_types} positive numbers: {weights}")

    @property
    def n_profiles(self) -> int:
        """Combinations of type, batch and perturbation (0 is the control)."""
        return self.n_types * self.n_batches * (self.n_perturbations + 1)


@dataclass(frozen=True)
class Genes:
    """What each gene does."""

    marker_of: npt.NDArray[np.int64]  # int64 [n_genes], the type, −1 for none
    target_of: npt.NDArray[np.int64]  # likewise, the perturbation
    profiles: npt.NDArray[np.float64]  # [n_profiles, n_genes], expected counts at median depth


@checked
def simulate(
    n_cells: int = 2000,
    n_genes: int = 1000,
    n_types: int = 5,
    n_markers: int = 10,
    *,
    n_batches: int = 1,
    n_perturbations: int = 0,
    n_targets: int = 5,
    mean_counts: float = 1000.0,
    depth_spread: float = 0.3,
    dispersion: float = 0.3,
    fold_change: float = 8.0,
    batch_spread: float = 0.2,
    perturbation_fold: float = 0.2,
    type_weights: Sequence[float] | None = None,
    seed: int = 0,
    path: str | Path | None = None,
) -> AnnData:
    r"""Simulate counts of which it is known what each gene does.

    Gene g has base level b_g (log-normal, spread 1) and in a cell of type t, batch s and
    perturbation p the expected share

    .. math:: q_g ∝ b_g · F^{[g marks t]} · e^{σ z_{gs}} · f^{[p targets g]}

    A cell of depth L holds counts of mean μ = L·q and variance μ + φμ². They are drawn without
    forming a dense matrix: NB(μ, 1/φ) is a Poisson number of clusters, mean log(1 + φμ)/φ, each of
    a size from the logarithmic law with parameter φμ/(1 + φμ) (Quenouille, Biometrics 5, 1949);
    clusters of all genes together are one Poisson number, spread over genes. Clusters are drawn at
    one of three depths and thinned to the cell's own, which keeps φ: NB(μ, 1/φ) thinned by π is
    NB(πμ, 1/φ).

    Cells are drawn in chunks of 512, each from its own Philox stream: a cell depends on the
    parameters and its index alone, not on how many cells there are.

    Parameters
    ----------
    n_cells, n_genes
        Shape.
    n_types, n_markers
        Cell types, and marker genes of each (disjoint).
    n_batches
        Batches; a cell's batch, perturbation and type are independent.
    n_perturbations, n_targets
        Perturbations beside the control, and genes that each lowers (disjoint, no markers).
    mean_counts
        Expected total of a cell of median depth, M.
    depth_spread
        Standard deviation of log depth; depths stop at 3 M.
    dispersion
        φ; 0 gives Poisson counts.
    fold_change
        F, of markers in their type.
    batch_spread
        σ.
    perturbation_fold
        f, what is left of a target's expression.
    type_weights
        Relative frequency of the types; equal by default.
    seed
        Any integer.
    path
        Write an ``.h5ad`` there as cells are drawn, so that memory holds one chunk and the tables
        of cells and genes; the file must not exist. The AnnData returned is then backed by it.

    Returns
    -------
    anndata.AnnData
        X: float32 CSR [n_cells, n_genes], counts. obs: ``cell_type``, ``batch``, ``perturbation``
        (``"control"`` first). var: ``marker_of``, ``target_of`` (missing where a gene has no part).
        uns: the parameters.

    Raises
    ------
    ConfigError
        When parameters make no sense together, or `path` exists.
    """
    weights = None if type_weights is None else tuple(float(w) for w in type_weights)
    what = Simulation(
        n_cells, n_genes, n_types, n_markers, n_batches, n_perturbations, n_targets, mean_counts,
        depth_spread, dispersion, fold_change, batch_spread, perturbation_fold, weights, seed,
    )  # fmt: skip
    genes = draw_genes(what)
    n_chunks = -(-n_cells // CHUNK_CELLS)
    drawn = [draw_cells(what, chunk) for chunk in range(n_chunks)]
    cells = {name: np.concatenate([part[name] for part in drawn])[:n_cells] for name in drawn[0]}
    chunks = draw_counts(what, genes, drawn)
    if path is not None:
        return _write(Path(path), what, genes, cells, chunks)
    parts = list(chunks)
    indptr = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)]).cumsum()
    indices = np.concatenate([part.indices for part in parts])
    values = np.concatenate([part.values for part in parts])
    matrix = sparse.csr_matrix((values, indices, indptr), (n_cells, n_genes))
    return _tables(what, genes, cells, matrix)


def draw_genes(what: Simulation) -> Genes:
    """Draw the genes' roles and levels."""
    random = np.random.Generator(philox(what.seed, Stream.SIMULATED_GENES))
    roles = random.permutation(what.n_genes)
    n_marking = what.n_types * what.n_markers
    n_targeted = what.n_perturbations * what.n_targets
    marker_of = np.full(what.n_genes, -1, dtype=np.int64)
    marker_of[roles[:n_marking]] = np.arange(n_marking) % what.n_types
    target_of = np.full(what.n_genes, -1, dtype=np.int64)
    target_of[roles[n_marking : n_marking + n_targeted]] = np.arange(n_targeted) % max(
        what.n_perturbations, 1
    )
    base = random.standard_normal(what.n_genes)
    shift = random.standard_normal((what.n_batches, what.n_genes)) * what.batch_spread
    kind, batch, perturbation = np.unravel_index(
        np.arange(what.n_profiles), (what.n_types, what.n_batches, what.n_perturbations + 1)
    )
    profiles = np.exp(base + shift[batch])
    profiles *= np.where(marker_of == kind[:, None], what.fold_change, 1.0)
    hit = (target_of >= 0) & (target_of == perturbation[:, None] - 1)
    profiles *= np.where(hit, what.perturbation_fold, 1.0)
    profiles *= what.mean_counts / profiles.sum(axis=1, keepdims=True)
    return Genes(marker_of, target_of, profiles)


def draw_cells(what: Simulation, chunk: int) -> dict[str, npt.NDArray[Any]]:
    """Draw type, batch, perturbation and depth of a whole chunk's cells."""
    random = np.random.Generator(philox(what.seed, Stream.SIMULATED_CELLS, chunk))
    weights = np.ones(what.n_types) if what.type_weights is None else np.array(what.type_weights)
    depth = np.exp(random.standard_normal(CHUNK_CELLS) * what.depth_spread)
    return {
        "cell_type": random.choice(what.n_types, CHUNK_CELLS, p=weights / weights.sum()),
        "batch": random.integers(what.n_batches, size=CHUNK_CELLS),
        "perturbation": random.integers(what.n_perturbations + 1, size=CHUNK_CELLS),
        "depth": np.minimum(depth, DEPTHS[-1]),
    }


def draw_counts(
    what: Simulation, genes: Genes, drawn: Sequence[dict[str, npt.NDArray[Any]]]
) -> Iterator[Rows]:
    """Draw the counts of each chunk in turn, sorted by gene in each cell."""
    # One table per depth and profile: its cumulative shares lie in (t, t + 1], t its number, so
    # that one search serves all.
    mean = (np.array(DEPTHS)[:, None, None] * genes.profiles).reshape(-1, what.n_genes)
    shares = np.log1p(what.dispersion * mean) / what.dispersion if what.dispersion else mean.copy()
    np.cumsum(shares, axis=1, out=shares)
    n_clusters = shares[:, -1].copy()
    shares /= n_clusters[:, None]
    shares += np.arange(len(mean))[:, None]
    shape = (len(DEPTHS), what.n_types, what.n_batches, what.n_perturbations + 1)
    for chunk, cells in enumerate(drawn):
        random = np.random.Generator(philox(what.seed, Stream.SIMULATED_COUNTS, chunk))
        level = np.searchsorted(DEPTHS, cells["depth"])
        columns = (level, cells["cell_type"], cells["batch"], cells["perturbation"])
        table = np.ravel_multi_index(columns, shape)
        by_table = np.argsort(table, kind="stable")  # keeps the search in one part of memory
        cell = np.repeat(by_table, random.poisson(n_clusters[table])[by_table])
        found = np.searchsorted(shares.ravel(), table[cell] + random.random(cell.size), "right")
        found = np.minimum(found, (table[cell] + 1) * what.n_genes - 1)
        kept_share = cells["depth"] / np.array(DEPTHS)[level]
        size = _thin(random, _sizes(random, mean.ravel()[found], what), kept_share[cell])
        place = cell * what.n_genes + found % what.n_genes
        n_cells = min(CHUNK_CELLS, what.n_cells - chunk * CHUNK_CELLS)
        yield _add_up(place, size, n_cells, what.n_genes)


def _sizes(
    random: np.random.Generator, mean: npt.NDArray[np.float64], what: Simulation
) -> npt.NDArray[np.int64]:
    """Draw a size for each cluster."""
    if what.dispersion == 0:
        return np.ones(mean.size, dtype=np.int64)
    return random.logseries(what.dispersion * mean / (1 + what.dispersion * mean))


def _thin(
    random: np.random.Generator, size: npt.NDArray[np.int64], kept: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Keep each of `size` counts with probability `kept`; most sizes are 1 and need one number."""
    thinned = (random.random(size.size) < kept).astype(np.int64)
    large = np.flatnonzero(size > 1)
    thinned[large] = random.binomial(size[large], kept[large])
    return thinned


def _add_up(
    place: npt.NDArray[np.int64], size: npt.NDArray[np.int64], n_cells: int, n_genes: int
) -> Rows:
    """Sum the clusters that fall on one cell and gene; drop cells from `n_cells` on."""
    kept = (size > 0) & (place < n_cells * n_genes)
    place, size = place[kept], size[kept]
    order = np.argsort(place)
    place, size = place[order], size[order]
    first = np.flatnonzero(np.diff(place, prepend=-1))
    cell, gene = np.divmod(place[first], n_genes)
    values = np.add.reduceat(size, first) if first.size else size
    indptr = np.concatenate(([0], np.cumsum(np.bincount(cell, minlength=n_cells))))
    return Rows(indptr.astype(np.int64), gene.astype(np.int32), values.astype(np.float32))


def _tables(
    what: Simulation, genes: Genes, cells: dict[str, npt.NDArray[Any]], matrix: Any
) -> AnnData:
    """Put names to everything."""
    import anndata

    types = [f"type_{i}" for i in range(what.n_types)]
    batches = [f"batch_{i}" for i in range(what.n_batches)]
    perturbations = [f"perturbation_{i}" for i in range(what.n_perturbations)]
    obs = {
        "cell_type": _named(cells["cell_type"], types),
        "batch": _named(cells["batch"], batches),
        "perturbation": _named(cells["perturbation"], ["control", *perturbations]),
    }
    var = {
        "marker_of": _named(genes.marker_of, types),
        "target_of": _named(genes.target_of, perturbations),
    }
    parameters = {name: value for name, value in asdict(what).items() if value is not None}
    if what.type_weights is not None:
        parameters["type_weights"] = np.array(what.type_weights)
    said = {"dataset": "simulated", "genes_are_subset": False, "simulation": parameters}
    return anndata.AnnData(
        X=matrix,
        obs=pd.DataFrame(obs, index=[f"cell_{i}" for i in range(what.n_cells)]),
        var=pd.DataFrame(var, index=[f"gene_{i}" for i in range(what.n_genes)]),
        uns={"kernomics": said},
    )


def _named(codes: npt.NDArray[np.int64], names: list[str]) -> pd.Categorical[Any]:
    return pd.Categorical.from_codes(codes, pd.Index(names, dtype=object))


def _write(
    path: Path,
    what: Simulation,
    genes: Genes,
    cells: dict[str, npt.NDArray[Any]],
    chunks: Iterator[Rows],
) -> AnnData:
    """Write tables with an empty matrix, then append each chunk's non-zeros to it."""
    import anndata

    if path.exists():
        raise ConfigError(f"'{path}' exists; remove it or choose another path")
    empty = sparse.csr_matrix((what.n_cells, what.n_genes), dtype=np.float32)
    part = path.with_name(path.name + ".part")
    _tables(what, genes, cells, empty).write_h5ad(part)
    with h5py.File(part, "r+") as file:
        group = file["X"]
        for name in ("data", "indices", "indptr"):
            del group[name]
        stored = {
            name: group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(1 << 16,))
            for name, dtype in (("data", np.float32), ("indices", np.int32))
        }
        lengths = []
        for rows in chunks:
            lengths.append(np.diff(rows.indptr))
            for name, new in (("data", rows.values), ("indices", rows.indices)):
                filled = stored[name].shape[0]
                stored[name].resize((filled + new.size,))
                stored[name][filled:] = new
        indptr = np.concatenate(([0], np.cumsum(np.concatenate(lengths))))
        group.create_dataset("indptr", data=indptr.astype(np.int64))
    part.rename(path)
    return anndata.read_h5ad(path, backed="r")
