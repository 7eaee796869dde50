"""What is handed over as cells is read rightly, or refused in a sentence."""

import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from example_cells import assert_same, csr, make, random_counts
from scipy import sparse

from kernomics import tl
from kernomics.data import CellCollection
from kernomics.data.readers.contents import ObjectContents
from kernomics.data.readers.inputs import anndata_of, contents_of
from kernomics.data.readers.sources import memory_source
from kernomics.errors import ConfigError, DataError
from kernomics.models import YOTO, Panel, TxFM
from kernomics.models.base import as_collection
from kernomics.models.tasks import Task
from kernomics.models.yoto.network import PanelNetwork

COUNTS = random_counts() + 1


def read(given, **options) -> CellCollection:
    return CellCollection.from_anndata(given, **options)


def everything(cells: CellCollection):
    return cells.batch(np.arange(cells.n_cells))


def corpus() -> anndata.AnnData:
    """As CELLxGENE has it: log values in X, counts in raw, Ensembl ids, symbols in var."""
    adata = make(csr(COUNTS), kind=pd.Categorical(["a", "b"] * 20))
    adata.var_names = [f"ENSG{i:011d}" for i in range(30)]
    adata.var["feature_name"] = [f"SYM{i}" for i in range(30)]
    adata.raw = adata.copy()
    adata.X = csr(np.log1p(COUNTS))
    return adata


# -- refused ---------------------------------------------------------------------------------------

WRONG = {
    "None": (None, "None was given where an AnnData, .* is wanted"),
    "matrix": (csr(COUNTS), r"a csr_matrix of shape 40 × 30 was given .* pass anndata.AnnData\(X"),
    "array": (COUNTS, r"an ndarray of shape 40 × 30 was given .* pass anndata.AnnData\(X"),
    "table": (pd.DataFrame(COUNTS), r"a DataFrame of shape 40 × 30 .*anndata.AnnData\(table\)"),
    "list": ([make(COUNTS)] * 2, "a list of 2 was given .* kernomics.data.concat"),
    "raw": (corpus().raw, "a Raw of shape 40 × 30 .* pass the AnnData itself, with use_raw=True"),
    "number": (3, "an int was given where an AnnData"),
}


@pytest.mark.parametrize("entrance", [read, YOTO, TxFM])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_anndata_is_named_with_what_is_wanted(entrance, name):
    given, message = WRONG[name]
    with pytest.raises(DataError, match=message):
        entrance(given)


