"""Saved models made to do harm are refused in a sentence that names the file, and take nothing.

What is forged here has a manifest that fits it: digests tell damage, not ill will.
"""

from __future__ import annotations

import json
import os
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import kernomics as kn
from kernomics.errors import CheckpointError, KernomicsError
from kernomics.models import CellEncoder, ExpressionModel, Panel, PhenotypeModel
from kernomics.models.gil.config import GILConfig
from kernomics.models.gil.module import GILModule
from kernomics.models.polygene.config import PolyGeneConfig
from kernomics.models.polygene.module import PolyGeneModule
from kernomics.models.tasks import Task
from kernomics.models.txfm.config import TxFMConfig
from kernomics.models.txfm.module import TxFMModule
from kernomics.models.yoto.network import PanelNetwork
from kernomics.train import RunDirectory, load_model_dir, save_checkpoint
from kernomics.train import atomic as storage
from kernomics.train.checkpoint import MODEL, load_checkpoint

GENES = [f"g{i}" for i in range(6)]
TASK = Task("type", "categorical", ("a", "b"))
TINY = {"d_model": 8, "n_layers": 1, "n_heads": 2}


def panel() -> Panel:
    network = PanelNetwork(6, [TASK], (4, 4), "log1p").eval()
    return Panel(network, GENES, [*GENES, "g6"], np.arange(7.0), {"seed": 0})


def polygene() -> PhenotypeModel:
    module = PolyGeneModule(6, [TASK], PolyGeneConfig(**TINY), [1.0, 2.0])
    return PhenotypeModel(module, GENES, {})


MODELS: dict[str, Callable[[], Any]] = {
    "panel": panel,
    "txfm": lambda: CellEncoder(TxFMModule(6, TxFMConfig(**TINY, decoder_layers=1)), GENES, {}),
    "polygene": polygene,
    "gil": lambda: ExpressionModel(GILModule(6, GILConfig(**TINY)), GENES, {}),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


def forge(path: Path, kind: str = MODEL, **files: bytes) -> None:
    """Replace files of a saved directory, and write a manifest that fits them."""
    names = {"weights": "model.safetensors", "meta": "model.json", "state": "state.json"}
    kept = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "manifest.json"}
    kept |= {names[name]: data for name, data in files.items()}
    storage.write_directory(path, kept.items(), kind=kind)


