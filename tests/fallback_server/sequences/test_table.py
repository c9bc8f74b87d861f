import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from fallback_server.core.errors import QueueFull
from fallback_server.sequences.options import SequenceOptions
from fallback_server.sequences.table import SequenceTable

OPTIONS = SequenceOptions(max_sequences=4, max_sequence_bytes=100, sequence_idle_s=10)


class Tables(RuleBasedStateMachine):
    """Against plain dictionaries."""

    entries = Bundle("entries")

    def __init__(self):
        super().__init__()
        self.table = SequenceTable(OPTIONS)
        self.bytes = {}
        self.resting = {}
        self.now_s = 0.0
        self.count = 0

    @rule(target=entries)
    def open(self):
        self.count += 1
        entry = f"s{self.count}"
        if len(self.bytes) >= 4:
            with pytest.raises(QueueFull, match="4 sequences are live, at most max_sequences = 4"):
                self.table.open(entry, self.now_s)
        else:
            self.table.open(entry, self.now_s)
            self.bytes[entry], self.resting[entry] = 0, self.now_s
        return entry

    @rule(entry=consumes(entries))
    def close(self, entry):
        self.table.close(entry)
        self.bytes.pop(entry, None)
        self.resting.pop(entry, None)

    @rule(entry=entries, size=st.integers(0, 60))
    def resize(self, entry, size):
        if entry not in self.bytes:
            return
        after = sum(self.bytes.values()) - self.bytes[entry] + size
        if after > 100 and size > self.bytes[entry]:
            with pytest.raises(QueueFull, match="would pass max_sequence_bytes = 100"):
                self.table.resize(entry, size)
        else:
            self.table.resize(entry, size)
            self.bytes[entry] = size

    @rule(entry=entries, seconds=st.floats(0, 12))
    def step(self, entry, seconds):
        if entry not in self.bytes:
            return
        self.table.begin_step(entry)
        self.resting.pop(entry, None)
        self.now_s += seconds
        self.table.rest(entry, self.now_s)
        self.resting[entry] = self.now_s

    @rule(entry=entries)
    def begin_step(self, entry):
        if entry in self.bytes:
            self.table.begin_step(entry)
            self.resting.pop(entry, None)

    @invariant()
    def counts(self):
        assert len(self.table) == len(self.bytes) <= 4
        assert self.table.total_bytes == sum(self.bytes.values()) <= 100

    @invariant()
    def idle(self):
        late = {entry for entry, since_s in self.resting.items() if since_s + 10 <= self.now_s}
        assert set(self.table.idle(self.now_s)) == late
        for entry in self.bytes:
            assert self.table.rested_s(entry, self.now_s) == self.now_s - self.resting.get(entry, self.now_s)
        assert self.table.next_idle_s() == min(self.resting.values(), default=math.inf) + 10


Tables.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
test_bounds_hold_and_idle_ones_are_found = Tables.TestCase


def test_a_state_that_shrinks_is_always_let():
    """Also where a bound was passed before, by whatever rounding."""
    table = SequenceTable(OPTIONS)
    table.open("a", 0)
    table.resize("a", 100)
    table.resize("a", 50)
    assert table.total_bytes == 50


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"max_sequences": -1}, "max_sequences must be at least 0, got -1"),
        ({"max_sequence_bytes": -1}, "max_sequence_bytes must be at least 0, got -1"),
        ({"sequence_idle_s": 0}, "sequence_idle_s must be over 0 and at most 86400, got 0"),
        ({"sequence_idle_s": math.nan}, "sequence_idle_s must be over 0 and at most 86400, got nan"),
        ({"drain_s": -1}, "drain_s must be at least 0, got -1"),
    ],
)
def test_bounds_of_the_bounds(values, text):
    """Named as the flags are."""
    with pytest.raises(ValueError, match=f"^{text}$"):
        SequenceOptions(**values)
