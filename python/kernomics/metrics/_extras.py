"""Imports of optional packages, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any


def require_extra(module: str, *, purpose: str, extra: str = "report") -> Any:
    """Import an optional module.

    Parameters
    ----------
    module
        Dotted name, such as ``"sklearn.linear_model"``.
    purpose
        What needs it, in a few words; it opens the error message.
    extra
        The extra of kernomics that brings it.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    ImportError
        If the package is not installed. An error inside an installed package is passed on as is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f"{purpose} needs the package '{package}', which is not installed; "
            f"install it with: pip install 'kernomics[{extra}]'"
        ) from error
