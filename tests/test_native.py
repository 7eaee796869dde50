"""The compiled modules stand alone: no torch inside, one OpenMP runtime, light imports."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kernomics
from kernomics.ops import _native, build_info

TORCH_LIBRARIES = re.compile(r"libtorch|libc10|libcudart|libshm")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needed_libraries(path: Path) -> list[str]:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("needs readelf (binutils)")
    text = subprocess.run([readelf, "-d", str(path)], capture_output=True, text=True, check=True)
    return re.findall(r"\(NEEDED\).*\[(.+)\]", text.stdout)


def modules() -> list[Path]:
    names = [_native.cpu().__file__]
    if build_info()["cuda_kernels"]:
        names.append(_native.cuda().__file__)
    return [Path(name) for name in names]


def test_extensions_link_nothing_of_torch() -> None:
    for path in modules():
        libraries = needed_libraries(path)
        assert any(name.startswith("libstdc++") for name in libraries)
        assert [name for name in libraries if TORCH_LIBRARIES.search(name)] == []


def test_extensions_need_no_symbol_of_torch_or_numpy() -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs nm (binutils)")
    for path in modules():
        text = subprocess.run([nm, "-D", str(path)], capture_output=True, text=True, check=True)
        assert re.findall(r"\bU .*(?:torch|c10|PyArray)\S*", text.stdout) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc/self/maps")
def test_one_openmp_runtime_is_loaded() -> None:
    found = run(
        "import torch, kernomics.ops, re\n"
        "kernomics.ops.gumbel_topk(torch.randn(4, 9000), 5, tau=1.0)\n"
        "maps = open('/proc/self/maps').read()\n"
        "print(*sorted(set(re.findall(r'\\S*lib(?:gomp|iomp|omp)\\S*\\.so\\S*', maps))))\n"
    ).split()
    assert len(found) == 1, found


def test_kernomics_alone_imports_nothing_heavy() -> None:
    loaded = run("import kernomics, sys; print(*sys.modules)").split()
    assert {"torch", "numpy", "anndata", "pandas"}.isdisjoint(loaded)


def test_ops_import_only_torch_and_numpy() -> None:
    loaded = set(
        run("import kernomics.ops, kernomics.ops.reference, sys; print(*sys.modules)").split()
    )
    assert "torch" in loaded
    heavy = {"anndata", "scanpy", "pandas", "scipy", "h5py", "sklearn", "matplotlib", "safetensors"}
    bare = set(run("import torch, sys; print(*sys.modules)").split())
    assert (heavy - bare).isdisjoint(loaded)
    above = {name for name in loaded if name.startswith("kernomics.")}
    assert {
        name for name in above if not re.match(r"kernomics\.(ops|_cpu|_cuda|_version)\b", name)
    } == set()


def test_build_info_describes_this_build() -> None:
    info = build_info()
    assert info["version"] == kernomics.__version__
    assert info["torch"] == torch.__version__
    assert info["threads"] == torch.get_num_threads()
    assert re.match(r"(GNU|Clang|AppleClang|MSVC) \d+", info["compiler"])
    assert bool(info["cuda_architectures"]) == info["cuda_kernels"]


@pytest.mark.skipif(build_info()["cuda_kernels"], reason="this build has CUDA kernels")
def test_without_cuda_kernels_the_error_says_how_to_build_them() -> None:
    with pytest.raises(RuntimeError, match="KERNOMICS_CUDA=ON"):
        _native.cuda()