@pytest.mark.parametrize(
    "function",
    [
        lambda given: tl.select_genes(given, "kind", 2),
        lambda given: tl.evaluate_panel(given, ["gene1"], "kind"),
        lambda given: tl.panel_redundancy(given, ["gene1"]),
        lambda given: tl.panel_contributions(given, object.__new__(Panel)),
        lambda given: tl.panel_stability(given, "kind", 2),
        lambda given: tl.panel_curve(given, "kind", [2]),
        lambda given: tl.represent_cells(given, "nowhere"),
        lambda given: tl.evaluate_perturbations(given, perturbation_key="a", control="b"),
    ],
)
def test_tl_refuses_a_path_before_anything_is_done(function):
    with pytest.raises(DataError, match=r"the path 'a.h5ad' was given where kernomics\.tl\.\w+ wa"):
        function("a.h5ad")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"gene,1\n", "is not an HDF5 file.*read a table with anndata.io.read_csv"),
        ("a.h5ad", b"", "is empty"),
        ("a.h5ad", b"nothing", "is not an HDF5 file"),
    ],
)
def test_a_file_of_another_kind_is_named_with_its_reader(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_a_folder_that_is_no_zarr_store_and_files_of_cell_ranger_are_told(tmp_path):
    with pytest.raises(DataError, match="is a directory, not a zarr store"):
        read(tmp_path)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("matrix")
    with pytest.raises(DataError, match=r"it holds \['matrix'\]; .* scanpy.read_10x_h5"):
        read(tmp_path / "a.h5")


def test_a_truncated_file_is_said_to_be_cut_short(tmp_path):
    make(csr(COUNTS)).write_h5ad(tmp_path / "a.h5ad")
    whole = (tmp_path / "a.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        DataError, match=r"cut.h5ad' is an HDF5 file that cannot be opened: .* truncated"
    ):
        read(tmp_path / "cut.h5ad")


# -- other containers ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, csr])
def test_a_zarr_store_gives_what_its_anndata_gives(tmp_path, form):
    adata = make(form(COUNTS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata, on the format of zarr
        adata.write_zarr(tmp_path / "a.zarr")
    found = read(str(tmp_path / "a.zarr"))
    assert_same(everything(found), everything(read(adata)))
    assert found.genes.tolist() == adata.var_names.tolist()


def write_before_07(path, with_raw=False) -> None:
    matrix = csr(COUNTS)
    obs = np.empty(40, [("index", "S10"), ("kind", "i1")])
    obs["index"] = [f"cell{i}".encode() for i in range(40)]
    obs["kind"] = np.arange(40) % 2
    var = np.empty(30, [("index", "S10")])
    var["index"] = [f"gene{i}".encode() for i in range(30)]
    with h5py.File(path, "w") as file:
        for name in ("X", "raw.X") if with_raw else ("X",):
            group = file.create_group(name)
            group["data"] = matrix.data if name == "raw.X" or not with_raw else matrix.data * 0.5
            group["indices"], group["indptr"] = matrix.indices, matrix.indptr
            group.attrs["h5sparse_format"] = b"csr"
            group.attrs["h5sparse_shape"] = np.array(matrix.shape)
        file["obs"], file["var"] = obs, var
        if with_raw:
            file["raw.var"] = var
        file.create_group("uns")["kind_categories"] = np.array([b"a", b"b"])


@pytest.mark.parametrize("use_raw", [False, True])
def test_a_file_from_before_anndata_0_7_is_read(tmp_path, use_raw):
    write_before_07(tmp_path / "old.h5ad", with_raw=use_raw)
    found = read(tmp_path / "old.h5ad", labels_key="kind", use_raw=use_raw)
    assert_same(everything(found.with_labels({})), everything(read(make(csr(COUNTS)))))
    assert found.cell_names.tolist()[:2] == ["cell0", "cell1"]
    assert found.labels["kind"].categories == ("a", "b")
    assert found.labels["kind"].values.tolist() == [0, 1] * 20


class MuData:
    """Stands in for mudata's class, which is recognised by its name and package."""

    def __init__(self, mod, obs):
        self.mod, self.obs = mod, obs


MuData.__module__ = "mudata._core.mudata"


def two_modalities() -> MuData:
    rna, atac = make(csr(COUNTS)), make(csr(COUNTS[:, :5]))
    obs = pd.DataFrame({"kind": ["a", "b"] * 20}, index=rna.obs_names)
    return MuData({"rna": rna, "atac": atac}, obs)


def write_h5mu(mdata: MuData, path) -> None:
    with h5py.File(path, "w") as file:
        anndata.io.write_elem(file, "obs", mdata.obs)
        for name, adata in mdata.mod.items():
            anndata.io.write_elem(file, f"mod/{name}", adata)


@pytest.mark.parametrize("in_file", [False, True])
def test_a_modality_is_chosen_by_name_and_has_the_common_obs(tmp_path, in_file):
    given = two_modalities()
    if in_file:
        write_h5mu(given, tmp_path / "a.h5mu")
        given = tmp_path / "a.h5mu"
    found = read(given, modality="rna", labels_key="kind")
    assert found.on_disk == in_file
    assert_same(everything(found.with_labels({})), everything(read(make(csr(COUNTS)))))
    assert found.labels["kind"].values.tolist() == [0, 1] * 20
    assert anndata_of(given, "atac").shape == (40, 5)
    with pytest.raises(DataError, match=r"holds 2 modalities; .* modality=…: '(atac|rna)', "):
        read(given)
    with pytest.raises(DataError, match="has no modality 'rn'; closest: 'rna'"):
        read(given, modality="rn")


def test_modality_beside_an_anndata_is_refused(tmp_path):
    make(csr(COUNTS)).write_h5ad(tmp_path / "a.h5ad")
    for given in (make(csr(COUNTS)), tmp_path / "a.h5ad"):
        with pytest.raises(ConfigError, match=r"modality is 'rna', but .* leave modality out"):
            read(given, modality="rna")


class Lazy:
    """Stands in for a dask array: blocks of 7 rows, computed on request."""

    ndim = 2

    def __init__(self, matrix, asked):
        self.matrix, self.asked = matrix, asked
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self.chunks = ((7,) * 5 + (5,), (30,))

    def __dask_graph__(self):
        return {}

    def __getitem__(self, rows):
        return Lazy(self.matrix[rows], self.asked)

    def compute(self):
        self.asked.append(self.shape[0])
        return self.matrix


@pytest.mark.parametrize("form", [np.asarray, csr])
def test_a_dask_array_is_computed_block_by_block(form):
    asked = []
    adata = make(csr(COUNTS))
    adata._X = Lazy(form(COUNTS), asked)
    found = read(adata)
    assert asked == [7] * 5 + [5]
    assert_same(everything(found), everything(read(make(csr(COUNTS)))))
    source = memory_source(Lazy(form(COUNTS), asked), "X")
    np.testing.assert_array_equal(source.read(np.array([3, 1])).values, COUNTS[[3, 1]].reshape(-1))


# -- where counts are ------------------------------------------------------------------------------


@pytest.mark.parametrize("given_as", ["memory", "view", "backed", "backed view", "path"])
def test_counts_of_raw_are_read_with_their_own_genes(tmp_path, given_as):
    adata = corpus()
    adata = adata[:, :12].copy()  # raw keeps all 30 genes
    assert adata.raw.n_vars == 30
    rows = np.arange(40)
    if given_as != "memory":
        adata.write_h5ad(tmp_path / "a.h5ad")
    if given_as.startswith("backed"):
        adata = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    if given_as.endswith("view"):
        rows = np.arange(5, 20)
        adata = adata[5:20]
    given = tmp_path / "a.h5ad" if given_as == "path" else adata
    found = read(given, use_raw=True, gene_names="feature_name")
    assert found.genes.tolist() == [f"SYM{i}" for i in range(30)]
    np.testing.assert_array_equal(everything(found).dense().numpy(), COUNTS[rows])
    assert not found.library_is_subset
    with pytest.raises(DataError, match=r"adata.raw does: pass use_raw=True"):
        read(given)


def test_use_raw_without_raw_and_beside_a_layer_is_refused():
    adata = make(csr(COUNTS))
    adata.layers["counts"] = csr(COUNTS)
    with pytest.raises(DataError, match=r"has no raw for .* name a layer: closest: 'counts'"):
        read(adata, use_raw=True)
    with pytest.raises(ConfigError, match="layer='counts' and use_raw=True name two sources"):
        read(adata, use_raw=True, layer="counts")


def test_raw_that_holds_no_counts_points_to_x():
    adata = make(csr(COUNTS))
    adata.raw = make(csr(COUNTS * 0.5))
    with pytest.raises(DataError, match=r"^raw does not hold counts.*; X does: leave use_raw out"):
        read(adata, use_raw=True)


def test_names_that_genes_share_have_their_ids_added():
    adata = corpus()
    adata.var["feature_name"] = ["A", "B", "A", np.nan, *(f"S{i}" for i in range(4, 30))]
    with pytest.warns(UserWarning, match=r"1 of 30 genes have no .*2 of 30 genes share a name"):
        found = read(adata, layer=None, use_raw=False, gene_names="feature_name", check=False)
    assert found.genes.tolist()[:5] == [
        "A_ENSG00000000000", "B", "A_ENSG00000000002", "ENSG00000000003", "S4",
    ]  # fmt: skip


def test_a_column_of_gene_names_that_var_lacks_is_told():
    with pytest.raises(DataError, match=r"gene_names is 'feature', .* closest: 'feature_name'"):
        read(corpus(), gene_names="feature", use_raw=True)


def test_results_of_a_selection_by_symbols_land_on_the_rows_of_var():
    adata = corpus()
    adata.X[::2, 3] = 0  # nothing is read of X
    labels = adata.obs["kind"].to_numpy() == "a"
    counts = COUNTS.copy()
    counts[labels, 4] += 40
    raw = make(csr(counts))
    raw.var = adata.raw.var
    adata.raw = raw
    adata = adata[:, ::-1].copy()
    tl.select_genes(
        adata, "kind", 2, use_raw=True, gene_names="feature_name", max_epochs=40, progress=False
    )
    assert "SYM4" in adata.uns["yoto"]["genes"].tolist()
    chosen = adata.var["feature_name"][adata.var["yoto_selected"]]
    assert set(chosen) == set(adata.uns["yoto"]["genes"])
    assert adata.uns["yoto"]["params"]["use_raw"] is True


@pytest.mark.parametrize("on_disk", [False, True])
def test_fractions_are_taken_when_allowed_and_said(tmp_path, on_disk):
    adata = make(csr(COUNTS * 13.7))
    given = adata
    if on_disk:
        given = tmp_path / "a.h5ad"
        adata.write_h5ad(given)
    with pytest.raises(DataError, match=r"are not integers.*pass allow_fractions=True$"):
        read(given)
    found = read(given, allow_fractions=True)
    assert found.fractional
    assert "fractional counts" in repr(found)
    np.testing.assert_array_equal(everything(found).dense().numpy(), np.float32(COUNTS * 13.7))
    assert not read(make(csr(COUNTS)), allow_fractions=True).fractional


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "NaN"), (-0.5, "negative"), (np.inf, "inf")])
def test_other_faults_than_fractions_are_still_refused(value, fault):
    counts = COUNTS * 13.7
    counts[3, 4] = value
    with pytest.raises(DataError, match=f"1 of 1,200 non-zeros are {fault}"):
        read(make(csr(counts)), allow_fractions=True)


