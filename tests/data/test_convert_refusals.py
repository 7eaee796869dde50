"""What a conversion refuses, before it reads or deletes anything; what it keeps of the tables."""

import anndata
import numpy as np
import pandas as pd
import pytest
from example_cells import csr, make, random_counts

from kernomics.data import CellCollection, convert
from kernomics.errors import ConfigError, DataError

COUNTS = random_counts(60, 20, 3)
COUNTS[:, 0] += 1
ALL = np.arange(60)


def write(path):
    make(csr(COUNTS)).write_h5ad(path)
    return path


# -- what a conversion must not delete -------------------------------------------------------------


def test_nothing_but_cells_is_replaced_and_no_source(tmp_path):
    (tmp_path / "box").mkdir()
    source = write(tmp_path / "box/a.h5ad")
    with pytest.raises(ConfigError, match="one would lie in the other"):
        convert(source, tmp_path / "box", shards=2, overwrite=True, progress=False)
    other = write(tmp_path / "b.h5ad")
    with pytest.raises(ConfigError, match=r"would delete the directory .* first 'a.h5ad'"):
        convert(other, tmp_path / "box", shards=2, overwrite=True, progress=False)
    backed = anndata.read_h5ad(source, backed="r")
    with pytest.raises(ConfigError, match="which is a source"):
        convert(backed, source, overwrite=True, progress=False)
    assert [path.name for path in (tmp_path / "box").iterdir()] == ["a.h5ad"]
    convert(other, tmp_path / "c", shards=2, progress=False)
    convert(other, tmp_path / "c", shards=3, overwrite=True, progress=False)
    assert CellCollection.from_anndata(tmp_path / "c").n_cells == 60


def test_a_file_that_came_meanwhile_is_kept(tmp_path, monkeypatch):
    from kernomics.data.conversion import convert as module

    def and_another(*given):
        (tmp_path / "a.h5ad").write_text("mine")
        return read_back(*given)

    read_back = module.read_back
    monkeypatch.setattr(module, "read_back", and_another)
    with pytest.raises(ConfigError, match="was made by something else"):
        convert(make(csr(COUNTS)), tmp_path / "a.h5ad", progress=False)
    assert (tmp_path / "a.h5ad").read_text() == "mine"
    (tmp_path / "a.h5ad").unlink()
    monkeypatch.undo()
    found = convert(make(csr(COUNTS)), tmp_path / "a.h5ad", resume=True, progress=False)
    assert found.n_cells == 60


@pytest.mark.parametrize("name", ["x" * 252 + ".h5ad", "x" * 240 + ".h5ad", "a\0.h5ad"])
def test_a_name_that_no_file_can_have_is_told(tmp_path, name):
    with pytest.raises(ConfigError, match=r"which cannot be written"):
        convert(make(csr(COUNTS)), tmp_path / name, progress=False)


@pytest.mark.parametrize("memory", [1e-12, 1e300])
def test_any_memory_gives_the_same_cells(tmp_path, memory):
    options = {"shuffle": True, "progress": False}
    convert(make(csr(COUNTS)), tmp_path / "a.h5ad", memory=memory, **options)
    convert(make(csr(COUNTS)), tmp_path / "b.h5ad", **options)
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


# -- tables ----------------------------------------------------------------------------------------


def test_columns_keep_their_last_digit_and_what_is_missing(tmp_path):
    adata = make(csr(COUNTS))
    big = [2**60 + i for i in range(60)]
    adata.obs["whole"] = pd.Series(big, index=adata.obs_names, dtype=object)
    adata.obs["some"] = pd.Series([None, *big[1:]], index=adata.obs_names, dtype=object)
    adata.obs["text"] = pd.array(["a", None, "b"] * 20, dtype="string")
    adata.obs["day"] = pd.to_datetime(["2024-01-02", None] * 30)
    convert(adata, tmp_path / "a.h5ad", progress=False)
    obs = anndata.read_h5ad(tmp_path / "a.h5ad").obs
    assert obs["whole"].tolist() == big
    assert obs["some"].isna().tolist() == [True] + [False] * 59
    assert obs["some"].tolist()[1:] == big[1:]
    assert obs["text"].isna().sum() == 20
    assert obs["text"].cat.categories.tolist() == ["a", "b"]
    assert obs["day"].cat.categories.tolist() == ["2024-01-02"]
    assert obs["day"].isna().sum() == 30


def test_integers_beyond_64_bits_and_columns_of_one_name_are_told(tmp_path):
    adata = make(csr(COUNTS))
    adata.obs["big"] = pd.Series([2**70] * 60, index=adata.obs_names, dtype=object)
    with pytest.raises(DataError, match=r"obs\['big'\] holds integers beyond 64 bits"):
        convert(adata, tmp_path / "a.h5ad", progress=False)
    adata.obs = pd.DataFrame({1: ALL, "1": ALL}, index=adata.obs_names)
    with pytest.raises(DataError, match="obs has 1 columns whose name another has, first '1'"):
        convert(adata, tmp_path / "a.h5ad", progress=False)
    assert not list(tmp_path.iterdir())  # told before the counts are read, so nothing is left


def test_a_conversion_of_other_cells_in_memory_is_not_continued(tmp_path, monkeypatch):
    from kernomics.data.conversion import convert as module

    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "read_back", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(make(csr(COUNTS)), tmp_path / "a.h5ad", progress=False)
    monkeypatch.undo()
    other = make(csr(COUNTS))
    other.obs_names = [f"other {i}" for i in range(60)]
    with pytest.raises(ConfigError, match="was begun otherwise: cells"):
        convert(other, tmp_path / "a.h5ad", resume=True, progress=False)


def test_a_directory_that_was_changed_below_is_another_source(tmp_path, monkeypatch):
    from kernomics.data.conversion import convert as module

    def stop(*given):
        raise KeyboardInterrupt

    convert(make(csr(COUNTS)), tmp_path / "a", shards=2, progress=False)
    monkeypatch.setattr(module, "read_back", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "a", tmp_path / "b.h5ad", progress=False)
    monkeypatch.undo()
    with (tmp_path / "a/part-00001.h5ad").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ConfigError, match="was begun otherwise: sources"):
        convert(tmp_path / "a", tmp_path / "b.h5ad", resume=True, progress=False)


def test_two_conversions_to_one_place_do_not_mix(tmp_path):
    from kernomics.data.conversion.work import Work

    given, out = make(csr(random_counts(20, 8) + 1)), tmp_path / "out"
    locked = []

    def convert_meanwhile(self, *args, **kwargs):
        found = hold(self, *args, **kwargs)
        if not locked:  # the first has the place
            locked.append(True)
            with pytest.raises(ConfigError, match="another process is converting to"):
                convert(given, out, shards=2, progress=False, resume=True)
        return found

    hold = Work._hold
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "_hold", convert_meanwhile)
        assert convert(given, out, shards=2, progress=False).n_cells == 20
    assert locked
    assert CellCollection.from_anndata(out).n_cells == 20
