from support.clock import FakeClock

from edge_runtime.remote.suspects import MAX_SHOWN, Suspects


def test_all_are_counted_and_the_latest_are_kept(caplog):
    """By reason, in bounded memory; the log tells each once, and no more than ten a minute."""
    clock = FakeClock()
    suspects = Suspects(clock)
    for _ in range(3):
        suspects.note("a._x", "10.0.0.7:1", "certificate", "its certificate: self-signed")
        clock.advance(1.0)
    (one,) = suspects.stats.untrusted
    assert (one.name, one.address, one.reason, one.times, one.ago_s) == ("a._x", "10.0.0.7:1", "certificate", 3, 1.0)
    assert caplog.text.count("is not trusted") == 1
    for number in range(1000):
        suspects.note(f"\n{number}", "10.0.0.7:1", "silent", "nothing")
    suspects.dropped(7)
    stats = suspects.stats
    assert (stats.counts, stats.dropped) == ({"certificate": 3, "silent": 1000}, 7)
    assert len(stats.untrusted) == MAX_SHOWN
    assert stats.untrusted[-1].name == "\n999"
    assert caplog.text.count("is not trusted") == 10
    assert "\n999" not in caplog.text


def test_who_proves_itself_or_goes_is_shown_no_more():
    """The counts stay."""
    suspects = Suspects(FakeClock())
    for name, address in (("a", "x:1"), ("a", "x:2"), ("b", "x:1")):
        suspects.note(name, address, "silent", "nothing")
    suspects.cleared("a", "x:1")
    assert [(one.name, one.address) for one in suspects.stats.untrusted] == [("a", "x:2"), ("b", "x:1")]
    suspects.forgot("a")
    assert [one.name for one in suspects.stats.untrusted] == ["b"]
    assert suspects.stats.counts == {"silent": 3}
