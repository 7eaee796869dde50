"""How a result came about: command, settings, versions, seed, and when."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any

from kernomics._version import __version__


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What it takes to make a result again.

    Attributes
    ----------
    command
        The exact command or call.
    config
        The settings, JSON-able; empty where there are none beside the command.
    versions
        Package versions by name.
    seed
        None where nothing was random.
    version, created
        Of kernomics, and the date as text.
    """

    command: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    seed: int | None
    version: str
    created: str

    @classmethod
    def of_this_process(cls, config: Mapping[str, Any], seed: int | None) -> Provenance:
        """Note this process's command, the packages it runs with and the time."""
        return cls(
            command=this_command(),
            config=config,
            versions=package_versions(),
            seed=seed,
            version=__version__,
            created=time.strftime("%Y-%m-%d %H:%M"),
        )


def this_command() -> str:
    """Return the command line of this process."""
    return shlex.join(["kernomics", *sys.argv[1:]])


def package_versions() -> dict[str, str]:
    """Return the versions of kernomics, Python and the packages that compute."""
    return {
        "kernomics": __version__,
        "python": platform.python_version(),
        **{name: package_version(name) for name in ("torch", "numpy", "scipy", "anndata")},
    }
