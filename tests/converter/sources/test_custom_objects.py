import pytest

from converter.errors import OptionInvalid
from converter.sources.custom_objects import load

MODULE = """
class Layer: pass
def halved(x): return x / 2
BOTH = {"Layer": Layer, "half": halved}
NUMBER = 7
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current directory, which Python's path does not have."""
    name = f"my_layers_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("import nothing_of_that_name")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_dict_a_class_and_a_function_are_found_beside_the_caller(module):
    """A dict as it is; the others by their own names."""
    assert sorted(load(f"{module}:BOTH")) == ["Layer", "half"]
    assert list(load(f"{module}:Layer")) == ["Layer"]
    assert load(f"{module}:halved")["halved"](4) == 2
    assert load("") == {}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("{}", "not of the form module:name"),
        ("{}:", "not of the form module:name"),
        ("{}:Missing", "has no 'Missing'"),
        ("{}:NUMBER", "is int; a dict, class or function is needed"),
        ("{}_none:X", "can't be imported: ModuleNotFoundError"),
        ("{}_broken:X", "nothing_of_that_name"),
    ],
)
def test_what_is_not_there_is_named(module, spec, says):
    """The module, the name, or why the import failed."""
    with pytest.raises(OptionInvalid, match=says):
        load(spec.format(module))
