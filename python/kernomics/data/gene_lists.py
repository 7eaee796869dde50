"""Genes that a file lists: a name per line, or a table with a column of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kernomics.errors import DataError, closest

TABLES = {".csv": ",", ".tsv": "\t"}


def read_genes(path: str | Path, *, named: bool = False) -> list[str]:
    """Read a list of genes: of a table the column ``gene``, or else, unless `named`, the first."""
    path = Path(path)
    separator = TABLES.get(path.suffix.lower())
    try:
        if separator is None:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            genes = [line.partition("#")[0].strip() for line in lines]
        else:
            table = pd.read_csv(
                path, sep=separator, dtype=str, encoding="utf-8-sig", keep_default_na=False
            )
            columns = list(table)
            genes = [gene.strip() for gene in table["gene" if "gene" in table else columns[0]]]
    except OSError as error:
        raise DataError(f"{path} cannot be read as a list of genes: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, or no table
        raise DataError(
            f"{path} cannot be read as a list of genes, one per line: {error}"
        ) from error
    if named and separator is not None and "gene" not in columns:
        raise DataError(f"{path} has no column 'gene'; {closest('gene', columns)}")
    return [gene for gene in genes if gene]
