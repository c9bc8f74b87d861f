from support.clock import FakeClock

from edge_runtime.remote.certificate import Certificate
from edge_runtime.remote.expiry import DAY_S, SOON_S, Expiry


def certificate(until_s, owner="gpu-1"):
    return Certificate(der=b"", owner=owner, names=(), since_s=0.0, until_s=until_s)


def test_what_ends_soon_is_told_once_a_day(caplog):
    """Not before thirty days are left; each certificate by itself; what has ended as such."""
    clock, wall = FakeClock(), FakeClock(0.0)
    expiry = Expiry(clock, wall)
    expiry.look("the device's own certificate", None)
    expiry.look("a server's", certificate(SOON_S))
    assert not caplog.records
    for _ in range(10):
        expiry.look("a server's", certificate(SOON_S - 1))
        expiry.look("another's", certificate(DAY_S * 3, "gpu-2"))
    assert [record.getMessage() for record in caplog.records] == [
        "a server's (gpu-1) ends on 1970-01-30, in 29 days",
        "another's (gpu-2) ends on 1970-01-04, in 3 days",
    ]
    clock.advance(DAY_S)
    wall.advance(DAY_S * 4)
    expiry.look("another's", certificate(DAY_S * 3, "gpu-2"))
    assert caplog.records[-1].getMessage() == "another's (gpu-2) has ended on 1970-01-04"


def test_what_was_told_is_bounded(caplog):
    """However many certificates a server shows."""
    expiry = Expiry(FakeClock(), FakeClock(0.0))
    for number in range(1000):
        expiry.look("a server's", certificate(float(number)))
    assert len(expiry._told_s) <= 128
