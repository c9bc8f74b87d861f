"""Which figures are told beside the targets."""

from __future__ import annotations

from benchmarks.peers import suite
from benchmarks.peers.loads import Load
from benchmarks.peers.rounds import Rounds


def load(rate: float) -> Load:
    return Load(rate=rate, p50_ms=0.5, p95_ms=0.9, p99_ms=1.0)


def test_what_a_transport_takes_bounds_what_it_leaves():
    """An image costs its share of the processors twice: 1/300 s for the transport, 1/100 s for the model."""
    rounds = Rounds(
        loads={
            (suite.AIO, suite.H2_MANY): [load(300)],
            (suite.TRITON_TF, suite.H2_MANY): [load(600)],
            ("in process, LiteRT", suite.EIGHT): [load(100)],
            (suite.SINKS["grpcio"], suite.EIGHT): [load(300)],
        }
    )
    echo, sink = suite.bounds(rounds)
    assert "reaches 0.50 of Triton with TF" in echo
    assert "leaves 0.75 of the executor's rate" in sink


def test_nothing_is_told_of_what_was_not_measured():
    """No bound without both of its sides."""
    assert list(suite.bounds(Rounds(loads={(suite.AIO, suite.H2_MANY): [load(300)]}))) == []
