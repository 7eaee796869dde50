"""Which of several processes this one is, by what torchrun or Slurm says in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from kernomics.errors import ConfigError

LIMIT = "KERNOMICS_RANK_LIMIT"
"""Environment variable: the seconds within which a rank must answer the others."""
DEFAULT_LIMIT = 600.0


class Place(NamedTuple):
    """One process of several, and where the first one listens."""

    rank: int
    world: int
    local: int  # its number on its machine
    address: str
    port: int


def place_of(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Return this process's place among several; None if it was started alone.

    torchrun's variables come first. Slurm's are those of a job step that ``srun`` started with
    more than one task: a shell or a script within an allocation of many tasks is one process.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        given = {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    elif _number(environment, "SLURM_STEP_NUM_TASKS", "1") > 1 and "SLURM_PROCID" in environment:
        names = (
            *("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
            *("MASTER_ADDR", "MASTER_PORT"),
        )
        job = _number(environment, "SLURM_JOB_ID", "0") + _number(environment, "SLURM_STEP_ID", "0")
        given = {
            "SLURM_LOCALID": "0",
            "MASTER_ADDR": first_node(environment.get("SLURM_STEP_NODELIST", "127.0.0.1")),
            "MASTER_PORT": str(20_000 + job % 20_000),
        }
    else:
        return None
    found = {**given, **environment}
    rank, world, local, port = (_number(found, name) for name in (*names[:3], names[4]))
    if world == 1:
        return None
    if not 0 <= rank < world:
        raise ConfigError(
            f"{names[0]} is {rank} and {names[1]} {world}: ranks are counted from 0; start the "
            "processes with torchrun"
        )
    return Place(rank, world, local, found[names[3]], port)


def first_node(nodes: str) -> str:
    """Return the first name of a list such as ``node[003-007,9],login1``."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    if match is None:
        return nodes
    return match[1] + (match[2] or "") + match[3]


def limit(environment: Mapping[str, str] = os.environ) -> float:
    """Return the seconds within which a rank must answer."""
    text = environment.get(LIMIT, str(DEFAULT_LIMIT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 10**7:
        raise ConfigError(f"{LIMIT} is {text!r}: give seconds, above 0")
    return seconds


def _number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    text = environment.get(name, default)
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"the environment variable {name} is {text!r}: not a number") from None