def test_logarithms_taken_as_fractions_are_warned_of():
    with pytest.warns(UserWarning, match=r"fractions of at most 1\.\d+, which look log-normalised"):
        read(make(csr(np.log1p(COUNTS))), allow_fractions=True)


# -- names and features ----------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [np.nan, None, "", "nan"])
@pytest.mark.parametrize("what", ["gene", "cell"])
def test_missing_names_are_counted_and_the_first_is_placed(missing, what):
    adata = make(csr(COUNTS))
    table = adata.var if what == "gene" else adata.obs
    names = [*table.index]
    names[4] = names[6] = missing
    table.index = pd.Index(names, dtype=object)
    with pytest.raises(DataError, match=rf"^2 of \d0 {what} names .* missing .* position 4, count"):
        read(adata)


def with_antibodies() -> anndata.AnnData:
    adata = make(csr(COUNTS))
    adata.var["feature_types"] = ["Gene Expression"] * 27 + ["Antibody Capture"] * 3
    return adata


@pytest.mark.parametrize("given_as", ["memory", "path", "raw"])
def test_features_that_are_no_genes_are_left_out_with_their_number(tmp_path, given_as):
    given, options = with_antibodies(), {}
    if given_as == "raw":
        given.raw = given.copy()
        options["use_raw"] = True
    if given_as == "path":
        given.write_h5ad(tmp_path / "a.h5ad")
        given = tmp_path / "a.h5ad"
    message = (
        r"3 of 30 features are not genes .* 3 of type 'Antibody Capture'; .* all_features=True"
    )
    with pytest.warns(UserWarning, match=message):
        found = read(given, **options)
    assert found.genes.tolist() == [f"gene{i}" for i in range(27)]
    np.testing.assert_array_equal(everything(found).dense().numpy(), COUNTS[:, :27])
    np.testing.assert_array_equal(found.library, COUNTS[:, :27].sum(axis=1))
    assert read(given, all_features=True, **options).n_genes == 30


