"""Imports point down: a room uses those on lower floors, and its own."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import kernomics

ROOT = Path(kernomics.__file__).parent

FLOORS = (
    {"errors", "ops"},
    {"nn", "data", "train"},
    {"baselines", "benchmark", "datasets", "metrics"},
    {"models"},
    {"attribution"},
    {"evaluation", "pp"},
    {"pl", "tl"},
    {"report"},
    {"workflows"},
    {"cli"},
)
"""From the lowest."""
GROUND = {
    "_version",
    "_lazy",
    "_optional",
    "_arguments",
    "_files",
    "_mixing",
    "_warnings",
    "progress",
}
"""Stands under all rooms: it imports `errors` at most."""
DOOR = {"__init__", "__main__"}
"""Opens the house, and is imported by nobody inside it but for the version."""


def rooms() -> set[str]:
    return {
        path.stem
        for path in ROOT.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield the rooms that a module imports, those for type checkers and inside functions too."""
    here = ("kernomics", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            home = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{home}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "kernomics" and len(parts) > 1:
                yield parts[1]


def arrows() -> dict[tuple[str, str], str]:
    """Return where each arrow between two rooms stands first."""
    found: dict[tuple[str, str], str] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for target in imported(path):
            if target != room_of(path):
                found.setdefault((room_of(path), target), str(path.relative_to(ROOT)))
    return found


def floor(room: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if room in names)


def test_every_room_has_a_floor():
    known = set.union(*FLOORS) | GROUND | DOOR
    assert rooms() == known, "say in FLOORS how high each room stands"


def test_arrows_point_down():
    upward = []
    for (source, target), path in arrows().items():
        if source in DOOR or target in GROUND:
            continue
        if source in GROUND:
            allowed = target == "errors"
        else:
            allowed = target not in DOOR and floor(target) < floor(source)
        if not allowed:
            upward.append(f"{path} imports {target}")
    assert not upward


def test_the_reader_of_imports_sees_relative_late_and_typing_ones(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "nn").mkdir()
    module = tmp_path / "nn" / "layer.py"
    module.write_text(
        "from ..models import base\n"
        "from . import other\n"
        "if TYPE_CHECKING:\n    from kernomics.report.page import Page\n"
        "def f():\n    import kernomics.cli.main\n"
        "    from kernomics import tl\n"
    )
    assert sorted(imported(module)) == ["cli", "models", "nn", "report", "tl"]


SYSTEMS = {"yoto", "txfm", "polygene", "gil"}
SHARED = {
    "base",
    "extension",
    "gene_components",
    "known_cells",
    "reading",
    "saved",
    "seen_cells",
    "tasks",
    "trained",
    "vocabulary",
}
"""What a system may take of `models`; `loading` knows the systems, and they do not know it."""


def test_each_system_is_read_without_the_others():
    found = {path.name for path in (ROOT / "models").iterdir() if path.is_dir()}
    assert {name for name in found if not name.startswith("_")} == SYSTEMS
    for system in SYSTEMS:
        for path in (ROOT / "models" / system).rglob("*.py"):
            taken = set(re.findall(r"kernomics\.models\.(\w+)", path.read_text(encoding="utf-8")))
            assert taken <= SHARED | {system}, path
    for name in SHARED:
        text = (ROOT / "models" / f"{name}.py").read_text(encoding="utf-8")
        homes = set(re.findall(r"from kernomics\.models\.(\w+)", text))
        assert homes <= SHARED, name
