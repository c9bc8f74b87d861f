import pytest

from converter.recipes import FLOAT32, MIXED, RECIPES, recipe


def test_recipes_as_a_table():
    """Name, whether samples are needed, whether an Edge TPU could take it."""
    found = [(one.name, one.needs_calibration, one.full_int8) for one in (*RECIPES, MIXED)]
    assert found == [
        ("float32", False, False),
        ("float16", False, False),
        ("dynamic", False, False),
        ("int8", True, True),
        ("int8-float-io", True, False),
        ("int16x8", True, False),
        ("int4", False, False),
        ("mixed", True, False),
    ]


def test_a_recipe_is_found_by_its_name():
    """The mixed one too, which no plain run makes."""
    assert recipe("float32") is FLOAT32
    assert recipe("mixed") is MIXED
    with pytest.raises(KeyError):
        recipe("int2")
