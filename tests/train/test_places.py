"""Which of several processes this is, by what torchrun or Slurm says."""

from __future__ import annotations

import pytest

from kernomics.errors import ConfigError
from kernomics.train.places import Place, first_node, limit, place_of

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "9",
}
SLURM = {
    "SLURM_JOB_ID": "20001", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-09,12],x",
}  # fmt: skip


def test_places_are_read_from_torchrun_and_slurm() -> None:
    assert place_of({}) is None
    assert place_of(TORCHRUN) == Place(3, 4, 1, "a", 9)
    assert place_of({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) is None
    assert place_of(SLURM) == Place(5, 8, 1, "gpu07", 20003)
    assert place_of({**SLURM, **TORCHRUN}) == Place(3, 4, 1, "a", 9)
    assert place_of({**SLURM, "MASTER_ADDR": "b", "MASTER_PORT": "7"}) == Place(5, 8, 1, "b", 7)
    # A shell, or a script, within an allocation of many tasks is one process.
    alone = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}
    assert place_of(alone) is None
    assert place_of({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None
    with pytest.raises(ConfigError, match="RANK is 4 and WORLD_SIZE 4"):
        place_of({**TORCHRUN, "RANK": "4"})
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'x': not a number"):
        place_of({**TORCHRUN, "WORLD_SIZE": "x"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a", "a"), ("a,b", "a"), ("n[003-007,9],login", "n003"), ("n[5]", "n5"),
        ("r[1,3]-x,b", "r1-x"), ("127.0.0.1", "127.0.0.1"),
    ],
)  # fmt: skip
def test_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_the_limit_is_seconds() -> None:
    assert limit({}) == 600
    assert limit({"KERNOMICS_RANK_LIMIT": "2.5"}) == 2.5
    for text in ("0", "-1", "nan", "inf", "soon"):
        with pytest.raises(ConfigError, match="give seconds"):
            limit({"KERNOMICS_RANK_LIMIT": text})
