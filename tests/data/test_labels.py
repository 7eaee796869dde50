import datetime
import json
import warnings

import numpy as np
import pandas as pd
import pytest

from kernomics.data import Labels
from kernomics.data.labels import read_labels
from kernomics.errors import ConfigError, DataError


def read(values, **keys) -> Labels:
    return Labels.from_series(pd.Series(values), "x", **keys)


@pytest.mark.parametrize(
    ("values", "codes", "categories"),
    [
        (["b", "a", None, "b"], [1, 0, -1, 1], ("a", "b")),
        (pd.Categorical(["b", "a", None], categories=["b", "z", "a"]), [0, 1, -1], ("b", "a")),
        (pd.Categorical([10, 2, 10]), [1, 0, 1], ("2", "10")),
        ([True, False, True], [1, 0, 1], ("False", "True")),
        (pd.array(["b", None, "a"], dtype="string"), [1, -1, 0], ("a", "b")),
        (pd.array([True, None], dtype="boolean"), [0, -1], ("True",)),
        (np.array([1, "a", np.nan, 1], dtype=object), [0, 1, -1, 0], ("1", "a")),
    ],
)
def test_words_and_truth_values_become_classes(values, codes, categories):
    label = read(values)
    assert label.kind == "categorical"
    assert label.values.tolist() == codes
    assert label.values.dtype == np.int64
    assert label.categories == categories


@pytest.mark.parametrize(
    "values", [[1.5, np.nan, -2.0], pd.array([1.5, None, -2.0], dtype="Float32")]
)
def test_numbers_become_a_continuous_label(values):
    label = read(values)
    assert label.kind == "continuous"
    assert label.values.dtype == np.float32
    assert np.array_equal(label.values, [1.5, np.nan, -2], equal_nan=True)
    assert label.labelled.tolist() == [True, False, True]
    assert label.categories == ()
    assert label.n_classes == 0
    assert label.counts() == {}


FEW = [
    [10, 2, 10],
    np.array([10, 2, 10], np.uint8),
    [10.0, 2.0, 10.0],
    pd.array([10, 2, 10], dtype="Int64"),
    pd.array([10, 2, 10], dtype="Float32"),
    np.array([10, 2, 10], dtype=object),
    np.array([10, 2.0, 10], dtype=object),
]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("values", FEW)
def test_few_integers_are_classes_in_every_type_with_and_without_missing_ones(values, missing):
    series = pd.Series(values)
    if missing:
        series = series.reindex(range(4))  # an int64 column becomes float64, the others keep type
    said = (
        r"'x' holds integers of 2 distinct values, which are treated as classes: pass label_kinds"
    )
    with pytest.warns(UserWarning, match=said):
        label = Labels.from_series(series, "x")
    assert label.kind == "categorical"
    assert label.categories == ("2", "10")
    assert label.values.tolist() == [1, 0, 1] + [-1] * missing
    assert label.description == (
        "2 classes (numbers treated as classes; label_kinds={'x': 'continuous'} "
        "(--label-kinds x=continuous) for a regression)"
    )
    numbers = Labels.from_series(series, "x", kind="continuous")
    assert np.array_equal(numbers.values, [10, 2, 10] + [np.nan] * missing, equal_nan=True)
    named = Labels.from_series(series, "x", kind="categorical")  # no warning
    assert named.categories == ("2", "10")
    assert named.description == "2 classes"


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    "values",
    [["10", "2", "10"], pd.Categorical([10, 2, 10]), pd.Categorical([10.0, 2.0, 10.0])],
)
def test_words_of_digits_and_categories_are_the_same_classes(values, missing):
    label = Labels.from_series(pd.Series(values).reindex(range(3 + missing)), "x")
    assert sorted(label.categories) == ["10", "2"]
    assert [label.categories[code] for code in label.values[:3]] == ["10", "2", "10"]
    assert label.description == "2 classes"


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("dtype", ["int64", "float64", "Int64", "Float64", object])
def test_many_integers_are_numbers_and_it_says_so(dtype, missing):
    label = Labels.from_series(
        pd.Series(np.arange(21), dtype=dtype).reindex(range(21 + missing)), "x"
    )
    assert label.kind == "continuous"
    assert label.values[:21].tolist() == list(range(21))
    assert label.description == (
        "a number (integers of 21 values; label_kinds={'x': 'categorical'} "
        "(--label-kinds x=categorical) for classes)"
    )


