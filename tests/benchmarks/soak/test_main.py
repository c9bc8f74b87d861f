"""What a long run tells beside its verdicts."""

import numpy as np

from benchmarks.soak.__main__ import of_the_machine, warm_from_s
from benchmarks.soak.outcomes import OK, Seen
from benchmarks.soak.verdict import PERCENTILES


def answered(took_ms):
    count = len(took_ms)
    filled = (np.zeros(count, np.uint8), np.full(count, OK, np.uint8))
    return Seen(("bare echo",), np.linspace(0, 1000, count), np.array(took_ms, np.float32), *filled, {})


def test_a_machine_that_became_slower_is_told_by_its_reference():
    """One that takes twice as long at the end as at the beginning; what came before the warm-up's end is left out."""
    told = of_the_machine(answered(np.linspace(1, 2, 2000)), [], 0.0)
    assert [line.split(":")[0] for line in told] == [
        f"     latency of the bare reference, percentile {each}" for each in PERCENTILES
    ]
    assert all(70 < float(line.split(":")[1].rstrip("%")) < 110 for line in told)
    late = np.where(np.linspace(0, 1000, 2000) < 200, 50.0, 1.0)
    assert all(line.endswith(": +0.0%") for line in of_the_machine(answered(late), [], 210.0))


def test_the_seconds_after_a_fault_are_no_fault_of_the_machine():
    """What a killed process's replacement takes of the cores is not the machine's own doing."""
    times = np.linspace(0, 1000, 20000)
    took_ms = np.where((times >= 900) & (times < 905), 100.0, 1.0)
    assert all(line.endswith(": +0.0%") for line in of_the_machine(answered(took_ms), [900.0], 0.0))


def test_a_warm_up_is_a_fifth_and_no_less_than_twenty_seconds():
    """Of a thousand seconds two hundred; of ten, more than there are."""
    assert warm_from_s(answered(np.ones(1000))) == 200.0
    short = answered(np.ones(10))
    assert warm_from_s(Seen(short.kinds, short.at_s / 100, *short[2:])) == 20.0
