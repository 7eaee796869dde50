"""How a trained model reads cells: as those of its training were read, but for what is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernomics._warnings import warn
from kernomics.data import CellCollection
from kernomics.data.genes import column_of_genes
from kernomics.data.readers.inputs import Outline, ReadOptions, modalities_of, outline_of
from kernomics.errors import DataError, closest
from kernomics.models.base import as_collection

if TYPE_CHECKING:
    from anndata import AnnData

COMPARED = 256
"""Cells by which shares of the library are compared."""
UNLIKE = 1.5
"""Factor between two shares above which they are not alike."""

Genes = Sequence[str] | NDArray[Any]


def read_as_trained(
    adata: AnnData | str | Path | CellCollection,
    reading: ReadOptions,
    info: Mapping[str, Any],
    genes: Genes,
    *,
    library: bool = True,
    trained_further: bool = False,
    **more: Any,
) -> CellCollection:
    """Read cells as a model's `info` says that those of its training were; see `as_collection`.

    Options that are given hold, whatever their value. A collection has been read already. A model
    saved before `info` said so is read for by the defaults.

    Parameters
    ----------
    genes
        The model's.
    library
        Whether it goes by library sizes.
    trained_further
        Whether training goes on with these cells' own library sizes, which then are not compared.
    """
    if isinstance(adata, CellCollection):
        return as_collection(adata, reading, **more)
    how = as_trained(adata, reading, info, genes, library=library)
    cells = as_collection(adata, how, **more)
    if "library_key" not in {**info.get("reading", {}), **reading}:
        cells.reading.pop("library_key", None)  # which nobody named
    if library and not trained_further and info.get("library_share"):
        _compare_shares(cells, genes, info["library_share"])
    return cells


def library_share(cells: CellCollection, rows: NDArray[np.int64], genes: Genes) -> float | None:
    """Return the share of the library that genes have, the median over some cells; None of none."""
    if not len(rows):
        return None
    some = rows[np.unique(np.linspace(0, len(rows) - 1, COMPARED).astype(np.int64))]
    batch = cells.batch(np.sort(some))
    if batch.library is None:
        return None
    ours = torch.from_numpy(np.isin(cells.genes, np.asarray(genes, dtype=object)))
    counts = torch.where(ours[batch.indices.long()], batch.values, 0.0)
    of_cell = torch.repeat_interleave(torch.arange(len(batch)), batch.indptr.diff())
    totals = counts.new_zeros(len(batch), dtype=torch.float32).index_add_(
        0, of_cell, counts.float()
    )
    shares = (totals / batch.library)[batch.library > 0]
    return float(shares.median()) if len(shares) else None


def _compare_shares(cells: CellCollection, genes: Genes, trained: float) -> None:
    """Warn where the same counts are normalised by the totals of other genes."""
    if cells.library_is_subset or not np.isin(np.asarray(genes, dtype=object), cells.genes).all():
        return  # told already, or elsewhere
    share = library_share(cells, np.arange(cells.n_cells), genes)
    if not share or trained / UNLIKE < share < trained * UNLIKE:
        return  # cells without any of the genes are an error elsewhere
    warn(
        f"the model's genes have {share:.0%} of the library in these cells (median of some) and "
        f"had {trained:.0%} in those of the training, so that equal counts are not normalised "
        "alike; leave out genes that the training data did not measure (adata[:, names]), or train "
        "with the library sizes that new cells will have"
    )


def as_trained(
    adata: AnnData | str | Path,
    reading: ReadOptions,
    info: Mapping[str, Any],
    genes: Genes,
    *,
    library: bool = True,
) -> ReadOptions:
    """Add what a model was trained with to the options that are given."""
    known: dict[str, Any] = dict(info.get("reading", {}))
    if "layer" in reading or reading.get("use_raw"):  # another place
        known.pop("use_raw", None)
        known.pop("layer", None)
    known = {name: value for name, value in known.items() if name not in reading}
    found_key = info.get("library", {}).get("key") if "library_key" not in reading else None
    if not library:
        known.pop("library_key", None)
        found_key = None
    if not known and found_key is None:
        return reading
    if "modality" in known and not _has_modality(modalities_of(adata), known["modality"]):
        del known["modality"]
    data = outline_of(adata, {**known, **reading}.get("modality"))
    _require_place(known, data)
    if "gene_names" in known:
        from_raw = {**known, **reading}.get("use_raw") and data.raw_var is not None
        known["gene_names"] = _column_of_genes(known["gene_names"], data, bool(from_raw), genes)
    if "library_key" in known and known["library_key"] not in data.obs_columns:
        raise DataError(
            f"the model was trained with the library sizes in obs[{known['library_key']!r}], and "
            f"obs has no such column; {closest(known['library_key'], data.obs_columns)}: name it "
            "with library_key='…', or pass library_key=None to have them found"
        )
    if found_key in data.obs_columns:
        known.setdefault("library_key", found_key)
    return {**known, **reading}  # type: ignore[typeddict-item]


def _has_modality(there: Sequence[str], modality: str) -> bool:
    if there and modality not in there:
        raise DataError(
            f"the model was trained on modality {modality!r}, which these data do not have; name "
            f"one with modality='…': {', '.join(map(repr, there))}"
        )
    return bool(there)


def _require_place(known: Mapping[str, Any], data: Outline) -> None:
    """Refuse data that do not have their counts where those of the training were."""
    layer = known.get("layer")
    if layer is not None and layer not in data.layers:
        missing = f"layer {layer!r}"
    elif known.get("use_raw") and data.raw_var is None:
        missing = "adata.raw"
    else:
        return
    places = ["X"] * data.has_x + [f"layer {name!r}" for name in data.layers]
    places += ["adata.raw"] * (data.raw_var is not None)
    remedies = ["layer=None for X"] * data.has_x + ["layer='…'"] * bool(data.layers)
    remedies += ["use_raw=True"] * (data.raw_var is not None)
    raise DataError(
        f"the model was trained on the counts of {missing}, which these data do not have; they "
        f"have {', '.join(places) or 'no counts'}: say where theirs are, with "
        f"{' or '.join(remedies) or 'none of which a model can read'}"
    )


def _column_of_genes(column: str, data: Outline, from_raw: bool, genes: Genes) -> str | None:
    """Return the column of var that names the genes, or None where var_names know more of them."""
    table = data.raw_var if from_raw and data.raw_var is not None else data.var
    named = next((part[column] for part in (table, data.var) if column in part), None)
    n_index = _n_known(genes, table.index)
    if named is not None:
        return column if _n_known(genes, named) >= n_index else None
    if 2 * n_index >= len(genes):
        return None
    other = column_of_genes(table, genes)
    remedy = f"gene_names={other!r}" if other is not None else "gene_names='…'"
    raise DataError(
        f"the model was trained on genes named by var[{column!r}], which these data do not have "
        f"({closest(column, table.columns)}), and var_names hold {n_index:,} of its "
        f"{len(genes):,} genes: name the column with {remedy}, or pass gene_names=None for "
        "var_names"
    )


def _n_known(genes: Genes, names: Any) -> int:
    return int(np.isin([str(gene) for gene in genes], [str(name) for name in names]).sum())
