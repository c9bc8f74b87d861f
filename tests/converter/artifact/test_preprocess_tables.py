import numpy as np
import pytest
from support.preprocess_cases import spec

from converter.artifact import InputPreprocess, ManifestInvalid, RawInvalid, TableField

FIELDS = (
    TableField(name="age"),
    TableField(name="income", default=10.0),
    TableField(name="town", default="other", categories=("Rome", "Oslo", "other")),
)
STEP = InputPreprocess(fields=FIELDS)
THREE = spec(-1, 3)


def test_records_become_vectors_in_the_fields_order():
    """Whatever the order of a record's keys; categories are their index, and what is missing is the default."""
    found = STEP.apply([{"town": "Oslo", "income": 5, "age": 30}, {"age": np.int64(7), "town": None}], THREE)
    assert found.tolist() == [[30.0, 5.0, 1.0], [7.0, 10.0, 2.0]]
    assert found.dtype == np.float32


def test_one_record_gets_the_batch_axis():
    """Unless the input has none."""
    assert STEP.apply({"age": True}, THREE).tolist() == [[1.0, 10.0, 2.0]]
    assert STEP.apply({"age": 1}, spec(3)).shape == (3,)


def test_arrays_have_the_fields_as_columns():
    """Data that are vectors already pass, one or many."""
    assert STEP.apply(np.arange(6).reshape(2, 3), THREE).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert STEP.apply([1, 2, 3], THREE).shape == (1, 3)


def test_the_numeric_steps_go_by_field():
    """Mean and std hold one value for each field."""
    step = InputPreprocess(fields=FIELDS[:2], mean=(1.0, 2.0), std=(2.0, 4.0))
    assert step.apply({"age": 3, "income": 6}, spec(-1, 2)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({}, "field 'age' is missing, and has no default"),
        ({"age": 1, "agee": 2}, r"field 'agee' is not known; there are \['age', 'income', 'town'\]"),
        ({"age": "old"}, "field 'age' must be a finite number, as float32 too, got 'old'"),
        ({"age": float("nan")}, "field 'age' must be a finite number, as float32 too, got nan"),
        ({"age": 10**400}, "field 'age' must be a finite number"),
        ({"age": 10**5000}, "got an integer of 16610 bits"),
        ({"age": 1, "town": np.zeros(2)}, "field 'town' is array"),
        ({"age": 1e39}, "as float32 too"),
        ({"age": 1, "town": "Bonn"}, r"field 'town' is 'Bonn', not one of \['Rome', 'Oslo', 'other'\]"),
        ({"age": 1, "town": []}, "field 'town' is"),
        ([{"age": 1}, {}], "sample 1: field 'age' is missing"),
        ([{"age": 1}, 3], "sample 1: a record is a dict by field name, got int"),
        (np.zeros((1, 2)), r"there are 3 fields, the array has the shape \[1, 2\]"),
        ("age=3", "got a str"),
        ([], "there are 3 fields"),
    ],
)
def test_records_that_do_not_fit_are_refused(raw, says):
    """By the field, and in a list by the sample."""
    with pytest.raises(RawInvalid, match=f"preprocessing of 'x': {says}|{says}"):
        STEP.apply(raw, THREE)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([{"name": ""}], "no name"),
        ([{"name": "a"}, {"name": "a"}], "different names"),
        ([{"name": "a", "default": "x"}], "finite number without categories, got 'x'"),
        ([{"name": "a", "default": float("inf")}], "finite number"),
        ([{"name": "a", "default": "z", "categories": ("x", "y")}], r"'z' is not one of \['x', 'y'\]"),
        ([{"name": "a", "categories": ("x", "x")}], "one twice"),
    ],
)
def test_impossible_fields_are_refused(fields, says):
    """Each is named."""
    with pytest.raises(ManifestInvalid, match=says):
        InputPreprocess(fields=tuple(TableField(**one) for one in fields))
