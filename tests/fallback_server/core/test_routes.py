import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.core.model_config import Shadow
from fallback_server.core.routes import (
    MAX_HISTORY,
    PLAIN,
    Hold,
    Label,
    Routes,
    default_version,
    drawn,
    heaviest,
    settled,
    shadowed,
    shares,
    split,
)

SPLIT = Routes(traffic={1: 95, 2: 5, 3: 0})
HELD = Routes(hold=Hold(version=2, above=3))


@pytest.mark.parametrize(
    ("routes", "available", "version"),
    [
        (PLAIN, [], None),
        (PLAIN, [1, 3], 3),
        # a default that was rolled back
        (HELD, [1, 2, 3], 2),
        (HELD, [1, 3], 1),
        (HELD, [3], 3),
        (HELD, [1, 2, 3, 4], 4),
        # a split of which one version, or none, is available
        (SPLIT, [1, 9], 1),
        (SPLIT, [2, 3], 2),
        (SPLIT, [3, 9], 9),
        (Routes(hold=Hold(version=2, above=None)), [1, 2, 3, 4], 2),
        # a rolled back default is not split
        (Routes(traffic={1: 5, 3: 95}, hold=Hold(version=2, above=3)), [1, 2, 3], 2),
    ],
)
def test_what_answers_who_names_no_version(routes, available, version):
    """Each state of a model gives this version."""
    assert default_version(routes, available, key=b"k") == version
    assert default_version(routes, available, draw=0.5) == version
    assert heaviest(routes, available) == (version or 0)
    assert shares(routes, available) == ({} if version is None else {version: 1.0})


@pytest.mark.parametrize(
    ("available", "coming", "version"),
    [
        ([3], [2], 2),
        ([3], [1, 2], 2),
        ([3], [1], 1),
        ([1, 3], [2], 1),
        ([3], [], 3),
        ([3], [4], 3),
        ([3, 4], [2], 4),
    ],
)
def test_what_was_rolled_back_from_does_not_answer_while_the_good_version_comes_back(available, coming, version):
    """It is the version that is being loaded, which refuses; what was withdrawn answers where no other ever will."""
    assert default_version(HELD, available, coming=coming) == version
    assert heaviest(HELD, available, coming) == (version if version in available else 0)


@pytest.mark.parametrize("weights", [{1: 95, 2: 5}, {1: 1.0, 2: 1.0}, {1: 0.2, 2: 0.3, 3: 0.5}])
def test_shares_are_as_the_weights_say(weights):
    """Over many keys, and over many draws, each version gets its share within two points."""
    total = sum(weights.values())
    numbers = random.Random(1)
    for versions in (
        [split(weights, b"client-%d" % number) for number in range(20_000)],
        [drawn(weights, numbers.random()) for _ in range(20_000)],
    ):
        for version, weight in weights.items():
            assert versions.count(version) / len(versions) == pytest.approx(weight / total, abs=0.02)


@given(st.binary(min_size=1, max_size=40), st.floats(1, 99), st.floats(1, 99))
def test_a_key_is_moved_by_a_changed_weight_in_one_direction_alone(key, before, after):
    """The same key gives the same version; a version whose weight grows loses no key, and wins only what it must."""
    first, second = split({1: before, 2: 50}, key), split({1: after, 2: 50}, key)
    assert split({2: 50, 1: before}, key) == first
    if after >= before and first == 1:
        assert second == 1
    if after <= before and first == 2:
        assert second == 2


def test_labels_move_when_their_version_comes_and_a_hold_ends_when_a_higher_one_does():
    """What waited is applied, with what was in its place remembered; nothing else changes."""
    routes = Routes(labels={"stable": Label(version=1, pending=3), "canary": Label(pending=4)}, hold=HELD.hold)
    assert settled(routes, [1, 2]) is routes
    after = settled(routes, [1, 2, 3])
    assert after.labels == {"stable": Label(version=3, history=(1,)), "canary": Label(pending=4)}
    assert after.hold == HELD.hold
    assert settled(after, [1, 4]).hold is None
    lasting = Routes(hold=Hold(version=1, above=None))
    assert settled(lasting, [1, 9]) is lasting
    assert after.points() == {"stable": 3}


def test_the_history_of_a_label_is_bounded():
    """However often it moves."""
    label = Label()
    for version in range(100):
        label = label.moved(version)
    assert label.history == tuple(range(99 - MAX_HISTORY, 99))
    assert label.moved(99) == label


def test_what_is_shadowed():
    """A share of the requests, and never on the version that answers them anyway."""
    shadow = Shadow(version=2, share=0.25)
    assert shadowed(None, 1, 0.0) is None
    assert shadowed(shadow, 2, 0.0) is None
    assert shadowed(shadow, 1, 0.24) == 2
    assert shadowed(shadow, 1, 0.25) is None
