"""`load`: any saved model, by its format."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from kernomics._arguments import checked
from kernomics.errors import CheckpointError
from kernomics.models.saved import KINDS, checked_folder, saved_format
from kernomics.train import load_model_dir

if TYPE_CHECKING:
    from kernomics.models.gil import ExpressionModel
    from kernomics.models.polygene import PhenotypeModel
    from kernomics.models.txfm import CellEncoder
    from kernomics.models.yoto import Panel

HOMES = {
    "kernomics gil": ("kernomics.models.gil.expression_model", "ExpressionModel"),
    "kernomics panel": ("kernomics.models.yoto.panel", "Panel"),
    "kernomics polygene": ("kernomics.models.polygene.phenotype_model", "PhenotypeModel"),
    "kernomics txfm": ("kernomics.models.txfm.cell_encoder", "CellEncoder"),
}
"""The class that reads a saved model, by its format without the version."""


@checked
def load(path: str | Path) -> Panel | CellEncoder | PhenotypeModel | ExpressionModel:
    """Load a saved model, whichever it is.

    Parameters
    ----------
    path
        The directory of a run that has finished, or the one that the model was saved to.

    Returns
    -------
    Panel, CellEncoder, PhenotypeModel or ExpressionModel
        What the directory holds: the panel of a YOTO, the encoder of a TxFM, a trained PolyGene or
        a trained GIL.

    Raises
    ------
    CheckpointError
        If there is no model, it is damaged, or its format is not known to this version.
    """
    folder = checked_folder(path)
    found = saved_format(folder) or str(load_model_dir(folder)[1].get("format"))
    home = HOMES.get(found.rpartition(" ")[0])
    if home is None:
        raise CheckpointError(
            f"{folder} holds {found!r}, which this version of kernomics cannot read; it reads "
            f"{' and '.join(KINDS.values())}"
        )
    module, name = home
    loaded: Panel | CellEncoder | PhenotypeModel | ExpressionModel = getattr(
        importlib.import_module(module), name
    ).load(folder)
    return loaded
