import json
import logging
import math
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import telemetry
from edge_runtime.errors import DeadlineExceeded, EngineFailed, Overloaded
from edge_runtime.scheduling.stats import BatcherStats
from edge_runtime.telemetry import (
    BUCKETS_S,
    EngineFaults,
    Histogram,
    JsonFormatter,
    Meter,
    RuntimeStats,
    model_stats,
)
from edge_runtime.types import EngineReport, Reply


def reply(latency_ms=1.0, place="device:cpu", reason="local"):
    return Reply(outputs={}, version=1, place=place, reason=reason, latency_ms=latency_ms)


@pytest.fixture
def log(caplog):
    """A logger of its own, whose records are caught."""
    caplog.set_level(logging.INFO, "edge_runtime.test")
    return logging.getLogger("edge_runtime.test")


def test_answers_are_counted_by_place_and_reason():
    """A device's and a server's answers are told apart, and why a server had to answer."""
    meter = Meter()
    for one in (reply(2.0), reply(4.0), reply(30.0, "server:10.0.0.7:8500", "overloaded")):
        meter.answered(one)
    assert [(one.place, one.reason, one.requests) for one in meter.answers()] == [
        ("device:cpu", "local", 2),
        ("server:10.0.0.7:8500", "overloaded", 1),
    ]
    assert meter.answers()[0].latency.sum_s == pytest.approx(0.006)


def test_errors_are_counted_by_kind():
    """By the class's name: the tree in `errors` says what each means."""
    meter = Meter()
    for error in (Overloaded(""), Overloaded(""), DeadlineExceeded("digits/1", 5.0, {}), EngineFailed("")):
        meter.failed(error)
    assert meter.errors() == {"DeadlineExceeded": 1, "EngineFailed": 1, "Overloaded": 2}


@given(st.lists(st.floats(0, 1e5), max_size=50))
def test_every_latency_is_in_the_bucket_that_holds_it(latencies_ms):
    """The counts up to a bound are those that took at most so long."""
    meter = Meter()
    for latency_ms in latencies_ms:
        meter.answered(reply(latency_ms))
    counts = meter.answers()[0].latency.counts if latencies_ms else (0,) * (len(BUCKETS_S) + 1)
    for index, bound_s in enumerate(BUCKETS_S):
        assert sum(counts[: index + 1]) == sum(one <= bound_s * 1e3 for one in latencies_ms)
    assert sum(counts) == len(latencies_ms)


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=100), st.floats(0, 1))
def test_a_quantile_is_in_its_bucket(latencies_s, share):
    """Within the bounds between which the true one lies."""
    counts = [0] * (len(BUCKETS_S) + 1)
    for value in latencies_s:
        counts[next(index for index, bound_s in enumerate(BUCKETS_S) if value <= bound_s)] += 1
    found_s = Histogram(counts=tuple(counts)).quantile_s(share)
    true_s = sorted(latencies_s)[max(math.ceil(share * len(latencies_s)) - 1, 0)]
    slot = next(index for index, bound_s in enumerate(BUCKETS_S) if true_s <= bound_s)
    assert (BUCKETS_S[slot - 1] if slot else 0.0) <= found_s * (1 + 1e-9)
    assert found_s <= BUCKETS_S[slot] * (1 + 1e-9)


def test_quantiles_of_nothing_and_of_the_very_slow_are_told():
    """NaN where there is none; the largest bound for what is beyond it."""
    assert math.isnan(Histogram().quantile_s(0.5))
    assert Histogram(counts=(*(0 for _ in BUCKETS_S), 3)).quantile_s(0.5) == BUCKETS_S[-1]


def test_threads_lose_no_count():
    """Counting takes no lock and is exact all the same, where the interpreter has a global lock."""
    meter = Meter()
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [meter.answered(reply()) for _ in range(5_000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before_s)
    assert meter.answers()[0].requests == 40_000
    assert meter.answers()[0].latency.sum_s == pytest.approx(40.0)


def test_a_meter_is_bounded():
    """Servers that come and go for months fill no memory; nothing is left uncounted."""
    meter = Meter()
    for number in range(telemetry.MAX_CELLS + 10):
        meter.answered(reply(place=f"server:10.0.0.{number}:8500"))
        meter.failed(type(f"Kind{number}", (Exception,), {})())
    found = {one.place: one.requests for one in meter.answers()}
    assert len(found) == telemetry.MAX_CELLS + 1
    assert found["other"] == 10
    assert sum(meter.errors().values()) == telemetry.MAX_CELLS + 10
    assert len(meter.errors()) == telemetry.MAX_ERRORS + 1


def test_stats_are_plain_values():
    """What the parts know of a version is put together, and goes through JSON."""
    meter = Meter()
    meter.answered(reply())
    meter.failed(Overloaded(""))
    engine = EngineReport(device="edgetpu:usb:0", variant="int8-edgetpu", state="unhealthy", reason="it hangs")
    one = model_stats(
        "digits",
        3,
        meter,
        queue=BatcherStats(queued=2, batches={1: 5, 4: 2}),
        engines=[engine],
        faults={"edgetpu:usb:0": EngineFaults(stuck=1, restarts=1)},
    )
    assert one.requests == 2
    assert one.engines[0].faults.stuck == 1
    found = json.loads(json.dumps(RuntimeStats(models=(one,), servers={"10.0.0.7:8500": "closed"}).as_dict()))
    assert found["servers"] == {"10.0.0.7:8500": "closed"}
    assert found["models"][0]["queue"]["batches"] == {"1": 5, "4": 2}
    assert found["models"][0]["errors"] == {"Overloaded": 1}
    assert found["models"][0]["engines"][0]["report"]["reason"] == "it hangs"


def test_an_event_is_a_sentence_with_fields(log, caplog):
    """The record is the standard library's, and says where it came from."""
    telemetry.event(log, logging.INFO, "engine_ready", "digits/3 runs on 100 % cpu", device="cpu", threads=2)
    (record,) = caplog.records
    assert record.getMessage() == "digits/3 runs on 100 % cpu"
    assert record.edge == {"event": "engine_ready", "device": "cpu", "threads": 2}
    assert record.filename == "test_telemetry.py"
    telemetry.event(log, logging.DEBUG, "engine_back", "is not logged at this level")
    assert len(caplog.records) == 1


def test_a_line_is_one_json_object(log, caplog):
    """Whatever the fields hold, and in spite of line breaks; time in UTC."""
    telemetry.event(log, logging.WARNING, "engine_lost", "two\nlines", cause="stuck", level="no", value={1, 2}, x=b"x")
    try:
        int("no number")
    except ValueError:
        log.exception("unnamed")
    first, second = (JsonFormatter().format(record) for record in caplog.records)
    assert "\n" not in first + second
    found = json.loads(first)
    assert (found["level"], found["logger"], found["message"]) == ("WARNING", "edge_runtime.test", "two\nlines")
    assert (found["event"], found["cause"]) == ("engine_lost", "stuck")
    assert found["time"].endswith("+00:00")
    assert "ValueError: invalid literal" in json.loads(second)["exception"]


def test_records_of_others_come_out_too(log, caplog):
    """A field that is no dict, and a value that no JSON knows, lose no line."""
    log.info("plain %d", 1, extra={"edge": "not ours"})
    log.info("odd", extra={"edge": {"what": object(), "nan": float("nan")}})
    plain, odd = (json.loads(JsonFormatter().format(record)) for record in caplog.records)
    assert plain["message"] == "plain 1"
    assert odd["nan"] is None
    assert odd["what"].startswith("<object")
