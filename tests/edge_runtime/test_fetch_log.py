import logging

import pytest
from support.clock import FakeClock

from edge_runtime.fetch_log import FetchLog, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("not found: Größe 5", "not found: Größe 5"),
        ("a\nCRITICAL forged\r", "a\\nCRITICAL forged\\r"),
        ("\x1b[2J\x9b\u202e\u2028", "\\x1b[2J\\x9b\\u202e\\u2028"),
        ("x" * 401, "x" * 400 + "..."),
        ("No space left: '/s/.staging-a_b1c2d3/tree'", "No space left: '/s/.staging-*/tree'"),
    ],
)
def test_a_reason_is_a_line_of_printable_characters(text, shown):
    """Cut, and with one name for all staging folders."""
    assert plain(text) == shown


def test_no_text_is_longer_than_a_line():
    """However it is escaped."""
    assert len(plain("\U000e0001" * 10**6)) == 403


def test_the_same_is_said_once_and_floods_are_bounded(caplog):
    """Until it has changed, or was fetched meanwhile; of what changes every time no more than some is said."""
    log = FetchLog(logging.getLogger("fetch"), FakeClock())
    for text in "aab":
        log.say("m", text)
    log.say("other", "b")
    log.forget("m")
    log.say("m", "b")
    assert [one.message for one in caplog.records] == ["a", "b", "b", "b"]
    for number in range(1000):
        log.say("m", str(number))
    assert len(caplog.records) == 10
