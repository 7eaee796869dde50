"""`kernomics bench`: how fast the ops are on this machine, beside plain torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kernomics.cli.messages import Help
from kernomics.errors import ConfigError, KernomicsError

WAYS = ("eager", "torch.compile")


def add_parser(commands: Any) -> None:
    """Add the command."""
    bench = commands.add_parser(
        "bench",
        help="measure the ops on this machine, beside eager torch and torch.compile",
        description="Measure each op on this machine, forward and backward: its time, its share of "
        "the floor (the least bytes at the measured copy rate, or the products at the measured "
        "rate of a matrix product), and how many times longer torch takes. Results are compared "
        "with the reference before anything is timed. For figures to keep, leave the machine "
        "alone meanwhile.",
        formatter_class=Help,
    )
    bench.add_argument(
        "--op", action="append", default=[], metavar="NAME",
        help="op to measure; may be given several times (all seven if not given)",
    )  # fmt: skip
    bench.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu or cuda")
    bench.add_argument(
        "--threads", type=int, metavar="N", help="threads of the CPU (torch's if not given)"
    )
    bench.add_argument("--rounds", type=int, default=7, metavar="N", help="least samples of each")
    bench.add_argument(
        "--quick", action="store_true", help="tiny sizes, to try the command: times say little"
    )
    bench.add_argument(
        "--no-compile", action="store_true",
        help="leave out torch.compile, which takes up to a minute for each op",
    )  # fmt: skip
    bench.add_argument(
        "--out", type=Path, metavar="FILE", help="write JSON lines, one for each op and way"
    )
    bench.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw a picture, such as times.png"
    )
    bench.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure, print, write."""
    _require_places(args)
    from kernomics.benchmark import measure_ops

    records = measure_ops(
        args.op,
        device=args.device,
        threads=args.threads,
        quick=args.quick,
        compiled=not args.no_compile,
        rounds=args.rounds,
        budget=0.0 if args.quick else 1.0,
        each=_Table().show,
    )
    if args.out is not None:
        from kernomics.train.atomic import jsonable, replace_file

        lines = "".join(json.dumps(jsonable(record)) + "\n" for record in records)
        replace_file(args.out, lines.encode())
        print(f"written    {args.out}")
    if args.plot is not None:
        from kernomics.pl.op_times import op_times

        figure: Any = op_times(records).figure
        figure.savefig(args.plot, dpi=150)
        print(f"drawn      {args.plot}")
    wrong = [r for r in records if r["wrong"]]
    if wrong:
        raise KernomicsError(
            f"{len(wrong)} of {len(records)} results are wrong and were not timed, first "
            f"{wrong[0]['op']}, {wrong[0]['way']}: {wrong[0]['skipped']}; please report it with "
            "the output of `kernomics info`"
        )


def _require_places(args: argparse.Namespace) -> None:
    """Refuse before minutes of measuring what could not be written after them."""
    for option, path in (("--out", args.out), ("--plot", args.plot)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            what = "is a directory" if path.is_dir() else f"lies in {path.parent}, which is missing"
            raise ConfigError(f"{option} {path} {what}: name a file in a directory that exists")
    if args.plot is not None:
        from kernomics.pl.style import matplotlib_module

        known = matplotlib_module("figure").Figure().canvas.get_supported_filetypes()
        if args.plot.suffix.lstrip(".") not in known:
            raise ConfigError(
                f"--plot {args.plot}: no picture ends in {args.plot.suffix!r}; name it .png, .svg "
                "or .pdf"
            )


class _Table:
    """Prints a line for each op when it is done, the machine before the first."""

    begun = False

    def show(self, records: list[dict[str, Any]]) -> None:
        ours, *others = records
        if not self.begun:
            self.begun = True
            threads = f"{ours['threads']} thread" + "s" * (ours["threads"] > 1)
            print(f"machine    {ours['device']}, {ours['isa']}, {threads}")
            print(
                f"measured   copy {ours['copy_gb_per_s']:.3g} GB/s, matrix product "
                f"{1e3 * ours['matmul_tflop_per_s']:.3g} GFLOP/s"
            )
            print(f"\n{'op':<20}{'kernomics':>12}{'of the floor':>14}", end="")
            print("".join(f"{way:>26}" for way in WAYS))
        share = "" if ours["share_of_floor"] is None else f"{ours['share_of_floor']:.0%}"
        print(f"{ours['op']:<20}{_time(ours):>12}{share:>14}", end="")
        print("".join(f"{_beside(r):>26}" for r in others), flush=True)
        for r in records:
            if r["skipped"] and r["skipped"] != "left out":
                print(f"  {r['way']}: {r['skipped']}")


def _time(record: dict[str, Any]) -> str:
    seconds = record["median_s"]
    if seconds is None:
        return "wrong" if record["wrong"] else "-"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def _beside(record: dict[str, Any]) -> str:
    times = record["times_kernomics"]
    return _time(record) + ("" if times is None else f" ({times:.3g} ×)")
