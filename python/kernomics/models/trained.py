"""`TrainedModel`: what all trained networks of genes share: names, reading, new genes, saving."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from kernomics._arguments import checked, shown, words_of
from kernomics.data import CellCollection
from kernomics.data.collection import require_empty_cells
from kernomics.data.readers.inputs import ReadOptions
from kernomics.errors import ConfigError
from kernomics.models.extension import check_new, combinations
from kernomics.models.known_cells import KnownCells
from kernomics.models.reading import read_as_trained
from kernomics.models.saved import describes, read_saved, require_blocks
from kernomics.nn import drawing_from
from kernomics.train import save_model_dir

if TYPE_CHECKING:
    from anndata import AnnData


def of_genes(network: Callable[[int], nn.Module]) -> list[str]:
    """Name the weights with a row per gene: those whose shape follows the number of genes."""
    with torch.device("meta"):
        one, two = (network(n).state_dict() for n in (1, 2))
    return [name for name in one if one[name].shape != two[name].shape]


def place_for(out: Any, shape: tuple[int, int]) -> Any:
    """Return what a result of this shape is written to: a new array, or the one given."""
    if out is None:
        return np.empty(shape, np.float32)
    if not hasattr(out, "__setitem__") or getattr(out, "shape", None) != shape:
        raise ConfigError(f"out is {shown(out)}: an array of shape {shape} is needed")
    return out


class TrainedModel(ABC):
    """A trained network with a row of weights for each gene.

    A system gives `FORMAT`, `EMBEDDINGS`, `_network`, and what `_about` adds.

    Parameters
    ----------
    module
        The network.
    genes
        The genes that it knows, in the order of its rows.
    info
        How it was trained.
    """

    FORMAT: ClassVar[str]
    """What a saved model is called, with the version of its layout."""
    EMBEDDINGS: ClassVar[str]
    """Name of the module's embeddings of genes among its weights."""

    module: Any

    @checked
    def __init__(self, module: Any, genes: Sequence[str], info: Mapping[str, Any]) -> None:
        self.module = module.eval()
        self.genes = np.array([str(gene) for gene in genes], dtype=object)
        self.info = dict(info)
        n_rows = len(module.get_parameter(self.EMBEDDINGS))
        if len(self.genes) != n_rows:
            raise ConfigError(
                f"{len(self.genes):,} genes are named for a network that knows {n_rows:,}: name "
                "each of its rows"
            )

    # -- reading -----------------------------------------------------------------------------------

    def read(
        self, adata: AnnData | str | Path | CellCollection, **reading: Unpack[ReadOptions]
    ) -> CellCollection:
        """Read cells as those of the training were read, except for the options given.

        The parameters are those of `get_latent_representation`.
        """
        if isinstance(adata, CellCollection):  # whose cells without counts are told of elsewhere
            require_empty_cells(reading.pop("empty_cells", "error"))
        return read_as_trained(adata, reading, self.info, self.genes)

    def _known(
        self,
        cells: CellCollection,
        rows: ArrayLike | None,
        min_gene_overlap: float,
        reading: ReadOptions,
    ) -> KnownCells:
        """Return cells over the genes known."""
        to_come = set(self.info.get("genes_to_come", ())).difference(self.genes)
        known = KnownCells.of(
            cells,
            self.genes,
            rows=rows,
            min_gene_overlap=min_gene_overlap,
            empty_cells=reading.get("empty_cells", "error"),
            apart=sorted(to_come),
        )
        cells.library_rule.tell(self.info.get("library"))
        return known

    @abstractmethod
    def _cells_at_a_time(self, known: KnownCells, n_tokens: int | None) -> int:
        """Return how many cells of these a batch has, where nobody says."""

    # -- new genes ---------------------------------------------------------------------------------

    @checked
    def extend(
        self,
        genes: str | Sequence[str],
        init: str | Mapping[str, Any] | ArrayLike = "mean",
        *,
        adata: AnnData | str | Path | CellCollection | None = None,
        n_neighbours: int = 5,
        **reading: Unpack[ReadOptions],
    ) -> Self:
        """Return a model that also knows other genes; what this one knows stays as it is.

        Parameters
        ----------
        genes
            New ones, matched by name.
        init
            What their weights start from: ``"mean"`` of all genes'; ``"neighbours"``, the mean of
            those genes whose expression in `adata` correlates most with the new one's; a mapping
            from each new gene to a known one, or to several whose mean is taken; or the
            embeddings, [n, width], beside which all other weights of a gene start from the mean; a
            table whose rows have names goes by these.
        adata
            For ``"neighbours"``: cells in which the new genes and known ones were measured.
        n_neighbours
            For ``"neighbours"``: how many known genes.
        **reading
            How to read `adata`, as in `kernomics.data.ReadOptions`.

        Raises
        ------
        ConfigError
            If a gene is known already, or lacks a donor that the model knows.
        DataError
            If the data lack a new gene, or its counts are the same in all cells.
        """
        names = words_of("genes", genes)
        check_new(names, self.genes)
        if adata is None and reading:
            raise ConfigError(
                f"{next(iter(reading))} says how to read adata, which is not given: give the cells "
                "that init='neighbours' looks at, or leave it out"
            )
        cells = None if adata is None else self.read(adata, **reading)
        shares, given = combinations(self.genes, names, init, cells, n_neighbours)
        meta = {**self._meta(), "genes": [*self.genes.tolist(), *names]}
        weights = dict(self.module.state_dict())
        for name in of_genes(lambda n: self._network({**meta, "genes": ["g"] * n}, weights)):
            table = weights[name]
            rows = (shares.to(table.device) @ table.double()).to(table.dtype)
            if given is not None and name == self.EMBEDDINGS:
                rows[:, : given.shape[1]] = self._checked_embeddings(given).to(rows)
            weights[name] = torch.cat([table, rows])
        module = self._loaded(meta, weights).to(self.module.get_parameter(self.EMBEDDINGS).device)
        added = [*self.info.get("added_genes", []), *names]
        return type(self)(module, meta["genes"], {**self.info, "added_genes": added})

    def _checked_embeddings(self, given: Tensor) -> Tensor:
        width = self.get_gene_embeddings().shape[1]
        if given.shape[1] != width:
            raise ConfigError(
                f"init has shape {list(given.shape)}: embeddings of {len(given):,} genes are "
                f"[{len(given)}, {width}]"
            )
        return given

    @abstractmethod
    def get_gene_embeddings(self) -> Any:
        """Return the embedding of each gene."""

    # -- saving ------------------------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        """Return what else is needed to build the network."""
        return {}

    @classmethod
    @abstractmethod
    def _network(cls, meta: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
        """Return an untrained network of the genes and settings of `meta`."""

    @classmethod
    def _loaded(cls, meta: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
        with drawing_from(0):  # overwritten at once, but the caller's generator must stay
            module = cls._network(meta, weights)
        module.load_state_dict(weights)
        return module

    def _meta(self) -> dict[str, Any]:
        return {
            "format": self.FORMAT,
            "genes": self.genes.tolist(),
            "config": dataclasses.asdict(self.module.config),
            **self._about(),
            "seed": self.module.seed,
            "info": self.info,
        }

    @checked
    def save(self, path: str | Path) -> None:
        """Save as ``model.safetensors`` and ``model.json``, readable without kernomics.

        Parameters
        ----------
        path
            A directory: new, empty, or holding a saved model, which is replaced.

        Raises
        ------
        CheckpointError
            If the directory holds something else or cannot be written.
        """
        save_model_dir(path, dict(self.module.state_dict()), self._meta())

    @classmethod
    @checked
    def load(cls, path: str | Path) -> Self:
        """Load what `save` wrote, or the ``model`` of a run directory.

        Raises
        ------
        CheckpointError
            If there is none, it is damaged, or it is a model of another kind.
        """
        weights, meta = read_saved(path, cls.FORMAT)
        with describes(path):
            require_blocks(meta, weights)
            return cls(cls._loaded(meta, weights), meta["genes"], meta["info"])
