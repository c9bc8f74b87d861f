import pytest

from edge_runtime import InvalidConfig
from edge_runtime.pins import checked_pin
from edge_runtime.store.labels import check_label


@pytest.mark.parametrize("label", ["", "x" * 129, "a\nb", "a\x1b[2J", "\u202e"])
def test_what_can_be_no_label_is_asked_for_by_nobody(label):
    """Nobody could set it: what was fetched for it would be installed and never used."""
    with pytest.raises(InvalidConfig):
        check_label(label)
    with pytest.raises(InvalidConfig, match="printable characters"):
        checked_pin("m", None, label)


def test_a_version_a_label_or_neither_is_a_pin():
    """Not both, and of no other kinds."""
    assert [checked_pin("m", 3, None), checked_pin("m", None, "stäble 1"), checked_pin("m", None, None)] == [
        3,
        "stäble 1",
        None,
    ]
    for version, label in ((1, "a"), (True, None), (0, None), (None, 5)):
        with pytest.raises(InvalidConfig):
            checked_pin("m", version, label)
