"""What is remembered of versions that were lost."""

from fallback_server.executors.findings import MOST, Pace, Remembered


def test_what_is_remembered_is_bounded_and_taken_once():
    """The oldest is forgotten first; a load that fails is followed by one that measures."""
    remembered = Remembered()
    paces = [Pace(threads=index, findings={}) for index in range(MOST + 1)]
    for pace in paces:
        remembered.keep(pace.threads, pace)
    assert remembered.taken(0) is None
    assert remembered.taken(1) is paces[1]
    assert remembered.taken(1) is None
