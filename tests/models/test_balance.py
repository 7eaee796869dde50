"""All four systems draw classes equally often where they are asked to."""

import numpy as np
import pytest
from models.test_same_cells import SMALL, cells_of, trained

from kernomics.data import Loader, balanced_weights
from kernomics.errors import ConfigError, DataError
from kernomics.models import TxFM


@pytest.mark.parametrize("system", ["YOTO", "TxFM", "PolyGene", "GIL"])
def test_each_system_draws_by_the_weights_of_the_classes(system, monkeypatch):
    samplers = []
    init = Loader.__init__

    def kept(self, cells, sampler, **more):
        samplers.append(sampler)
        init(self, cells, sampler, **more)

    monkeypatch.setattr(Loader, "__init__", kept)
    adata = cells_of(system)
    adata.obs["kind"] = np.where(np.arange(adata.n_obs) % 5 < 4, "common", "rare")
    plain = trained(system, adata, adata)
    assert all(sampler.weights is None for sampler in samplers)
    samplers.clear()
    balanced = trained(system, adata, adata, balance="kind")
    assert samplers
    for sampler in samplers:
        kinds = adata.obs["kind"].to_numpy()[sampler.rows]
        assert np.array_equal(sampler.weights, balanced_weights(kinds))
        assert len(sampler.order(0)) == len(sampler.rows)
    assert balanced.history.without_timings() != plain.history.without_timings()
    assert balanced.training.balance == "kind"


@pytest.mark.parametrize("system", ["YOTO", "TxFM", "PolyGene", "GIL"])
def test_a_column_that_is_not_there_is_refused(system):
    adata = cells_of(system)
    with pytest.raises(DataError, match=r"balance is 'cell_tipe', .* 'cell_type'"):
        trained(system, adata, adata, balance="cell_tipe")


def test_what_is_no_column_of_classes_is_refused():
    adata = cells_of("TxFM")
    adata.obs["depth"] = np.linspace(0.5, 1.5, adata.n_obs)
    adata.obs["site"] = "Basel"
    model = TxFM(adata, "XXS", **SMALL)
    with pytest.raises(ConfigError, match="balance is by 'depth', a continuous label"):
        model.train(1, balance="depth")
    with pytest.raises(ConfigError, match="are of the class 'Basel': there is nothing to balance"):
        model.train(1, balance="site")
