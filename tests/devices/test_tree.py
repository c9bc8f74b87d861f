import pytest

from devices.tree import MAX_TEXT_BYTES, Tree


def test_text_comes_without_the_device_trees_nul(tmp_path):
    """A device-tree string ends in NUL and a sysfs value in a newline; neither is part of it."""
    (tmp_path / "model").write_bytes(b"A Board\0")
    (tmp_path / "temp").write_bytes(b"45000\n")
    tree = Tree(tmp_path)
    assert tree.text("model") == "A Board"
    assert tree.number("temp") == 45000


def test_only_expected_absence_is_remembered(tmp_path):
    """A file that many machines lack is no news; one that all have is."""
    tree = Tree(tmp_path)
    assert tree.text("rare") is None
    assert tree.text("always", expected=True) is None
    assert tree.names("nowhere") == []
    assert tree.unread == ["/always: No such file or directory"]


def test_a_refusal_is_remembered_though_not_expected(tmp_path):
    """A directory in place of a file stands for every error that is more than absence."""
    (tmp_path / "file").mkdir()
    tree = Tree(tmp_path)
    assert tree.text("file") is None
    assert tree.unread == ["/file: Is a directory"]


@pytest.mark.parametrize("text", ["broken", "", "1_0", "٤٥", "1 2", "0x10", "4.5", "9" * 30])
def test_a_value_that_is_no_number_is_told_and_forgiven(tmp_path, text):
    """A sensor that writes words gives no value and a line that quotes it."""
    (tmp_path / "temp").write_text(text)
    tree = Tree(tmp_path)
    assert tree.number("temp") is None
    assert tree.unread == [f"/temp: {text!r} is no number"]


def test_names_are_in_numeric_order(tmp_path):
    """The tenth zone comes after the second."""
    for name in ("zone10", "zone2", "alpha", "zone1"):
        (tmp_path / name).touch()
    assert Tree(tmp_path).names("") == ["alpha", "zone1", "zone2", "zone10"]


def test_reads_are_bounded(tmp_path):
    """A file without end costs no more than the bound."""
    (tmp_path / "large").write_bytes(b"x" * (MAX_TEXT_BYTES + 10))
    assert len(Tree(tmp_path).text("large")) == MAX_TEXT_BYTES
