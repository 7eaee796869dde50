"""The process group of torch.distributed, and the store by which its members found each other."""

from __future__ import annotations

import datetime
import os
from typing import Any

import torch
import torch.distributed as torch_distributed

from kernomics.errors import TrainingError
from kernomics.train.places import LIMIT, Place
from kernomics.train.watch import PATIENCE

dist: Any = torch_distributed  # whose stores have no types


def begin_group(place: Place, seconds: float) -> Any:
    """Begin the process group; return the store by which the ranks found each other."""
    os.environ.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world),
        LOCAL_RANK=str(place.local),
        MASTER_ADDR=place.address,
        MASTER_PORT=str(place.port),
    )
    span = datetime.timedelta(seconds=seconds)
    try:
        store, rank, world = next(iter(dist.rendezvous("env://", timeout=span)))
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=dist.PrefixStore("kernomics", store),
            rank=rank,
            world_size=world,
            timeout=span,
        )
    except RuntimeError as error:
        raise TrainingError(
            f"rank {place.rank} of {place.world} did not find the others at {place.address}, port "
            f"{place.port}, within {seconds:g} s ({error}): start as many processes, and set "
            f"MASTER_ADDR and MASTER_PORT if they are on several machines; {LIMIT} sets the seconds"
        ) from error
    return store


def another_connection(store: Any) -> Any:
    """Return another connection to a store, for a thread of its own."""
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    if isinstance(store, dist.TCPStore):
        span = datetime.timedelta(seconds=PATIENCE)
        store = dist.TCPStore(
            store.host, store.port, is_master=False, wait_for_workers=False, timeout=span
        )
    begun = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"kernomics-watch/{begun}", store)
