"""What the trainings of all models share."""

import threading

import pytest

from kernomics.data import CellCollection
from kernomics.models import YOTO, TxFM


@pytest.mark.filterwarnings("ignore::kernomics.models.yoto.diagnostics.TrainingWarning")
@pytest.mark.parametrize("system", ["yoto", "txfm"])
def test_callbacks_reach_the_loop_and_an_error_there_leaves_no_reader(adata, tmp_path, system):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = CellCollection.from_anndata(
        tmp_path / "cells.h5ad", labels_key="cell_type", in_memory=False
    )
    model = (
        YOTO(cells, n_genes=6)
        if system == "yoto"
        else TxFM(cells, d_model=8, n_layers=1, n_heads=2, n_tokens=12)
    )
    seen = []
    model.train(4, batch_size=64, progress=False, callbacks=[lambda e, m: seen.append(e) or e == 1])
    assert seen == [0, 1]
    assert model.history.column("epoch", "train") == [0, 1]

    class Broken(Exception):
        pass

    def failing(*_):
        raise Broken

    model._begin = lambda: broken(type(model)._begin(model))

    def broken(module):
        module.training_loss = failing
        return module

    with pytest.raises(Broken):
        model.train(1, batch_size=64, progress=False)
    assert not [t for t in threading.enumerate() if t.name == "kernomics-reader"]
