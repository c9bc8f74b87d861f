import pytest
from support.clock import FakeClock

from edge_runtime.remote.flood import (
    ALL_RECORDS_S,
    MAX_SENDERS,
    REST_EVERY,
    REST_S,
    SENDER_RECORDS_S,
    Flood,
    FloodGate,
    weight,
)


def packet(*counts):
    return bytes(4) + b"".join(count.to_bytes(2, "big") for count in counts)


@pytest.mark.parametrize(
    ("data", "records"),
    [(packet(0, 3, 2, 1), 6), (packet(1, 0, 0, 0), 1), (packet(0, 0, 0, 0), 1), (b"", 1), (b"\xff" * 5, 255)],
)
def test_a_packet_is_weighed_by_what_it_says(data, records):
    """Of what it says no more is read; one that says nothing weighs one."""
    assert weight(data) == records


def test_one_sender_takes_nobody_elses_share():
    """However much it sends; and after a while it is read again."""
    clock = FakeClock()
    flood = Flood(clock)
    admitted = sum(flood.admits(packet(0, 1, 0, 0), "10.0.0.66") for _ in range(10_000))
    assert admitted == 5 * SENDER_RECORDS_S
    assert flood.admits(packet(0, 8, 0, 0), "10.0.0.7")
    clock.advance(1.0)
    assert sum(flood.admits(packet(0, 1, 0, 0), "10.0.0.66") for _ in range(10_000)) == SENDER_RECORDS_S


def test_large_packets_count_by_their_records():
    """A hundred in one packet are a hundred."""
    flood = Flood(FakeClock())
    assert sum(flood.admits(packet(0, 100, 0, 0), "10.0.0.66") for _ in range(100)) == 5


def test_forged_senders_are_bounded_together():
    """In what is read, and in what is remembered of them."""
    flood = Flood(FakeClock())
    assert (
        sum(flood.admits(packet(0, 1, 0, 0), f"10.0.{n // 250}.{n % 250}") for n in range(50_000)) == 5 * ALL_RECORDS_S
    )
    assert len(flood._senders) <= MAX_SENDERS


class Behind:
    """The protocol behind the gate."""

    def __init__(self):
        self.heard = []

    def datagram_received(self, data, addr):
        self.heard.append((data, addr))

    def error_received(self, error):
        self.heard.append(error)

    def connection_lost(self, error):
        self.heard.append(error)


def test_the_gate_rests_where_all_is_too_much():
    """What is admitted comes through; what is not is counted, and after some of it the sockets are left alone."""
    behind, dropped, rests = Behind(), [], []
    clock = FakeClock()
    gate = FloodGate(behind, Flood(clock), lambda: dropped.append(1), rests.append)
    for _ in range(1000):
        gate.datagram_received(packet(0, 1, 0, 0), ("10.0.0.66", 5353))
    assert (len(behind.heard), len(dropped)) == (500, 500)
    assert rests == [REST_S] * (500 // REST_EVERY)
    fault = OSError()
    gate.error_received(fault)
    gate.connection_lost(None)
    assert behind.heard[-2:] == [fault, None]