@pytest.mark.parametrize("dtype", ["float64", "Float64", object])
def test_fractions_are_numbers_however_few(dtype):
    label = Labels.from_series(pd.Series([0.5, 1, None], dtype=dtype), "x")
    assert label.kind == "continuous"
    assert label.description == "a number"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pd.to_datetime(["2020-01-01", None]), "'x' holds dates, .* 'categorical'"),
        (pd.to_datetime(["2020-01-01"]).tz_localize("UTC"), "'x' holds dates"),
        ([datetime.date(2020, 1, 1), None], "'x' holds dates"),
        (pd.period_range("2020", periods=2, freq="Y"), "'x' holds dates"),
        (pd.to_timedelta([1, None], unit="D"), "'x' holds durations or times"),
        ([1 + 2j, 3], "'x' holds complex numbers"),
    ],
)
def test_what_is_no_number_without_a_unit_is_refused(values, message):
    with pytest.raises(DataError, match=message):
        read(values)


def test_dates_can_be_classes_if_that_is_said():
    assert read(pd.to_datetime(["2020-01-01", "2021-01-01"]), kind="categorical").n_classes == 2


def test_words_that_are_numbers_can_be_made_continuous():
    assert read(["1.5", None, "2"], kind="continuous").values[[0, 2]].tolist() == [1.5, 2]
    with pytest.raises(DataError, match=r"'x' cannot be read as numbers.*old"):
        read(["1.5", "old"], kind="continuous")


def test_an_infinite_number_is_refused_and_located():
    with pytest.raises(DataError, match="'x' is infinite in 2 of 3 cells, first in row 1"):
        read([1.0, np.inf, -np.inf])


def test_the_unlabelled_category_is_no_class():
    label = read(["b", "none", "a", None], unlabelled_category="none")
    assert label.categories == ("a", "b")
    assert label.values.tolist() == [1, -1, 0, -1]
    assert label.counts() == {"a": 1, "b": 1}


def test_values_written_alike_are_refused():
    with pytest.raises(DataError, match=r"'x' holds different values that are all written '1'"):
        read(np.array([1, "1"], dtype=object))


@pytest.mark.parametrize("word", ["", "nan", "None"])
def test_a_class_that_is_a_missing_label_written_as_a_word_is_told(word):
    obs = pd.DataFrame({"x": ["a", word, "b", word]})
    told = rf"label 'x': 2 of 4 cells are of a class '{word}': .* unlabelled_category='{word}'"
    with pytest.warns(UserWarning, match=told):
        assert read_labels(obs, ["x"])["x"].n_classes == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_labels(obs, ["x"], word)["x"].n_classes == 2
        assert read_labels(obs.replace(word, np.nan), ["x"])["x"].n_classes == 2


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="kind is 'ordinal'; closest: 'categorical'"):
        read(["a"], kind="ordinal")


def test_aligned_codes_by_another_list_of_classes():
    label = read(["b", "a", None, "c"]).aligned(["c", "b", "q"])
    assert label.values.tolist() == [1, -1, -1, 0]
    assert label.categories == ("c", "b", "q")
    assert label.counts() == {"c": 1, "b": 1, "q": 0}


def test_subset_keeps_the_classes():
    label = read(["b", "a", "b"]).subset([2, 0])
    assert label.values.tolist() == [1, 1]
    assert label.categories == ("a", "b")
    assert len(label) == 2


@pytest.mark.parametrize("values", [["b", None, "a"], [1.5, np.nan, 0.1]])
def test_labels_go_through_json_unchanged(values):
    label = read(values)
    back = Labels.from_dict(json.loads(json.dumps(label.to_dict(), allow_nan=False)))
    assert (back.name, back.kind, back.categories) == (label.name, label.kind, label.categories)
    assert back.values.dtype == label.values.dtype
    assert np.array_equal(back.values, label.values, equal_nan=label.kind == "continuous")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([None, None], "label 'x': all 2 cells are unlabelled"),
        ([np.nan, np.nan], "label 'x': all 2 cells are unlabelled"),
        (["a", "a", None], "'x' has one value, 'a', in all 2 labelled cells"),
        ([2.5, 2.5], r"'x' has one value, '2\.5', in all 2 labelled cells"),
    ],
)
def test_a_label_with_nothing_to_learn_is_refused(values, message):
    with pytest.raises(DataError, match=message):
        read(values).require_usable()


def test_read_labels_reports_what_is_missing():
    obs = pd.DataFrame({"cell_type": ["a", "b"], "age": [1.5, 2.0]})
    assert list(read_labels(obs, ["age", "cell_type"])) == ["age", "cell_type"]
    with pytest.raises(DataError, match="obs has no column 'celltype'; closest: 'cell_type'"):
        read_labels(obs, ["celltype"])
    with pytest.raises(DataError, match="'c' occurs in none of the label columns"):
        read_labels(obs, ["cell_type"], "c")
    with pytest.raises(
        ConfigError, match="label_kinds names 'age', which is not a label; there are: 'cell_type'"
    ):
        read_labels(obs, ["cell_type"], label_kinds={"age": "categorical"})
