"""kernomics: fused kernels for gene-expression counts and the models built on them.

>>> import kernomics as kn
>>> panel = kn.models.YOTO(adata, labels_key="cell_type", n_genes=64)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kernomics._version import __version__

if TYPE_CHECKING:
    from kernomics import (
        attribution,
        baselines,
        data,
        datasets,
        evaluation,
        metrics,
        models,
        nn,
        ops,
        pl,
        pp,
        tl,
        train,
    )

__all__ = [
    "__version__",
    "attribution",
    "baselines",
    "data",
    "datasets",
    "evaluation",
    "metrics",
    "models",
    "nn",
    "ops",
    "pl",
    "pp",
    "tl",
    "train",
]


def __getattr__(name: str) -> object:
    """Import a subpackage when it is first asked for: `import kernomics` itself costs nothing."""
    if name in __all__:
        return importlib.import_module(f"kernomics.{name}")
    raise AttributeError(f"module 'kernomics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
