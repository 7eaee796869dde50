"""What is converted holds every cell once, as it was, however stored and however often killed."""

import errno
import hashlib
import json
import multiprocessing
import os
import random
import re
import shlex
import signal
import time
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from example_cells import assert_same, csr, make, random_counts
from scipy import sparse

from kernomics.cli import main
from kernomics.data import CellCollection, concat, convert
from kernomics.data.cell_digest import CellDigest
from kernomics.data.conversion import targets
from kernomics.data.csr import Rows
from kernomics.data.readers import transpose
from kernomics.data.readers.stored import convert_command
from kernomics.errors import ConfigError, DataError

N = 120
COUNTS = random_counts(N, 50, 3)
COUNTS[:, 0] += 1


def cells(form=csr) -> anndata.AnnData:
    adata = make(form(COUNTS), kind=pd.Categorical(["a", "b", "c"] * 40), depth=np.arange(N) / 2)
    adata.obs["donor"] = [f"d{i % 7}" for i in range(N)]
    adata.var["length"] = np.arange(50)
    return adata


def write_zarr(adata: anndata.AnnData, path: Path, version: int) -> None:
    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=version):
        warnings.simplefilter("ignore")  # of anndata, on the format of zarr
        adata.write_zarr(path)


def everything(read: CellCollection):
    return read.batch(np.arange(read.n_cells))


def bytes_of(path: Path) -> dict[str, str]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }


def run(given, out, **options):
    return convert(given, out, progress=False, **options)


# -- what is written -------------------------------------------------------------------------------

SOURCES = {
    "csr": lambda path: cells().write_h5ad(path / "a.h5ad"),
    "csc": lambda path: cells(lambda x: csr(x).tocsc()).write_h5ad(path / "a.h5ad"),
    "dense": lambda path: cells(np.asarray).write_h5ad(path / "a.h5ad"),
    "compressed": lambda path: cells().write_h5ad(path / "a.h5ad", compression="gzip"),
    "small integers": lambda path: cells(lambda x: csr(x).astype(np.uint8)).write_h5ad(
        path / "a.h5ad"
    ),
    "zarr 2": lambda path: write_zarr(cells(), path / "a.zarr", 2),
    "zarr 3": lambda path: write_zarr(cells(), path / "a.zarr", 3),
    "zarr by genes": lambda path: write_zarr(cells(lambda x: csr(x).tocsc()), path / "a.zarr", 3),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("out", ["b.h5ad", "b.zarr", "b", "c"])
def test_cells_are_the_same_however_they_were_and_are_stored(tmp_path, monkeypatch, source, out):
    monkeypatch.setattr(transpose, "ENTRIES", 500)
    SOURCES[source](tmp_path)
    (given,) = tmp_path.iterdir()
    options = {} if "." in out else {"shards": 3, "format": {"b": "h5ad", "c": "zarr"}[out]}
    done = run(given, tmp_path / out, **options)
    found = CellCollection.from_anndata(tmp_path / out, labels_key="kind")
    expected = CellCollection.from_anndata(cells(), labels_key="kind")
    assert_same(everything(found), everything(expected))
    assert found.on_disk
    assert found.fingerprint == expected.fingerprint
    pd.testing.assert_frame_equal(
        found.obs.astype({"donor": str}), expected.obs.astype({"donor": str})
    )
    assert found.var["length"].tolist() == list(range(50))
    assert (done.n_cells, done.n_genes, done.n_files) == (N, 50, options.get("shards", 1))
    assert sorted(tmp_path.iterdir()) == sorted([given, tmp_path / out])


@pytest.mark.parametrize("options", [{}, {"shards": 4}])
@pytest.mark.parametrize("memory", [1.0, 1e-5])
def test_a_shuffle_depends_on_the_seed_alone_and_keeps_every_cell(tmp_path, options, memory):
    def order(seed, at):
        out = tmp_path / (f"{at}.h5ad" if not options else at)
        done = run(cells(), out, shuffle=True, seed=seed, memory=memory, **options)
        found = CellCollection.from_anndata(out)
        back = pd.Index(found.cell_names).get_indexer(cells().obs_names)
        np.testing.assert_array_equal(found.batch(back).dense().numpy(), COUNTS)
        pd.testing.assert_frame_equal(found.obs.iloc[back][["kind", "depth"]],
                                      cells().obs[["kind", "depth"]])  # fmt: skip
        return found.cell_names.tolist(), done.digest

    first, again, other = order(1, "a"), order(1, "b"), order(2, "c")
    assert first == again
    assert first[0] != other[0]
    assert first[1] == other[1] == run(cells(), tmp_path / "d.h5ad").digest
    assert first[0] != cells().obs_names.tolist()


def test_what_anndata_and_zarr_read_is_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "CHUNK", 64)
    monkeypatch.setattr(targets, "CHUNKS_IN_SHARD", 4)
    run(cells(), tmp_path / "a.h5ad")
    run(cells(), tmp_path / "a.zarr")
    with h5py.File(tmp_path / "a.h5ad") as file:
        stored = file["X"]
        assert stored["data"].chunks is None
        assert (stored["indices"].dtype, stored["indptr"].dtype) == (np.int32, np.int64)
    assert json.loads((tmp_path / "a.zarr/zarr.json").read_text())["zarr_format"] == 3
    assert len(list((tmp_path / "a.zarr/X/data/c").iterdir())) > 3
    for found in (anndata.read_h5ad(tmp_path / "a.h5ad"), anndata.read_zarr(tmp_path / "a.zarr")):
        np.testing.assert_array_equal(found.X.toarray(), COUNTS)
        assert found.obs["donor"].astype(str).tolist() == cells().obs["donor"].tolist()
        assert found.uns["kernomics"]["digest"].startswith(f"{N}-")


