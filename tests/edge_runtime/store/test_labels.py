import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.edge_models import publish_scale

from edge_runtime import InvalidConfig
from edge_runtime.store.labels import MAX_HISTORY, trail
from edge_runtime.store.store import Store


@pytest.fixture
def store(tmp_path):
    for version in (1, 2, 3):
        publish_scale(tmp_path, version, 1.0)
    return Store(tmp_path)


@pytest.mark.parametrize(
    ("way", "present", "expected"),
    [
        ((), None, ()),
        ((1, 2), None, ()),
        ((), 1, (1,)),
        ((1, 2, 3), 3, (1, 2, 3)),
        ((1, 2, 3), 2, (1, 2)),
        ((1, 2, 1), 2, (1, 2)),
        ((1, 2, 1), 1, (1, 2, 1)),
        ((1, 2), 5, (1, 2, 5)),
    ],
)
def test_of_the_way_counts_what_ends_with_the_present_version(way, present, expected):
    """A step that was written down and not taken is none; a label that was set by hand is the last step."""
    assert trail(way, present) == expected


@given(st.lists(st.integers(0, 4), max_size=40))
def test_a_rollback_undoes_what_was_done(steps):
    """For any sequence of `use` (1 to 4) and `rollback` (0), with the way cut short anywhere: as a stack does it."""
    stack, way, present = [], (), None
    for step in steps:
        if step == 0:
            found = trail(way, present)
            assert list(found) == stack
            if len(found) > 1:
                stack.pop()
                way, present = found, found[-2]
        elif step != present:
            way = (*trail(way, present), step) if present is not None else way
            present = step
            stack.append(step)


def test_a_label_goes_back_step_by_step(store):
    """As often as is known, and no further; a label that was never set can't."""
    with pytest.raises(InvalidConfig, match=r"label 'stable' is not set; there are none"):
        store.roll_back("scale")
    assert [store.label("scale", "stable", version) for version in (1, 2, 2, 3)] == [None, 1, 2, 2]
    assert [store.roll_back("scale"), store.roll_back("scale")] == [(3, 2), (2, 1)]
    with pytest.raises(InvalidConfig, match="nothing is known of what label 'stable' pointed to before version 1"):
        store.roll_back("scale")
    store.label("scale", "stable", 3)
    assert store.roll_back("scale") == (3, 1)


def test_a_version_that_is_gone_is_not_rolled_back_to(store, tmp_path):
    """The refusal names it, and the label stays."""
    store.label("scale", "stable", 1)
    store.label("scale", "stable", 2)
    (tmp_path / "scale" / "1" / "manifest.json").unlink()
    with pytest.raises(InvalidConfig, match=r"pointed to version 1 before 2, and that is not installed any more"):
        store.roll_back("scale")
    assert store.labels("scale") == {"stable": 2}


def test_what_is_remembered_is_bounded(store):
    """Whatever is done, no more than so many steps back."""
    for step in range(MAX_HISTORY + 20):
        store.label("scale", "stable", 1 + step % 2)
    for _ in range(MAX_HISTORY - 1):
        store.roll_back("scale")
    with pytest.raises(InvalidConfig, match="nothing is known"):
        store.roll_back("scale")


def test_a_damaged_history_stops_no_label(store, tmp_path, caplog):
    """It is refused where it is asked for, and begins anew with the next label."""
    store.label("scale", "stable", 1)
    (tmp_path / "scale" / "history.json").write_text('{"stable": [0]}')
    with pytest.raises(InvalidConfig, match=r"history\.json: history must be a JSON object"):
        store.roll_back("scale")
    with caplog.at_level(logging.WARNING):
        store.label("scale", "stable", 2)
    assert "begins anew" in caplog.text
    assert store.roll_back("scale") == (2, 1)
