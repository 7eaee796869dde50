"""Cells that are read from a database by three methods, wherever kernomics takes an AnnData.

A table of counts, a row for each cell and gene, is what many databases hold; TileDB-SOMA is read in
the same way. Nothing but the cells of a batch is ever in memory:

    model = kernomics.models.YOTO(Database("cells.sqlite"), labels_key="cell_type", n_genes=64)
    kernomics.data.convert(Database("cells.sqlite"), "cells.h5ad", shuffle=True)

The second makes a file of them, which is read many times faster.
"""

import sqlite3

import numpy as np
import pandas as pd
from scipy import sparse


class Database:
    """A reader of the tables cells (row, name, cell_type), genes and counts (row, gene, n)."""

    def __init__(self, path):
        self.path = path

    def _all(self, query, *values):
        with sqlite3.connect(self.path) as database:  # one for each call: batches come from threads
            return database.execute(query, values).fetchall()

    def genes(self):
        """Return the names of the genes."""
        return [name for (name,) in self._all("SELECT name FROM genes ORDER BY gene")]

    def obs(self):
        """Return the table of cells, whose index holds their names."""
        cells = self._all("SELECT name, cell_type FROM cells ORDER BY row")
        return pd.DataFrame(cells, columns=["name", "cell_type"]).set_index("name")

    def read(self, rows):
        """Return the counts of some cells, in the order asked for."""
        asked = np.unique(rows)
        marks = ",".join("?" * len(asked))
        found = self._all(
            f"SELECT row, gene, n FROM counts WHERE row IN ({marks})", *asked.tolist()
        )
        row, gene, n = np.array(found, np.int64).reshape(-1, 3).T
        shape = (len(asked), len(self.genes()))
        counts = sparse.csr_matrix((n, (np.searchsorted(asked, row), gene)), shape)
        return counts[np.searchsorted(asked, rows)]


def fill(path, counts, genes, cells, cell_types):
    """Make a database of a dense matrix of counts."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE genes (gene INTEGER PRIMARY KEY, name TEXT)")
        database.execute("CREATE TABLE cells (row INTEGER PRIMARY KEY, name TEXT, cell_type TEXT)")
        database.execute("CREATE TABLE counts (row INTEGER, gene INTEGER, n INTEGER)")
        database.executemany("INSERT INTO genes VALUES (?, ?)", enumerate(genes))
        rows = zip(range(len(cells)), cells, cell_types, strict=True)
        database.executemany("INSERT INTO cells VALUES (?, ?, ?)", rows)
        entries = ((int(i), int(j), int(counts[i, j])) for i, j in np.argwhere(counts))
        database.executemany("INSERT INTO counts VALUES (?, ?, ?)", entries)
        database.execute("CREATE INDEX by_row ON counts (row)")
