"""Nothing that kernomics loads can run code: no pickle on any path, nor anything that stands on it.

The sources name none, and whatever is saved loads where unpickling ends the test.
"""

import ast
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import kernomics
from kernomics.data import CellCollection, Stages, convert, gene_stages
from kernomics.datasets import simulate
from kernomics.models import load
from kernomics.models.yoto import Panel
from kernomics.train import load_checkpoint, save_checkpoint

ROOT = Path(kernomics.__file__).parent
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "torch.load",
    "torch.save",
    "pd.read_pickle",
    "pandas.read_pickle",
    "np.load",
    "numpy.load",
}
SAVED = Path(__file__).parent / "models" / "saved"


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def uses(source: str) -> list[str]:
    """Name what could unpickle in a module's source; np.load alone refuses objects by default."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in MODULES else []
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            allowed = [k.arg for k in node.keywords if k.arg == "allow_pickle"]
            if allowed or (name in CALLS and name not in ("np.load", "numpy.load")):
                found.append(f"{name}({', '.join(map(str, allowed))})")
            if name in ("yaml.load", "yaml.unsafe_load", "runpy.run_path"):
                found.append(name)
    return found


def test_no_source_names_pickle():
    found = {
        str(path.relative_to(ROOT)): names
        for path in sorted(ROOT.rglob("*.py"))
        if (names := uses(path.read_text(encoding="utf-8")))
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.pool",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "def f():\n    import dill",
        "pd.read_pickle(path)",
    ],
)
def test_the_walk_sees_pickle(source):
    assert uses(source)


@pytest.fixture
def poisoned(monkeypatch):
    """End the test at whatever unpickles."""

    def poison(*_, **__):
        pytest.fail("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"):
        monkeypatch.setattr(pickle, name, poison)
    monkeypatch.setattr(torch, "load", poison)


@pytest.mark.usefixtures("poisoned")
def test_everything_that_was_saved_loads_where_nothing_can_be_unpickled(tmp_path):
    assert isinstance(load(SAVED / "panel"), Panel)
    load(SAVED / "txfm")
    save_checkpoint(tmp_path / "c", 1, {"module": {"w": torch.ones(3)}, "state": {"step": 1}})
    assert load_checkpoint(tmp_path / "c") is not None

    adata = simulate(60, 20, 2, 4, seed=1)
    rows = np.arange(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr and anndata, on formats
        adata.write_h5ad(tmp_path / "a.h5ad")
        convert(tmp_path / "a.h5ad", tmp_path / "parts", shards=2, progress=False)
        sources = [tmp_path / "a.h5ad", tmp_path / "parts"]
        try:
            import zarr  # noqa: F401
        except ImportError:
            pass
        else:
            adata.write_zarr(tmp_path / "a.zarr")
            sources.append(tmp_path / "a.zarr")
        expected = CellCollection.from_anndata(adata).batch(rows).dense()
        for source in sources:
            assert torch.equal(CellCollection.from_anndata(source).batch(rows).dense(), expected)
    stages = gene_stages(adata, {"one": list(adata.var_names[:3])})
    stages.save(tmp_path / "stages.json")
    assert Stages.load(tmp_path / "stages.json").fingerprint == stages.fingerprint


def test_an_array_of_objects_in_a_scratch_file_is_not_unpickled(tmp_path):
    from kernomics.data.readers.sources import MappedSource

    for name in ("indptr", "indices", "values"):
        np.save(tmp_path / f"{name}.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        MappedSource(tmp_path, 3)
