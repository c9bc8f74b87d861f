import pytest
from support import converter_data

from converter.errors import OptionInvalid
from converter.named_functions import is_named, load_named


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("module:function", True),
        ("a.b_2:C.method", True),
        ("topk:5", False),
        ("C:\\data", False),
        ("a:b:c", False),
        ("a", False),
        (":f", False),
        ("a.:f", False),
        ("a: f", False),
    ],
)
def test_only_module_and_function_are_a_name(text, named):
    """Nothing that is a metric or a path is taken for one."""
    assert is_named(text) is named


def test_the_function_itself_is_found():
    """The same object that an import gives."""
    assert load_named("support.converter_data:rows") is converter_data.rows


def test_a_module_that_fails_is_told_in_one_line(tmp_path, monkeypatch):
    """With the exception that it raised."""
    (tmp_path / "broken_metric_module.py").write_text("raise KeyError('no such key')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionInvalid, match="'broken_metric_module' can't be imported: KeyError: 'no such key'"):
        load_named("broken_metric_module:f")
