"""The benchmark of reading compares what it times."""

import pytest

from bench import data


def test_both_readers_are_compared_and_timed(tmp_path):
    data.make_file(tmp_path / "a.h5ad", 600)
    records = data.measure(tmp_path / "a.h5ad", 600, rounds=1)
    assert [(r["provider"], r["share_of_disk"] is None) for r in records] == [
        (name, state == "warm") for state in ("warm", "cold") for name in data.PROVIDERS
    ]
    assert all(r["tokens_per_s"] > r["cells_per_s"] > 0 for r in records)


def test_batches_that_differ_are_not_timed(tmp_path, monkeypatch):
    def wrong(path, sampler):
        def epoch(i):
            for indptr, indices, values in data.ours(path, sampler)(i):
                yield indptr, indices, values + 1

        return epoch

    monkeypatch.setitem(data.PROVIDERS, "wrong", wrong)
    data.make_file(tmp_path / "a.h5ad", 300)
    with pytest.raises(AssertionError):
        data.measure(tmp_path / "a.h5ad", 300, rounds=1)


def test_the_docs_show_the_committed_results() -> None:
    from bench.disk_table import pages

    for path, made in pages().items():
        assert path.read_text() == made, f"{path.name}: run python -m bench.disk_table"
