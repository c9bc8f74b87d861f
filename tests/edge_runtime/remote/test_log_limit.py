import logging

from support.clock import FakeClock

from edge_runtime.remote.log_limit import LogLimit, shown


def test_a_flood_is_cut_and_counted(caplog):
    """Ten warnings a minute pass; then the log says how many were kept back."""
    clock = FakeClock()
    limit = LogLimit(logging.getLogger("flood"), clock)
    for i in range(25):
        limit.warning("stranger %d", i)
    assert len(caplog.records) == 10
    clock.advance(60)
    limit.warning("stranger again")
    assert [record.getMessage() for record in caplog.records[10:]] == [
        "15 further warnings of that kind were kept back",
        "stranger again",
    ]


def test_foreign_text_is_cut_and_escaped():
    """A stranger's text can't write lines or escape sequences of its own into the log."""
    assert shown("a\n\x1b[31m" + "b" * 500) == ascii("a\n\x1b[31m" + "b" * 93)
