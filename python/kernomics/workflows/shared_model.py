"""A trained model that several processes run, each on its part of the cells."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernomics._warnings import quietly
from kernomics.data import CellCollection
from kernomics.data.row_numbers import CELLS_AT_A_TIME, row_numbers
from kernomics.models import CellEncoder, ExpressionModel, Panel, PhenotypeModel
from kernomics.models.base import checked_integer
from kernomics.models.known_cells import KnownCells
from kernomics.models.trained import place_for
from kernomics.train.atomic import jsonable
from kernomics.train.distributed import Alone, first_alone, ranks
from kernomics.train.shared_work import Crew, InOrder, pieces

Model = TypeVar("Model", bound=CellEncoder | PhenotypeModel | ExpressionModel | Panel)

LATENT = "get_latent_representation"
METHODS: dict[type, Sequence[str]] = {
    CellEncoder: (LATENT, "get_block_representations", "get_normalized_expression"),
    PhenotypeModel: (LATENT, "probabilities"),
    ExpressionModel: (LATENT,),
    Panel: ("outputs",),
}
"""What is computed cell by cell: each method takes `rows`, and returns numbers of these rows."""


@contextmanager
def shared(model: Model, cells: CellCollection) -> Iterator[Model]:
    """Give a copy of a model whose methods run on all ranks; all must come here.

    The first rank runs the block as one process would. When it calls one of `METHODS` for `cells`,
    every rank computes its part, and the first one has the whole, equal to the bit to what one
    process with as many threads computes. The others do nothing else, and end with success when the
    block is left. Without other ranks the model is given as it is.
    """
    one = ranks()
    if not one.many:
        yield model
        return
    one.require_same(model=repr(model), cells=cells.n_cells, genes=cells.n_genes)
    crew = Crew(one)
    if one.first:
        with crew.at_work():
            yield _asking(model, cells, crew)
    else:
        for request in crew.requests():
            _take_part(model, cells, one, **request)
    first_alone()


def _asking(model: Model, cells: CellCollection, crew: Crew) -> Model:
    """Return the model with methods that ask the other ranks for help."""
    asking = copy.copy(model)
    for kind, names in METHODS.items():
        for name in names if isinstance(model, kind) else ():
            setattr(asking, name, partial(_ask, model, cells, crew, name))
    return asking


def _ask(
    model: Any,
    cells: CellCollection,
    crew: Crew,
    name: str,
    adata: Any,
    *args: Any,
    rows: ArrayLike | None = None,
    out: Any = None,
    batch_size: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Any:
    """Call a method of the model on all ranks; on this one alone for other cells, or for none."""
    wanted = np.arange(cells.n_cells) if rows is None else row_numbers(rows, cells.n_cells)
    if name != "outputs":  # a panel has no batch size
        if batch_size is not None:
            batch_size = checked_integer("batch_size", batch_size)
        options["batch_size"] = batch_size
    if adata is not cells or not len(wanted):
        more = {"progress": True} if progress else {}
        more |= {"out": out} if name == LATENT else {}
        return getattr(model, name)(adata, *args, rows=rows, **options, **more)
    if name == LATENT:
        out = place_for(out, (len(wanted), model.config.d_model))
    if "batch_size" in options:
        options["batch_size"] = batch_size or _cells_at_a_time(model, cells, options)
    request = jsonable(
        {
            "name": name,
            "args": args,
            "rows": None if rows is None else wanted,
            "options": options,
        }
    )
    with crew.asking(request):
        return _take_part(model, cells, crew.one, **request, out=out, progress=progress)


def _cells_at_a_time(model: Any, cells: CellCollection, options: dict[str, Any]) -> int:
    with quietly():  # told when the cells are read
        known = KnownCells.of(
            cells,
            model.genes,
            rows=np.empty(0, np.int64),
            min_gene_overlap=options.get("min_gene_overlap", 0.8),
            empty_cells="keep",
        )
    found: int = model._cells_at_a_time(known, options.get("n_tokens"))
    return found


def _take_part(
    model: Any,
    cells: CellCollection,
    one: Alone,
    *,
    name: str,
    args: Sequence[Any],
    rows: Sequence[int] | None,
    options: dict[str, Any],
    out: Any = None,
    progress: bool = False,
) -> Any:
    """Compute this rank's part, and return on the first rank what one process would return."""
    wanted = np.arange(cells.n_cells) if rows is None else np.array(rows, np.int64)
    parts = pieces(len(wanted), options.get("batch_size", CELLS_AT_A_TIME), one.world)
    own = np.concatenate([wanted[:0], *(wanted[part] for part in parts[one.rank :: one.world])])
    if progress:
        options = {**options, "progress": True}
    method = partial(getattr(model, name), cells, *args, rows=own, **options)
    if name == LATENT:
        received = InOrder(one, parts, model.config.d_model, out)
        if len(own):
            method(out=received)
        received.finish()
        return out
    found = method() if len(own) else []
    matrix = _side_by_side(found)
    whole = np.empty((len(wanted) if one.first else 0, matrix.shape[1]), np.float32)
    received = InOrder(one, parts, matrix.shape[1], whole)
    received[:] = matrix
    received.finish()
    return _divided(whole, found) if one.first else None


def _arrays(found: Any) -> list[NDArray[np.float32]]:
    """Return the arrays in what a method returned: itself, or a list or a dict of some."""
    if isinstance(found, np.ndarray):
        return [found]
    return list(found.values() if isinstance(found, dict) else found)


def _side_by_side(found: Any) -> NDArray[np.float32]:
    columns = [array.reshape(len(array), -1) for array in _arrays(found)]
    if not columns:
        return np.empty((0, 0), np.float32)
    assert all(column.dtype == np.float32 for column in columns)
    return columns[0] if len(columns) == 1 else np.hstack(columns)


def _divided(whole: NDArray[np.float32], like: Any) -> Any:
    """Return all rows in the form in which a method returned some."""
    arrays, start = [], 0
    for array in _arrays(like):
        width = array[:1].size
        part = np.ascontiguousarray(whole[:, start : start + width])
        arrays.append(part.reshape(len(whole), *array.shape[1:]))
        start += width
    if isinstance(like, np.ndarray):
        return arrays[0]
    return dict(zip(like, arrays, strict=True)) if isinstance(like, dict) else arrays