def forge_meta(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    meta = json.loads((path / "model.json").read_text())
    change(meta)
    forge(path, meta=json.dumps(meta).encode())


@contextmanager
def little_memory(more: int = 1 << 30) -> Iterator[None]:
    """Let the process take a gigabyte more than it has: a size that is believed fails at once."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def refused(model: Any, path: Path, match: str) -> str:
    """Return what is said by the class and by `kn.models.load`."""
    with little_memory():
        with pytest.raises(KernomicsError, match=match) as caught:
            type(model).load(path)
        with pytest.raises(KernomicsError):
            kn.models.load(path)
    said = str(caught.value)
    assert str(path) in said
    assert "again" in said or "copy" in said, f"no remedy: {said}"
    return said


def test_what_was_saved_comes_back(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    for back in (type(model).load(tmp_path / "m"), kn.models.load(tmp_path / "m")):
        assert type(back) is type(model)
        assert list(back.genes) == GENES


# -- model.json ------------------------------------------------------------------------------------


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(meta: dict[str, Any]) -> None:
        *upper, last = path
        for name in upper:
            meta = meta[name]
        meta[last] = to

    return change


ANY_META = {
    "no genes": lambda meta: meta.pop("genes"),
    "a word for genes": _set("genes", to="g1g2g3"),
    "numbers for genes": _set("genes", to=list(range(6))),
    "a gene twice": _set("genes", to=["g0"] * 6),
    "more genes": _set("genes", to=[f"g{i}" for i in range(7)]),
    "no info": lambda meta: meta.pop("info"),
    "a word for info": _set("info", to="x"),
}


@pytest.mark.parametrize("change", ANY_META)
def test_a_description_that_fits_no_weights_is_refused(
    model: Any, tmp_path: Path, change: str
) -> None:
    model.save(tmp_path / "m")
    forge_meta(tmp_path / "m", ANY_META[change])
    refused(model, tmp_path / "m", r"model\.json does not describe the weights beside it")


NETWORK_META = {
    "no config": lambda meta: meta.pop("config"),
    "a list": _set("config", to=[]),
    "unknown setting": _set("config", "import", to="os"),
    "wide": _set("config", "d_model", to=2**40),
    "wider than numbers go": _set("config", "d_model", to=2**70),
    "many layers": _set("config", "n_layers", to=10**12),
    "a word for a number": _set("config", "n_heads", to="2"),
    "no seed": lambda meta: meta.pop("seed"),
    "a seed of more bits": _set("seed", to=2**80),
}


@pytest.mark.parametrize("change", NETWORK_META)
@pytest.mark.parametrize("name", ["txfm", "polygene", "gil"])
def test_settings_of_a_network_that_cannot_be_are_refused_before_it_is_made(
    tmp_path: Path, name: str, change: str
) -> None:
    model = MODELS[name]()
    model.save(tmp_path / "m")
    forge_meta(tmp_path / "m", NETWORK_META[change])
    refused(model, tmp_path / "m", r"model\.json does not describe the weights beside it")


PANEL_META = {
    "wide": _set("hidden", to=[2**40, 4]),
    "deep": _set("hidden", to=[4] * 2000),
    "no width": _set("hidden", to=[]),
    "a word": _set("hidden", to="4"),
    "no tasks": lambda meta: meta.pop("tasks"),
    "a task of words": _set("tasks", to=["type"]),
    "more classes": _set("tasks", to=[{**vars(TASK), "classes": ["a", "b", "c"]}]),
    "added without weights": _set("added", to=[["new"]]),
    "more scores": _set("all_genes", to=GENES),
}


@pytest.mark.parametrize("change", PANEL_META)
def test_settings_of_a_panel_that_cannot_be_are_refused(tmp_path: Path, change: str) -> None:
    model = panel()
    model.save(tmp_path / "m")
    forge_meta(tmp_path / "m", PANEL_META[change])
    refused(model, tmp_path / "m", r"model\.json does not describe the weights beside it")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"[" * 1_000_000 + b"]" * 1_000_000, "nested too deeply"),
        (b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000, "nested too deeply"),
        (b'{"format": "kernomics', "Unterminated string"),
        (b"[]", "it holds a list, not an object"),
        (b'{"genes": "\xff"}', "codec can't decode"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "integer string conversion"),
    ],
)
def test_json_that_is_none_is_refused(model: Any, tmp_path: Path, text: bytes, match: str) -> None:
    model.save(tmp_path / "m")
    forge(tmp_path / "m", meta=text)
    refused(model, tmp_path / "m", rf"model\.json cannot be read: .*{match}")


# -- model.safetensors -----------------------------------------------------------------------------


def header(entries: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def f32(shape: list[int], *offsets: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": list(offsets)}


SAFETENSORS = {
    "empty": b"",
    "a header of 2^60 bytes": header({}, length=2**60),
    "a header of 2^64 - 1 bytes": header({}, length=2**64 - 1),
    "a header past the end": header({}, length=1000),
    "a tensor of 2^60 bytes": header({"w": f32([2**58], 0, 2**60)}, b"\0" * 16),
    "a shape beyond 64 bits": header({"w": f32([2**40, 2**40], 0, 16)}, b"\0" * 16),
    "overlapping": header({"w": f32([4], 0, 16), "v": f32([4], 8, 24)}, b"\0" * 24),
    "a hole": header({"w": f32([2], 0, 8), "v": f32([2], 16, 24)}, b"\0" * 24),
    "past the end": header({"w": f32([4], 0, 16)}, b"\0" * 8),
    "backwards": header({"w": f32([4], 16, 0)}, b"\0" * 16),
    "negative": header({"w": f32([4], -16, 0)}, b"\0" * 16),
    "more than its shape": header({"w": f32([2], 0, 16)}, b"\0" * 16),
    "bytes beyond": header({"w": f32([2], 0, 8)}, b"\0" * 16),
    "unknown dtype": header({"w": {**f32([2], 0, 8), "dtype": "P1"}}, b"\0" * 8),
    "no JSON": struct.pack("<Q", 8) + b"{{{{{{{{",
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "a pickle": b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_weights_whose_header_lies_are_refused_before_memory_is_taken(
    model: Any, tmp_path: Path, case: str
) -> None:
    model.save(tmp_path / "m")
    forge(tmp_path / "m", weights=SAFETENSORS[case])
    refused(model, tmp_path / "m", r"model\.safetensors holds tensors that cannot be read")


def test_weights_of_another_network_are_refused(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    weights = safetensors.torch.load_file(tmp_path / "m" / "model.safetensors")
    name = next(n for n, tensor in weights.items() if tensor.dim() == 2)
    others = {
        "wider": {**weights, name: torch.zeros(3, 1)},
        "fewer": {n: w for n, w in weights.items() if n != name},
        "none": {},
    }
    for found in others.values():
        forge(tmp_path / "m", weights=safetensors.torch.save(found))
        refused(model, tmp_path / "m", "does not describe the weights beside it")


# -- the directory ---------------------------------------------------------------------------------


def names_in_manifest(path: Path, name: str) -> None:
    """Let the manifest name a file, with the digest that it has there."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("digest")
    manifest["files"][name] = {"bytes": 6, "sha256": storage.hashlib.sha256(b"secret").hexdigest()}
    manifest["digest"] = storage._digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["../secret", "{tmp}/secret", "sub/secret", "..", ".", "", "a\0b"])