def two() -> dict[str, anndata.AnnData]:
    a, b = cells()[:50, :40].copy(), cells()[50:, 10:].copy()
    b.obs = b.obs[["kind"]].assign(age=np.arange(70))
    return {"one": a, "two": b}


@pytest.mark.parametrize("shuffle", [False, True])
def test_several_files_keep_what_each_has_measured(tmp_path, shuffle):
    expected = concat({n: CellCollection.from_anndata(a) for n, a in two().items()})
    done = run(two(), tmp_path / "a", shards=2, shuffle=shuffle)
    found = CellCollection.from_anndata(tmp_path / "a")
    assert done.n_genes == 50
    back = pd.Index(found.cell_names).get_indexer(expected.cell_names)
    ours, theirs = found.batch(back), everything(expected)
    np.testing.assert_array_equal(ours.dense().numpy(), theirs.dense().numpy())
    np.testing.assert_array_equal(ours.library.numpy(), theirs.library.numpy())
    for cell in (0, 49, 50, 119):
        np.testing.assert_array_equal(
            ours.observed.mask[ours.observed.panel_id[cell]].numpy(),
            theirs.observed.mask[theirs.observed.panel_id[cell]].numpy(),
        )
    assert found.obs["dataset"].astype(str).value_counts().to_dict() == {"one": 50, "two": 70}
    assert found.obs["age"].isna().sum() == 50


def test_genes_that_are_common_keep_the_libraries_of_all(tmp_path):
    done = run(two(), tmp_path / "a.h5ad", join="common")
    found = CellCollection.from_anndata(tmp_path / "a.h5ad")
    assert found.genes.tolist() == [f"gene{i}" for i in range(10, 40)]
    assert done.n_genes == 30
    whole = concat({n: CellCollection.from_anndata(a) for n, a in two().items()})
    np.testing.assert_array_equal(everything(found).library.numpy(), whole.library)
    lonely = {"one": two()["one"][:, :10], "two": two()["two"][:, 30:]}
    with pytest.raises(DataError, match="shares none of its"):
        run(lonely, tmp_path / "b.h5ad", join="common")


def test_totals_over_more_genes_come_along(tmp_path):
    adata = cells()
    adata.raw = adata.copy()
    part = adata[:, :20].copy()
    run(part, tmp_path / "a.h5ad", empty_cells="keep")
    found = CellCollection.from_anndata(tmp_path / "a.h5ad", empty_cells="keep")
    np.testing.assert_array_equal(everything(found).library.numpy(), COUNTS.sum(axis=1))


# -- the digest ------------------------------------------------------------------------------------


def test_a_digest_tells_a_cell_lost_doubled_renamed_or_changed():
    matrix, names = csr(COUNTS[:9]), [f"c{i}" for i in range(9)]

    def digest(matrix, names, genes=range(50)):
        found = CellDigest(genes)
        found.add(Rows(matrix.indptr, matrix.indices, matrix.data), names)
        return str(found)

    whole = digest(matrix, names)
    order = [4, 2, 0, 8, 6, 7, 5, 3, 1]
    columns = np.random.default_rng(0).permutation(50)
    assert digest(matrix[order], [names[i] for i in order]) == whole
    assert digest(csr(matrix.toarray()[:, columns]), names, columns) == whole
    changed = matrix.copy()
    changed.data[7] += 1
    moved = matrix.copy()
    moved.indices[0] = np.setdiff1d(np.arange(50), matrix[0].indices)[0]
    others = [
        digest(changed, names),
        digest(moved, names),
        digest(matrix[:8], names[:8]),
        digest(sparse.vstack([matrix[:8], matrix[:1]]).tocsr(), [*names[:8], names[0]]),
        digest(matrix, [*names[:8], "other"]),
        digest(matrix[[1, 0, *range(2, 9)]], names),
    ]
    assert len({whole, *others}) == 7


