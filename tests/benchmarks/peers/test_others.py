"""Rows that other benchmarks measure."""

from __future__ import annotations

import json

import pytest

from benchmarks.peers import others
from benchmarks.peers.rounds import Rounds, table
from benchmarks.peers.suite import GRUS, TOGETHER, bounds

FAIR = """a row takes 2.0 ms alone; batches are answered at 900 rows/s
of the flood 800 rows/s answered, 12 requests refused
                        median       p90       p99   ms, of 10 and 10 requests
alone                     2.00      3.00      4.00
the other flooded         3.00      4.50      6.00
p99 over p99 alone: 1.50 (target: at most 2)
"""


def test_they_become_rows_of_the_table(monkeypatch):
    """Out of what the programs print."""
    rates = {"batched": [12, 10], "unbatched": [2, 2], "bare echo": [60, 60], "executor": [20, 20]}
    said = {"fair_models": FAIR, "sequences": json.dumps(dict.fromkeys(GRUS, rates))}
    monkeypatch.setattr(others, "_run", lambda name, _: said[name])
    rounds = Rounds()
    others.measure_flood(rounds, times=1, seconds=1)
    others.measure_sequences(rounds, times=2, length=10)
    lines = table(rounds, TOGETHER)[2:]
    assert lines[0].endswith("| 6.00 ms | 4.00 ms | 1.50 | at most 2 | met |")
    assert len(lines) == 1 + len(GRUS)
    assert all(line.endswith("| 11/s | 2/s | 5.50 | at least 5 | met |") for line in lines[1:])
    told = list(bounds(rounds))
    assert len(told) == len(GRUS)
    assert all("leaves 7.5 x the steps/s of unbatched ones" in one for one in told)


@pytest.mark.parametrize("said", ["nothing", "[]", "{}"])
def test_what_can_not_be_read_is_told_of(monkeypatch, said):
    """And the rest goes on."""
    monkeypatch.setattr(others, "_run", lambda *_: said)
    rounds = Rounds()
    others.measure_flood(rounds, times=1, seconds=1)
    others.measure_sequences(rounds, times=2, length=10)
    assert rounds.failed
    assert all("FAILED: " in line for line in table(rounds, TOGETHER)[2:])
