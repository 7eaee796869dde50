"""All four systems draw the same cells in the same order, wherever these are read from."""

import warnings

import phenotyped_cells
import pytest
import staged_example

from kernomics.models import YOTO, PolyGene, TxFM

QUICK = {"max_epochs": 2, "batch_size": 16, "progress": False}
SMALL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_tokens": 20}


def trained(system, source, in_memory, **training):
    if system == "GIL":
        stages = staged_example.stages(in_memory)
        made = staged_example.GIL(source, stages, **staged_example.SMALL)
    elif system == "YOTO":
        made = YOTO(source, "cell_type", 4)
    elif system == "TxFM":
        made = TxFM(source, "XXS", **SMALL)
    else:
        made = PolyGene(source, ["treatment", "cell_type"], **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what so short a training is not good for
        return made.train(**QUICK, **training)


def cells_of(system):
    return staged_example.cells() if system == "GIL" else phenotyped_cells.conditions(120)


@pytest.mark.parametrize("system", ["YOTO", "TxFM", "PolyGene", "GIL"])
def test_memory_h5ad_and_zarr_give_the_same_digests_and_the_same_losses(system, tmp_path):
    adata = cells_of(system)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata, on the format of zarr
        adata.write_zarr(tmp_path / "cells.zarr")
    memory, *others = (
        trained(system, source, adata).history
        for source in (adata, tmp_path / "cells.h5ad", tmp_path / "cells.zarr")
    )
    for other in others:
        assert other.without_timings() == memory.without_timings()
    for record in memory.select("train"):
        assert len(record["cells_in_order"]) == len(record["cells_any_order"]) == 16
    if system != "GIL":  # whose stages have other cells each
        assert len(set(memory.column("cells_any_order"))) == 1
        assert len(set(memory.column("cells_in_order"))) == 2