# -- killed ----------------------------------------------------------------------------------------

STEPS = ("pwrite", "fsync", "fdatasync", "posix_fallocate", "truncate")


def _convert_until(step: int | None, given, out, options) -> None:
    """Convert, and be killed at the nth call that changes the disk."""
    if step is not None:
        left = [step]

        def dying(real):
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        for name in STEPS:
            setattr(os, name, dying(getattr(os, name)))
        Path.replace, Path.rename = dying(Path.replace), dying(Path.rename)
        Path.unlink, Path.rmdir = dying(Path.unlink), dying(Path.rmdir)
        Path.open = dying(Path.open)
    run(given, out, resume=True, **options)


def killed(given, out, options, step=None, after=None) -> bool:
    """Convert in another process until it is killed; tell whether it was."""
    child = multiprocessing.get_context("fork").Process(
        target=_convert_until, args=(step, given, out, options)
    )
    child.start()
    if after is not None:
        time.sleep(after)
        child.kill()
    child.join(120)
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
    return child.exitcode != 0


CASES = {
    "h5ad": ("b.h5ad", {"shuffle": True}),
    "zarr": ("b.zarr", {"shuffle": True}),
    "in order": ("b.h5ad", {}),
    "shards": ("b", {"shuffle": True, "shards": 3}),
    "shards of zarr": ("b", {"shards": 2, "format": "zarr"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_conversion_killed_at_any_step_and_resumed_writes_the_same_bytes(tmp_path, case):
    name, options = CASES[case]
    options = {**options, "memory": 2e-5}
    given = tmp_path / "a.h5ad"
    cells(lambda x: csr(x).tocsc()).write_h5ad(given)
    (tmp_path / "whole").mkdir()
    expected = run(given, tmp_path / "whole" / name, **options)
    wanted, out = bytes_of(tmp_path / "whole" / name), tmp_path / name
    draws, deaths = random.Random(case), 0
    for _ in range(2 if case == "shards" else 1):
        most = 40
        while killed(given, out, options, step=draws.randrange(most)):
            deaths += 1
            assert not out.exists() or bytes_of(out) == wanted
            most *= 2
        assert bytes_of(out) == wanted
        assert run(given, out, resume=True, **options) == type(expected)(
            out, expected.n_cells, expected.n_genes, expected.n_files, expected.digest
        )
        assert not list(tmp_path.glob(".*"))
        out.rename(tmp_path / f"done-{draws.random()}")
    assert deaths >= 2


@pytest.mark.slow
def test_a_conversion_killed_at_random_moments_and_resumed_writes_the_same_bytes(tmp_path):
    adata = make(csr(random_counts(6000, 300) + (np.arange(300) == 0)))
    given, options = tmp_path / "a.h5ad", {"shuffle": True, "shards": 3, "memory": 3e-4}
    adata.write_h5ad(given)
    begun = time.monotonic()
    run(given, tmp_path / "whole", **options)
    took, wanted = time.monotonic() - begun, bytes_of(tmp_path / "whole")
    draws, deaths = random.Random(0), 0
    for _ in range(6):
        out = tmp_path / "b"
        while killed(given, out, options, after=draws.uniform(0, 1.2 * took)):
            deaths += 1
        assert bytes_of(out) == wanted
        out.rename(tmp_path / f"done-{draws.random()}")
    assert deaths >= 3


def test_an_unfinished_conversion_is_neither_lost_nor_mixed_with_another(tmp_path):
    given, out = tmp_path / "a.h5ad", tmp_path / "b.h5ad"
    cells().write_h5ad(given)
    assert killed(given, out, {"memory": 1e-5}, step=25)
    with pytest.raises(ConfigError, match=r"unfinished conversion to .*resume=True, or begin anew"):
        run(given, out, memory=1e-5)
    with pytest.raises(ConfigError, match=r"begun otherwise: shuffle \(False then, True now\)"):
        run(given, out, memory=1e-5, shuffle=True, resume=True)
    with pytest.raises(ConfigError, match="give one"):
        run(given, out, memory=1e-5, overwrite=True, resume=True)
    run(given, out, shuffle=True, overwrite=True)
    with pytest.raises(ConfigError, match="already exists, and is not what this conversion writes"):
        run(given, out, resume=True)


# -- refused ---------------------------------------------------------------------------------------


def test_what_is_there_is_kept_unless_it_is_to_be_replaced(tmp_path):
    out = tmp_path / "b.h5ad"
    cells().write_h5ad(out)
    before = bytes_of(out)
    with pytest.raises(ConfigError, match=r"b.h5ad already exists; choose another out"):
        run(cells(), out)
    with pytest.raises(ConfigError, match="which is a source"):
        run(out, out, overwrite=True)
    bad = cells()
    bad.X = csr(COUNTS * 0.5)
    with pytest.raises(DataError, match="are not integers"):
        run(bad, out, overwrite=True)
    assert bytes_of(out) == before
    run(cells()[:30], out, overwrite=True)
    assert CellCollection.from_anndata(out).n_cells == 30
    run(cells()[:31], tmp_path / "c", shards=2)
    run(cells()[:32], tmp_path / "c", shards=1, overwrite=True)
    assert CellCollection.from_anndata(tmp_path / "c").n_cells == 32
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("b", {}, r"must end in .h5ad or .zarr; for a directory of files give shards=…"),
        ("b.h5ad", {"shards": 2}, "with shards=2 a directory is written"),
        ("b.h5ad", {"format": "zarr"}, "but format is 'zarr'"),
        ("b", {"shards": 0}, "shards is 0: it must be above 0"),
        ("b", {"shards": N + 1}, f"shards is {N + 1}, but there are {N} cells"),
        ("b.h5ad", {"memory": -1.0}, "memory is -1.0"),
        ("no/b.h5ad", {}, "there is no directory"),
    ],
)
def test_what_cannot_be_written_is_told_before_anything_is_read(tmp_path, out, options, message):
    with pytest.raises(ConfigError, match=message):
        run(cells(), tmp_path / out, **options)
    assert not list(tmp_path.iterdir())


def test_a_source_that_is_cut_short_or_of_another_type_leaves_nothing(tmp_path):
    given, out = tmp_path / "a.h5ad", tmp_path / "b.h5ad"
    cells().write_h5ad(given)
    whole = given.read_bytes()
    given.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot be opened: .* truncated"):
        run(given, out)
    with h5py.File(given, "w") as file:
        anndata.io.write_elem(file, "/", cells())
        del file["X/data"]
        file["X/data"] = np.array(["a"] * 3, dtype="S1")
    with pytest.raises(DataError, match=r"holds \|S1 values; counts must be integers or floats"):
        run(given, out)
    cells().write_h5ad(given)
    with h5py.File(given, "a") as file:
        data = file["X/data"][:-5]
        del file["X/data"]
        file["X/data"] = data
    with pytest.raises(DataError, match=r"its rows end at entry [\d,]+, and [\d,]+ are stored"):
        run(given, out)
    assert list(tmp_path.iterdir()) == [given]


def test_a_zarr_store_that_lacks_a_chunk_is_refused(tmp_path):
    write_zarr(cells(), tmp_path / "a.zarr", 3)
    (tmp_path / "a.zarr/X/data/c/0").unlink()
    with pytest.raises(DataError, match="lacks 1 of 1 chunks of X/data: copy or download"):
        CellCollection.from_anndata(tmp_path / "a.zarr")


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fdatasync"])
def test_a_full_disk_is_told_and_nothing_has_the_final_name(tmp_path, monkeypatch, call):
    real, calls = getattr(os, call), []

    def full(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    given, out = tmp_path / "a.h5ad", tmp_path / "b"
    cells().write_h5ad(given)
    options = {"shards": 3, "shuffle": True, "memory": 1e-5}
    monkeypatch.setattr(os, call, full)
    with pytest.raises(DataError, match=r"the disk of .* is full:.* GB are free; free some space"):
        run(given, out, **options)
    assert not out.exists()
    done = run(given, out, resume=True, **options)
    monkeypatch.undo()
    assert done.digest == run(given, tmp_path / "c.h5ad").digest


def test_what_was_written_is_read_back_before_it_is_trusted(tmp_path, monkeypatch):
    write = targets.Array.write

    def wrong(self, first, values):
        write(self, first, values + (values.dtype == np.float32))

    monkeypatch.setattr(targets.Array, "write", wrong)
    with pytest.raises(DataError, match="is not what was read: the digest of the cells is 120-"):
        run(cells(), tmp_path / "a.h5ad")
    assert not (tmp_path / "a.h5ad").exists()


def test_a_column_that_no_file_can_hold_is_named(tmp_path):
    adata = cells()
    adata.obs["mixed"] = pd.Series([1, "a", None] * 40, index=adata.obs_names, dtype=object)
    with pytest.raises(DataError, match=r"obs\['mixed'\] holds values of several kinds"):
        run(adata, tmp_path / "a.h5ad")


def test_a_file_by_genes_that_memory_does_not_hold_is_refused_with_the_command(
    tmp_path, monkeypatch
):
    SOURCES["csc"](tmp_path)
    monkeypatch.setattr("kernomics.data.readers.stored.free_memory", lambda: 1000)
    with pytest.raises(DataError, match=r"by genes \(CSC\).* kernomics convert '.*a.h5ad' --out"):
        CellCollection.from_anndata(tmp_path / "a.h5ad")
    assert run(tmp_path / "a.h5ad", tmp_path / "b.h5ad").n_cells == N


def test_parts_that_are_missing_or_changed_are_named(tmp_path):
    run(cells(), tmp_path / "a", shards=2)
    run(cells()[:7], tmp_path / "b", shards=1)
    (tmp_path / "a/part-00001.h5ad").rename(tmp_path / "c")
    with pytest.raises(DataError, match=r"part-00001.h5ad' is missing, one of the files of"):
        CellCollection.from_anndata(tmp_path / "a")
    (tmp_path / "b/part-00000.h5ad").rename(tmp_path / "a/part-00001.h5ad")
    with pytest.raises(DataError, match="has 7 cells instead of 60"):
        CellCollection.from_anndata(tmp_path / "a")


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_the_digest_and_its_own_options(tmp_path, capsys):
    for name, part in two().items():
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    line = ["convert", *(str(tmp_path / f"{name}.h5ad") for name in two()), "--quiet"]
    line += ["--out", str(tmp_path / "a"), "--shards", "2", "--shuffle", "--seed", "4"]
    assert main(line) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"cells      {N}   genes 50   files 2"
    assert told[1].startswith(f"digest     {N}-")
    assert told[2] == f"written    {tmp_path / 'a'}"
    assert main(line) == 2
    assert (
        "already exists; choose another out, or replace it with --overwrite"
        in capsys.readouterr().err
    )
    assert main([*line, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines() == told


def test_names_that_a_column_replaces_stay_in_a_column(tmp_path):
    adata = cells()
    adata.var["symbol"] = [f"S{i}" for i in range(50)]
    ids = adata.var_names.tolist()
    for name, column in ((None, "former_names"), ("gene_ids", "gene_ids"), ("length", "length_")):
        adata.var_names.name = name
        given = {"overwrite": True, "gene_names": "symbol"}
        run(adata, tmp_path / "a.h5ad", **given)
        found = anndata.read_h5ad(tmp_path / "a.h5ad")
        assert found.var_names.tolist() == adata.var["symbol"].tolist()
        assert found.var[column].tolist() == ids
        assert found.var["length"].tolist() == adata.var["length"].tolist()
    run(adata, tmp_path / "b.h5ad")
    assert anndata.read_h5ad(tmp_path / "b.h5ad").var.columns.tolist() == ["length", "symbol"]


@pytest.mark.parametrize(("key", "options"), [
    ("X", ""), ("layers/raw counts", " --layer 'raw counts'"), ("raw/X", " --use-raw"),
    ("mod/rna/X", " --modality rna"), ("mod/rna/layers/a/b", " --modality rna --layer a/b"),
])  # fmt: skip
def test_the_command_that_a_message_names_reads_the_same_counts(key, options):
    told = convert_command(Path("a.h5ad"), key)
    assert told == f"kernomics convert 'a.h5ad'{options} --out FILE.h5ad"


def test_a_layer_by_genes_is_converted_by_the_command_that_is_told(tmp_path):
    adata = cells()
    adata.layers["counts"] = sparse.csc_matrix(adata.X)
    adata.X = adata.X.multiply(0.5).tocsr()
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.warns(UserWarning, match="stored as CSC") as caught:
        before = CellCollection.from_anndata(tmp_path / "a.h5ad", layer="counts")
    command = re.search(r"kernomics (convert .*) --out FILE", str(caught[0].message))
    assert main([*shlex.split(command[1]), "--out", str(tmp_path / "b.h5ad"), "--quiet"]) == 0
    assert_same(everything(CellCollection.from_anndata(tmp_path / "b.h5ad")), everything(before))
