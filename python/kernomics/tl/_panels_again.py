"""The one-liners of `kernomics.tl` that select more than once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from kernomics._arguments import checked
from kernomics._version import __version__
from kernomics.data.readers.inputs import divided_options, require_anndata
from kernomics.evaluation import panels
from kernomics.models import YOTO
from kernomics.models.yoto.options import SelectOptions
from kernomics.tl._uns import names, table, without_none
from kernomics.train import override

if TYPE_CHECKING:
    from anndata import AnnData

    from kernomics.evaluation.panels import PanelCurve, Stability


@checked
def panel_stability(
    adata: AnnData,
    labels_key: str | Sequence[str],
    n_genes: int = 64,
    *,
    n_seeds: int = 5,
    resample: bool = False,
    max_epochs: int | None = None,
    seed: int = 0,
    key_added: str = "panel_stability",
    device: str = "cpu",
    progress: bool = True,
    **options: Unpack[SelectOptions],
) -> Stability:
    """Select with several seeds, to see how similar the panels are and what they agree on.

    Parameters
    ----------
    adata, labels_key, n_genes, max_epochs, device, **options
        As in :func:`kernomics.tl.select_genes`.
    n_seeds
        How many seeds, at least 2.
    resample
        As in :func:`kernomics.evaluation.panels.panel_stability`.
    seed
        The first seed; it also determines the split, which all share.
    key_added
        Name of the result.
    progress
        Whether to show a progress bar over the training runs.

    Returns
    -------
    Stability
        The result, with the panels and the consensus with its predictor. Added to `adata`:
        ``uns["panel_stability"]`` with ``consensus``, ``panels`` and ``scores`` (tables with a row
        per seed and gene, or seed, label and metric), ``overlap`` (float64 [seeds, seeds]),
        ``kuncheva``, ``frequency`` and parameters.

    Raises
    ------
    DataError, ConfigError
        As in :func:`kernomics.evaluation.panels.panel_stability`; `adata` is then unchanged.
    """
    model = _untrained("panel_stability", adata, labels_key, n_genes, max_epochs, seed, options)
    found = panels.panel_stability(
        model, n_seeds, resample=resample, device=device, progress=progress
    )
    genes = [
        (number, rank, gene)
        for number, panel in found.panels.items()
        for rank, gene in enumerate(panel, 1)
    ]
    # A slash in a column's name would be a folder of the h5ad file.
    scores = [
        (number, *str(name).rsplit("/", 1), value)
        for number, row in found.scores.iterrows()
        for name, value in row.items()
    ]
    adata.uns[key_added] = {
        "consensus": names(found.consensus),
        "panels": table(genes, ["seed", "rank", "gene"]),
        "scores": table(scores, ["seed", "task", "metric", "value"]),
        "overlap": found.overlap.to_numpy(),
        "kuncheva": found.kuncheva,
        "frequency": found.frequency.to_frame("frequency"),
        "params": without_none(
            {"labels_key": labels_key, **divided_options(options)[0],
             "n_genes": n_genes, "n_seeds": n_seeds,
             "resample": resample, "max_epochs": max_epochs}
        ),
        "seed": seed,
        "version": __version__,
    }  # fmt: skip
    return found


@checked
def panel_curve(
    adata: AnnData,
    labels_key: str | Sequence[str],
    n_genes: Sequence[int] = (8, 16, 32, 64),
    *,
    n_seeds: int = 1,
    max_epochs: int | None = None,
    seed: int = 0,
    key_added: str = "panel_curve",
    device: str = "cpu",
    progress: bool = True,
    **options: Unpack[SelectOptions],
) -> PanelCurve:
    """Select panels of several sizes, to see how many genes are enough.

    Parameters
    ----------
    adata, labels_key, max_epochs, device, **options
        As in :func:`kernomics.tl.select_genes`.
    n_genes
        The sizes.
    n_seeds
        How many seeds for each size.
    seed
        The first seed; it also determines the split, which all share.
    key_added
        Name of the result.
    progress
        Whether to show a progress bar over the training runs.

    Returns
    -------
    PanelCurve
        The result. Added to `adata`: ``uns["panel_curve"]`` with ``table``, ``summary``,
        ``suggested`` and parameters.

    Raises
    ------
    DataError, ConfigError
        As in :func:`kernomics.evaluation.panels.panel_curve`; `adata` is then unchanged.
    """
    sizes = list(n_genes)
    first = min(sizes, default=1)
    model = _untrained("panel_curve", adata, labels_key, first, max_epochs, seed, options)
    found = panels.panel_curve(model, sizes, seeds=n_seeds, device=device, progress=progress)
    adata.uns[key_added] = {
        "table": table(found.table),
        "summary": table(found.summary.reset_index()),
        "suggested": found.suggested,
        "params": without_none(
            {"labels_key": labels_key, **divided_options(options)[0],
             "n_genes": sizes, "n_seeds": n_seeds,
             "max_epochs": max_epochs}
        ),
        "seed": seed,
        "version": __version__,
    }  # fmt: skip
    return found


def _untrained(
    function: str,
    adata: AnnData,
    labels_key: str | Sequence[str],
    n_genes: int,
    max_epochs: int | None,
    seed: int,
    options: SelectOptions,
) -> YOTO:
    require_anndata(adata, function)
    model = YOTO(adata, labels_key, n_genes, seed=seed, **options)
    if max_epochs is not None:
        model.training = override(model.training, max_epochs=max_epochs)
    return model
