"""Compare a results file with the committed baseline of the same device.

    python -m bench.check runs/gpu/nvidia-h200.jsonl
    python -m bench.check NEW.jsonl --baseline OLD.jsonl

Ratios are compared within an instruction set, not times: kernomics against every other provider of
its run, and against the floor of the machine as measured in that run. A ratio has fallen when it
lost more than 10 % and more than twice its spread, (p80 − p20)/2 of both providers in the worse of
the two runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bench.harness import HERE, load_results

ALLOWED_FALL = 0.10

Key = tuple[str, str, str, str]


def relative_spread(record: dict[str, Any]) -> float:
    """Half the distance between the 20th and 80th percentile, relative to the median."""
    return float(record["p80_s"] - record["p20_s"]) / (2 * float(record["median_s"]))


def ratios(records: list[dict[str, Any]]) -> dict[Key, tuple[float, float]]:
    """Return (ratio, its relative spread) by op, case, instruction set and provider.

    The floor is a provider too.
    """
    ours_of = {
        (r["op"], r["case"], r["isa"]): r for r in records if r["provider"] == r["first_provider"]
    }
    found = {}
    for r in records:
        case = (r["op"], r["case"], r["isa"])
        ours = ours_of[case]
        if r is ours:
            found[*case, "floor"] = (float(r["share_of_floor"]), relative_spread(ours))
        else:
            spread = relative_spread(ours) + relative_spread(r)
            found[*case, r["provider"]] = (float(r["times_first"]), spread)
    return found


def fallen(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> list[str]:
    """Describe every ratio of the baseline that fell or is missing."""
    now, before = ratios(new), ratios(old)
    cases = {key[:3] for key in now}
    complaints = []
    for key, (was, spread_was) in before.items():
        name = " | ".join(key)
        if key[:3] not in cases:
            continue  # a run of some cases is compared on those alone
        if key not in now:
            complaints.append(f"{name}: not measured")
            continue
        ratio, spread = now[key]
        loss = (was - ratio) / was
        if loss > ALLOWED_FALL and loss > 2 * max(spread, spread_was):
            complaints.append(f"{name}: {was:.3g} -> {ratio:.3g}, {loss:.0%} lower")
    return complaints


def main() -> None:
    parser = argparse.ArgumentParser(description="Fail when a ratio fell.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--baseline", type=Path, help="default: the same name in bench/results")
    args = parser.parse_args()
    baseline = args.baseline or HERE / "results" / args.results.name
    if not baseline.exists():
        print(f"no baseline {baseline.name} yet: nothing to compare")
        return
    old, new = load_results(baseline), load_results(args.results)
    complaints = fallen(new, old)
    compared = len(ratios(old).keys() & ratios(new).keys())
    print(f"{compared} ratios compared with {baseline.name}, {len(complaints)} fell")
    if complaints:
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()
