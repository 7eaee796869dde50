import importlib
import subprocess
import sys

import pytest

import kernomics


def run(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_kernomics_imports_nothing_heavy():
    loaded = run("import sys, kernomics; print(*sys.modules)").split()
    heavy = {"torch", "numpy", "pandas", "anndata", "scanpy", "scipy", "sklearn", "matplotlib"}
    assert not heavy & set(loaded)


def test_txfm_s_module_and_its_cells_import_torch_and_numpy_alone():
    code = """
import sys
from kernomics.data import Cells
from kernomics.models.txfm.module import TxFMModule
print(*sys.modules)
"""
    loaded = set(run(code).split())
    assert "kernomics.nn" in loaded
    assert not {"pandas", "scipy", "h5py", "safetensors", "anndata", "sklearn"} & loaded


@pytest.mark.parametrize("package", ["kernomics.data", "kernomics.models"])
def test_names_of_a_package_are_found_when_asked_for(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Nothing'"):
        module.Nothing  # noqa: B018


def test_models_need_none_of_the_optional_packages():
    loaded = run(
        "import sys, kernomics.models, kernomics.tl, kernomics.datasets; print(*sys.modules)"
    )
    assert not {"scanpy", "sklearn", "matplotlib", "anndata"} & set(loaded.split())


def test_every_public_name_is_there_and_no_other():
    for name in kernomics.__all__:
        assert getattr(kernomics, name) is not None
        assert name in dir(kernomics)
    with pytest.raises(AttributeError, match="no attribute 'model'"):
        kernomics.model  # noqa: B018


def test_names_that_come_later_are_listed_before():
    code = "import kernomics as kn; print(*dir(kn.attribution), *dir(kn))"
    listed = set(run(code).split())
    assert {"deeplift", "prune", "attribute", "pl", "tl", "models"} <= listed
