import io

import pytest

from converter.artifact import Bench
from converter.artifact.bench import EngineTime, Refused
from edge_runtime.bench_text import ProgressLine, as_text, bars, time_text


def engine(median_us, rows=1, **changes):
    fields = {"device": "cpu", "variant": "int8", "threads": 1, "rows": rows, "median_us": median_us, "runs": 9}
    return EngineTime(
        **fields | {"p90_us": median_us * 2, "p99_us": median_us * 3, "rows_per_s": rows * 1e6 / median_us} | changes
    )


def found(*engines, refused=()):
    return Bench(
        format=1, package="m", version=1, digest="", host="a board", variants={}, engines=engines, refused=refused
    )


@pytest.mark.parametrize(
    ("value_us", "text"),
    [
        (0.62, "0.620 µs"),
        (12.34, "12.3 µs"),
        (1234.5, "1.23 ms"),
        (2.5e6, "2.50 s"),
        (-0.5, "-0.500 µs"),
        (999, "999 µs"),
    ],
)
def test_a_time_is_in_the_unit_that_fits(value_us, text):
    """Three digits; less than nothing too, where noise makes it so."""
    assert time_text(value_us) == text


def test_columns_of_the_bare_interpreter_are_left_out_where_there_is_none():
    """An accelerator alone has nothing to be held against."""
    text = as_text(found(engine(4000.0, device="gpu")))
    assert "ratio" not in text
    assert "bare" not in text
    compared = as_text(found(engine(4000.0, device="gpu"), engine(10.0, ratio=1.25, bare_median_us=8.0, added_us=2.0)))
    assert "ratio" in compared
    assert "1.250" in compared


def test_what_was_refused_is_below_the_table():
    """The device, the variant if there is one, and why."""
    refused = (Refused(device="gpu", variant="", reason="no driver"), Refused(device="cpu", variant="x", reason="bad"))
    lines = as_text(found(engine(1.0), refused=refused)).splitlines()
    assert lines[-2:] == ["gpu: not timed: no driver", "x on cpu: not timed: bad"]


@pytest.mark.parametrize("blocks", [True, False])
def test_bars_are_as_long_as_a_row_takes(blocks):
    """The longest fills the terminal, half the time is half as long; a batch counts by its rows."""
    text = bars(found(engine(100.0), engine(200.0, rows=4)), 80, blocks=blocks)
    full, half = text.splitlines()[-2:]
    assert full.startswith("int8 on cpu ")
    assert half.startswith("int8 on cpu, batch 4 ")
    mark = "█" if blocks else "#"
    assert full.count(mark) == 2 * half.count(mark)
    assert max(map(len, text.splitlines())) <= 80


def test_a_single_time_has_no_bars():
    """There is nothing to compare."""
    assert bars(found(engine(1.0)), 80) == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_line_on_a_terminal_and_nothing_elsewhere():
    """It is gone at the end, and no rest of a longer one stands behind a shorter one."""
    shown, file = Terminal(), io.StringIO()
    for stream in (shown, file, None):
        tell = ProgressLine(stream)
        tell(0, 2, "a long text")
        tell(1, 2, "short")
        tell(2, 2, "")
    assert file.getvalue() == ""
    first, second, last = shown.getvalue().split("\r")[1:4]
    assert first == "[1/2] a long text"
    assert second == "[2/2] short".ljust(len(first))
    assert last.strip() == ""
    assert shown.getvalue().endswith("\r")
