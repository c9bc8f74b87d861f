import pytest

from edge_runtime import InvalidConfig, ModelOptions, RuntimeOptions
from edge_runtime.fetch_policy import (
    FAITHFUL_S,
    FOLLOWED,
    Followed,
    Want,
    asks,
    checked_fetch,
    in_order,
    in_turn,
    to_ask,
)


def want(pin=None, fetch="on-demand", installed=(), **labels):
    return Want("m", pin, fetch, installed, labels)


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        (want(), True),
        (want(installed=(1,)), False),
        (want(2, installed=(1,)), True),
        (want(2, installed=(1, 2)), False),
        (want("stable", installed=(1,)), True),
        (want("stable", installed=(1,), stable=1), False),
        (want("stable", installed=(1,), stable=2), True),
        (want(fetch="follow", installed=(1,)), True),
        (want("stable", fetch="follow", installed=(1,), stable=1), True),
        (want(1, fetch="follow", installed=(1,)), False),
        (want(1, fetch="follow"), True),
        (want(fetch="never"), False),
        (want(FOLLOWED, fetch="follow"), False),
        (want(FOLLOWED), False),
        (want(2, fetch="never", installed=(1,)), False),
    ],
)
def test_servers_are_asked_for_what_lacks_and_for_what_is_followed(wanted, asked):
    """On demand only what nothing installed can answer; a version that is there is never asked for again."""
    assert asks(wanted) is asked


@pytest.mark.parametrize(
    ("wanted", "label"),
    [
        (want(), None),
        (want(3), None),
        (want("stable"), "stable"),
        (want(FOLLOWED, fetch="follow"), None),
        (want(fetch="follow"), FOLLOWED),
        (want(3, fetch="follow"), None),
        (want("stable", fetch="follow"), "stable"),
    ],
)
def test_a_label_goes_where_the_servers_goes(wanted, label):
    """That of the pin; where the latest is followed, one of its own; none for a version."""
    assert wanted.label == label


def test_what_the_server_answers_with_comes_first():
    """Also where it went back to a lower version; where nobody follows it, and where it is gone, the highest does."""
    assert in_order("follow", {FOLLOWED: 2}, [1, 2, 3]) == [2, 3, 1]
    assert in_order("follow", {FOLLOWED: 9}, [1, 2, 3]) == [3, 2, 1]
    assert in_order("on-demand", {FOLLOWED: 2}, [1, 2, 3]) == [3, 2, 1]
    assert in_order("follow", {}, []) == []


def test_who_can_fetch_nothing_is_refused(tmp_path):
    """Fetching needs a server and a folder of packages, for one model too; without it nothing is needed."""
    assert not checked_fetch(RuntimeOptions(store=tmp_path), folder=False)
    assert checked_fetch(RuntimeOptions(store=tmp_path, fetch="follow", fallback="mdns"), folder=True)
    with pytest.raises(InvalidConfig, match="no server to fetch from"):
        checked_fetch(RuntimeOptions(store=tmp_path, fetch="follow"), folder=True)
    models = {"m": ModelOptions(fetch="on-demand")}
    with pytest.raises(InvalidConfig, match="no folder of packages"):
        checked_fetch(RuntimeOptions(store=tmp_path, fallback="mdns", models=models), folder=False)


@pytest.mark.parametrize(
    ("paces", "last", "order"),
    [
        ({}, None, "abcd"),
        ({}, "c", "cabd"),
        ({"a": 200.0}, "a", "bcda"),
        ({"a": 200.0, "b": 0.0, "c": 10e6}, "c", "dcab"),
        ({"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}, "b", "bacd"),
    ],
)
def test_the_fastest_server_is_asked_and_those_that_were_not_tried_before_it(paces, last, order):
    """Who failed comes last; whom requests don't go to now comes after its like."""
    found = [(address, address != "d") for address in "dcba"]
    assert in_turn(found, paces, last) == list(order)


@pytest.mark.parametrize(
    ("wanted", "last", "now_s", "order"),
    [
        (want(fetch="follow", installed=(1,)), Followed("b", 5.0), 4.0 + FAITHFUL_S, "b"),
        (want(fetch="follow", installed=(1,)), Followed("b", 5.0), 5.0 + FAITHFUL_S, "bac"),
        (want(fetch="follow", installed=(1,)), Followed("gone", 5.0), 6.0, ""),
        (want(fetch="follow", installed=(1,)), None, 6.0, "abc"),
        (want(fetch="follow"), Followed("b", 5.0), 6.0, "bac"),
        (want("stable", fetch="follow", installed=(1,)), Followed("b", 5.0), 6.0, "bac"),
        (want("stable", fetch="follow", installed=(1,), stable=1), Followed("b", 5.0), 6.0, "b"),
        (want(2, installed=(1,)), Followed("b", 5.0), 6.0, "bac"),
    ],
)
def test_a_server_that_is_followed_is_waited_for(wanted, last, now_s, order):
    """Also where it is not to be found; not where nothing that is installed can answer, and not for ever."""
    assert to_ask(wanted, [(address, True) for address in "abc"], {}, last, now_s) == list(order)
