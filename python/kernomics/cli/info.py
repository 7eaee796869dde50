"""`kernomics info`: what was built, and what this machine has."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command."""
    info = commands.add_parser("info", help="show what was built and what this machine has")
    info.add_argument("--json", action="store_true", help="print as JSON")
    info.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print it."""
    from kernomics.ops import build_info

    found = build_info()
    if args.json:
        print(json.dumps(found, indent=1))
        return
    architectures = ", ".join(found["cuda_architectures"]) or "none"
    print(f"kernomics  {found['version']}, built with {found['compiler']}")
    if found["cuda_kernels"]:
        print(f"CUDA       kernels for {architectures}, built with {found['cuda_compiler']}")
    else:
        print("CUDA       no kernels in this build")
    print(f"torch      {found['torch']}, CUDA {found['torch_cuda'] or 'none'}")
    devices = ", ".join(found["cuda_devices"]) or "none"
    print(f"machine    {found['threads']} CPU threads, {found['isa']}; GPUs: {devices}")
