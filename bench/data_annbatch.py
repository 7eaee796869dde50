"""annbatch's side of bench/data.py: run by a Python that has it, which wants 3.12 or newer.

    python data_annbatch.py '{"path": …, "folder": …, "block": 64, "buffer": 64, …}'

Writes the file's cells into annbatch's own store, not shuffled, with its default compression (lz4)
and with none, and reads each by its loader with the codecs that its manual recommends (zarrs):
chunks of as many cells as our blocks, as many at a time as our buffer holds. Prints JSON: of each
store the cells a second of each round, warm and cold, and annbatch's version.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def forget(folder: Path) -> None:
    """Drop all files of a store from the system's memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def cells_per_second(library: Any, store: Path, order: dict[str, Any], seed: int) -> float:
    """Read one epoch."""
    loader = library.Loader(
        chunk_size=order["block"], preload_nchunks=order["buffer"], batch_size=order["batch"],
        shuffle=True, rng=np.random.default_rng(seed), preload_to_gpu=False,
    )  # fmt: skip
    loader.use_collection(library.DatasetCollection(store, mode="r"))
    n, begun = 0, time.perf_counter()
    for batch in loader:
        n += batch["X"].shape[0]
    if n != order["n_cells"]:
        raise AssertionError(f"{n:,} of {order['n_cells']:,} cells were read")
    return n / (time.perf_counter() - begun)


def main() -> None:
    """Do what is ordered."""
    order = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    library: Any = import_module("annbatch")
    zarr: Any = import_module("zarr")
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    found: dict[str, Any] = {"version": library.__version__, "speeds": {}}
    for name, more in (("lz4", {}), ("uncompressed", {"zarr_compressor": ()})):
        store = Path(order["folder"]) / f"{name}.zarr"
        library.DatasetCollection(store).add_adatas(
            [order["path"]], n_obs_per_chunk=order["block"], shuffle=False, **more
        )
        speeds: dict[str, list[float]] = {"warm": [], "cold": []}
        cells_per_second(library, store, order, 0)
        for i in range(1, order["rounds"] + 1):
            speeds["warm"].append(cells_per_second(library, store, order, i))
            forget(store)
            speeds["cold"].append(cells_per_second(library, store, order, i))
        found["speeds"][name] = speeds
        shutil.rmtree(store)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