def test_names_that_leave_the_directory_are_refused(model: Any, tmp_path: Path, name: str) -> None:
    model.save(tmp_path / "m")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "m" / "sub").mkdir()
    (tmp_path / "m" / "sub" / "secret").write_text("secret")
    names_in_manifest(tmp_path / "m", name.format(tmp=tmp_path))
    refused(model, tmp_path / "m", r"manifest\.json is damaged: .*no file of the directory")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "manifest.json"])
def test_links_that_leave_the_directory_are_refused(model: Any, tmp_path: Path, name: str) -> None:
    model.save(tmp_path / "m")
    (tmp_path / "m" / name).rename(tmp_path / name)
    (tmp_path / "m" / name).symlink_to(tmp_path / name)
    refused(model, tmp_path / "m", "is a link to .*, outside of the directory")
    (tmp_path / "m" / name).unlink()
    (tmp_path / name).rename(tmp_path / "m" / f"real-{name}")
    (tmp_path / "m" / name).symlink_to(f"real-{name}")
    assert type(type(model).load(tmp_path / "m")) is type(model)  # a link within it is none
    (tmp_path / "linked").symlink_to(tmp_path / "m")  # nor is one to the directory
    assert type(type(model).load(tmp_path / "linked")) is type(model)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "manifest.json"])
def test_pipes_and_devices_are_not_waited_for(model: Any, tmp_path: Path, name: str) -> None:
    model.save(tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    os.mkfifo(tmp_path / "m" / name)
    refused(model, tmp_path / "m", "it is no regular file")


MANIFESTS: dict[str, Any] = {
    "a list": [],
    "files of a list": {"files": []},
    "files of numbers": {"files": {"model.json": 3}},
    "no size": {"files": {"model.json": {"sha256": ""}}},
    "a size of words": {"files": {"model.json": {"bytes": "many", "sha256": ""}}},
    "2^60 bytes": {"files": {"model.json": {"bytes": 2**60, "sha256": ""}}},
    "no files": {"files": {}},
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_of_another_make_is_refused(model: Any, tmp_path: Path, case: str) -> None:
    model.save(tmp_path / "m")
    manifest = MANIFESTS[case]
    if isinstance(manifest, dict):
        manifest = {"kind": MODEL, "version": 1, **manifest}
        manifest["digest"] = storage._digest(manifest)
    (tmp_path / "m" / "manifest.json").write_text(json.dumps(manifest))
    refused(model, tmp_path / "m", "damaged|holds a|has no")


def test_a_manifest_without_end_is_refused(tmp_path: Path) -> None:
    panel().save(tmp_path / "m")
    (tmp_path / "m" / "manifest.json").write_bytes(b'{"a":' * 10**6 + b"1" + b"}" * 10**6)
    refused(panel(), tmp_path / "m", r"manifest\.json is damaged: .*nested too deeply")


# -- runs and checkpoints --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 10**6, "config.json is not valid JSON .*nested too deeply"),
        ('{"kind": "kernomics run"}', "config.json is damaged: it holds no config"),
        ('{"kind": "kernomics run", "config": "../.."}', "config.json is damaged"),
        ('{"kind": ["kernomics run"]}', "was not written by kernomics"),
        ("7", "was not written by kernomics"),
    ],
)
def test_a_config_of_a_run_that_is_none_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=match):
        RunDirectory.open(tmp_path)
    for options in ({"resume": True}, {"overwrite": True}, {}):
        with pytest.raises(CheckpointError, match=match):
            RunDirectory.create(tmp_path, {}, **options)
    assert (tmp_path / "config.json").read_text() == text, "nothing was changed"


def test_a_pipe_for_a_config_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="it is no regular file"):
        RunDirectory.open(tmp_path)


@pytest.mark.parametrize(
    "state",
    [
        b"[]",
        b"{}",
        b'{"step": 1, "parts": []}',
        b'{"step": "x", "parts": {}}',
        b'{"step": 1e999, "parts": {}}',
        b'{"step": 1, "parts": {"module": {"tensor": "none"}}}',
        b'{"step": 1, "parts": {"module": {"dict": [["a", 1, 2]]}}}',
        b'{"step": 1, "parts": {"module": {"dict": 7}}}',
        b'{"step": 1, "parts": {"module": {}}}',
        b'{"step": 1, "parts": {"module": ' + b'{"list": [' * 450 + b"]}" * 450 + b"}}",
        b"[" * 10**6,
    ],
)
def test_a_state_that_is_none_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, state: bytes
) -> None:
    save_checkpoint(tmp_path, 1, {"module": {"w": torch.ones(2)}})
    path = save_checkpoint(tmp_path, 2, {"module": {"w": torch.zeros(2)}})
    forge(path, kind="kernomics checkpoint", state=state)
    if b'"list"' in state:  # within what Python's stack holds, or not: read, or passed over
        load_checkpoint(tmp_path)
        return
    with pytest.warns(UserWarning, match=r"step-00000002/state\.json is no state"):
        found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1


def test_a_directory_without_weights_is_no_model(tmp_path: Path) -> None:
    storage.write_directory(tmp_path / "m", [("model.json", b"{}")], kind=MODEL)
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_model_dir(tmp_path / "m")