def test_features_of_which_none_is_a_gene_are_refused():
    adata = make(csr(COUNTS))
    adata.var["feature_types"] = "Peaks"
    with pytest.raises(DataError, match=r"none of the 30 features is a gene .* all_features=True"):
        read(adata)
    adata.var["feature_types"] = "protein_coding"  # not a kind of Cell Ranger's
    assert read(adata).n_genes == 30


# -- collections -----------------------------------------------------------------------------------


def labelled() -> CellCollection:
    adata = make(csr(COUNTS), kind=["a", "b"] * 20, donor=["x"] * 20 + ["y"] * 20)
    return read(adata, labels_key=["kind", "donor"])


def test_labels_that_a_collection_has_may_be_named_again():
    cells = labelled()
    assert as_collection(cells, {}) is cells
    assert as_collection(cells, {}, labels_key=["kind", "donor"]) is cells
    assert list(as_collection(cells, {}, labels_key="donor").labels) == ["donor"]
    assert [task.name for task in YOTO(cells, "kind", 2).tasks] == ["kind"]


def test_labels_and_options_that_a_collection_was_not_read_with_are_refused():
    with pytest.raises(ConfigError, match=r"labels_key names 'age', .* with 'kind', 'donor'"):
        YOTO(labelled(), "age", 2)
    with pytest.raises(ConfigError, match="use_raw was given with a CellCollection"):
        TxFM(labelled(), use_raw=True)
    network = PanelNetwork(1, [Task("kind", "categorical", ("a", "b"))], (2,), "lognorm")
    panel = Panel(network, ["g"], ["g"], [1.0], {})
    with pytest.raises(ConfigError, match="layer was given with a CellCollection"):
        panel.read(labelled(), layer="counts")
    as_collection(labelled(), {"layer": None, "use_raw": False})  # nothing was asked for


def test_an_anndata_is_never_written_to():
    adata = with_antibodies()
    before = adata.copy()
    contents = contents_of(adata)
    assert isinstance(contents, ObjectContents)
    with pytest.warns(UserWarning, match="3 of 30 features"):
        read(adata)
    pd.testing.assert_frame_equal(adata.var, before.var)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0
    assert sparse.issparse(adata.X)
