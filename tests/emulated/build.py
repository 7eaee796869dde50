"""Builds the CUDA kernels and their bindings for the host."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pybind11

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
KERNELS = [*sorted((CSRC / "cuda").glob("*.cu")), HERE / "faulty.cu"]
BINDINGS = sorted(CSRC.glob("bindings_cuda*.cpp"))
INCLUDES = [HERE / "include", sysconfig.get_path("include"), pybind11.get_include()]

FLAGS = ["-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# Contraction would change results, as in csrc/cpu. The checks call functions of emulator.cpp.
KERNEL_FLAGS = ["-ffp-contract=off", "-fno-math-errno", "-fsanitize=alignment,bounds,shift",
                "-include", "cuda_runtime.h", "-x", "c++"]  # fmt: skip
BINDING_FLAGS = [
    "-O0", "-fvisibility=hidden", '-DKERNOMICS_VERSION="0"', '-DKERNOMICS_CUDA_COMPILER="emulated"',
    '-DKERNOMICS_CUDA_ARCHITECTURES=""',
]  # fmt: skip


class NoCompiler(Exception):
    """There is no C++ compiler."""


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    raise NoCompiler("needs a C++ compiler; install g++ or name one in CXX")


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr}")
    return done.stdout


def _digest(compiler: str) -> str:
    """Return a name for what would be built."""
    digest = hashlib.sha256(_run(compiler, "--version").encode())
    digest.update(f"{sys.version} {pybind11.__version__}".encode())
    sources = [
        *CSRC.glob("bindings*"),
        *(CSRC / "cuda").glob("*.*"),
        *(CSRC / "common").glob("*.*"),
        Path(__file__),
    ]
    sources += [path for path in HERE.rglob("*") if path.suffix in (".h", ".cpp", ".cu")]
    for path in sorted(sources):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _compile(compiler: str, folder: Path) -> None:
    """Build a library of kernels, whose thread-local storage is their shared memory, and a module.

    The bindings have thread-local storage of their own, which must not be filled with garbage.
    """
    jobs = [(path, KERNEL_FLAGS) for path in KERNELS]
    jobs += [(path, BINDING_FLAGS) for path in BINDINGS]
    jobs.append((HERE / "emulator.cpp", ["-O2"]))

    def compile_one(job: tuple[Path, list[str]]) -> None:
        path, flags = job
        include = [f"-I{i}" for i in INCLUDES]
        _run(compiler, *FLAGS, *include, *flags, "-c", path, "-o", folder / f"{path.name}.o")

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(compile_one, jobs))
    kernels = [folder / f"{path.name}.o" for path in (*KERNELS, HERE / "emulator.cpp")]
    bindings = [folder / f"{path.name}.o" for path in BINDINGS]
    library = folder / "libkernels.so"
    _run(
        compiler,
        "-shared",
        "-Wl,-Bsymbolic",
        f"-Wl,-soname,{library.name}",
        *kernels,
        "-o",
        library,
    )
    _run(compiler, "-shared", *bindings, library, "-Wl,-rpath,$ORIGIN", "-o", folder / "_cuda.so")


def build(cache: Path) -> tuple[ModuleType, ctypes.CDLL]:
    """Return the module of emulated kernels, and the emulator.

    Raises
    ------
    NoCompiler
        If there is no compiler.
    """
    compiler = _compiler()
    folder = cache / _digest(compiler)
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
        _compile(compiler, unfinished)
        for other in cache.iterdir():
            if not other.name.startswith("unfinished-"):  # perhaps another run's
                shutil.rmtree(other, ignore_errors=True)
        unfinished.rename(folder)
    spec = importlib.util.spec_from_file_location("_cuda", folder / "_cuda.so")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, ctypes.CDLL(str(folder / "libkernels.so"))
