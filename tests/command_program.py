"""The command as one of several ranks, or alone: what it did is told in JSON.

python command_program.py OUT '{"argv": ["embed", …]}' writes OUT/rank-0.json, and so on. One rank
may have other words ("argv of 1"), or meet its end as it reads a batch: "ends": {"rank": 1,
"batch": 2, "how": "error"}, or a signal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from free_port import free_port

RANK = int(os.environ.get("RANK", "0"))
TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Ended:
    """How one process ended."""

    code: int
    printed: str
    errors: str
    batches: list[int]  # the cells of each batch that it ran a model on, or the pairs of a block
    written: list[str]  # the files that it opened to write


def run(world: int, out: Path, *argv: Any, **orders: Any) -> list[Ended]:
    """Run a command on so many ranks, each a process of its own, and wait for them."""
    import kernomics

    out.mkdir(parents=True, exist_ok=True)
    source = str(Path(kernomics.__file__).parents[1])
    path = os.pathsep.join([source, str(TESTS), os.environ.get("PYTHONPATH", "")])
    common = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    common |= {"KERNOMICS_RANK_LIMIT": "240"}
    port = str(free_port())
    ordered = json.dumps({"argv": argv, **orders}, default=str)
    own = [
        {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_PORT": port} if world > 1 else {}
        for rank in range(world)
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(out), ordered],
            env={**common, **one},
            cwd=out,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for one in own
    ]
    ended = []
    for rank, process in enumerate(processes):
        printed, errors = process.communicate(timeout=500)
        told = out / f"rank-{rank}.json"
        found = json.loads(told.read_text()) if told.exists() else {"batches": [], "written": []}
        ended.append(Ended(process.returncode, printed, errors, **found))
        print(errors)
    return ended


def main() -> int:
    """Run the command, and tell what it did."""
    from kernomics import cli
    from kernomics.attribution import reduction
    from kernomics.models import CellEncoder, PhenotypeModel
    from kernomics.models.known_cells import KnownCells
    from kernomics.models.yoto import panel

    out, orders = Path(sys.argv[1]), json.loads(sys.argv[2])
    ends = orders.get("ends", {})
    sizes: list[int] = []
    written: list[str] = []

    def note(event: str, args: tuple[Any, ...]) -> None:
        flags = args[2] if event == "open" and len(args) > 2 else 0
        if event == "open" and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
            written.append(str(args[0]))

    def add(size: int) -> None:
        if ends.get("rank") == RANK and len(sizes) == ends["batch"]:
            if ends["how"] == "error":
                raise OSError("the disk is on fire")
            os.kill(os.getpid(), ends["how"])
        sizes.append(size)

    def batches(self: Any, size: int) -> Iterator[Any]:
        for batch in read(self, size):
            add(len(batch))
            yield batch

    def of_block(source: Any, pairs: Any, block: slice, *more: Any) -> Iterator[Any]:
        add(block.stop - block.start)
        return attributed(source, pairs, block, *more)

    attributed, reduction._of_block = reduction._of_block, of_block

    def panel_input(network: Any, view: Any, rows: Any, *more: Any) -> Any:
        add(len(rows))
        return read_panel(network, view, rows, *more)

    if "cells_at_a_time" in orders:
        for kind in (CellEncoder, PhenotypeModel):
            kind._cells_at_a_time = lambda *_: orders["cells_at_a_time"]  # type: ignore[method-assign]
    read_panel, panel.panel_input = panel.panel_input, panel_input
    read, KnownCells.batches = KnownCells.batches, batches  # type: ignore[method-assign]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.addaudithook(note)
    try:
        return cli.main([str(part) for part in orders.get(f"argv of {RANK}", orders["argv"])])
    finally:
        told = {"batches": sizes, "written": written[:]}
        (out / f"rank-{RANK}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    sys.exit(main())
