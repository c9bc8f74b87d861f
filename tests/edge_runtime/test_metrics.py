import http.client
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import metrics, metrics_server
from edge_runtime.errors import InvalidConfig, RuntimeClosed
from edge_runtime.metrics import prometheus_text, serve_metrics
from edge_runtime.scheduling.stats import BatcherStats
from edge_runtime.telemetry import (
    ClimateStats,
    EngineFaults,
    Meter,
    ModelStats,
    RuntimeStats,
    Sensor,
    ServerStats,
    TrustStats,
    model_stats,
)
from edge_runtime.types import EngineReport, Reply


def full_stats():
    """A runtime with one loaded version and one that only a server has."""
    meter, far = Meter(), Meter()
    for latency_ms, place, reason in (
        (0.5, "device:cpu", "local"),
        (20.0, "device:cpu", "server-failed"),
        (30.0, "server:10.0.0.7:8500", "overloaded"),
    ):
        meter.answered(Reply(outputs={}, version=3, place=place, reason=reason, latency_ms=latency_ms))
    meter.failed(RuntimeClosed(""))
    far.answered(Reply(outputs={}, version=9, place="server:a:1", reason="version-missing", latency_ms=1.0))
    loaded = model_stats(
        "digits",
        3,
        meter,
        queue=BatcherStats(queued=2, queued_bytes=600, expired=4, retried=1, run_s=1.5, batches={1: 5, 4: 2}),
        engines=[
            EngineReport(device="edgetpu:usb:0", variant="int8-edgetpu", state="unhealthy", reason="hangs"),
            EngineReport(device="cpu", variant="int8", state="ready"),
        ],
        faults={"edgetpu:usb:0": EngineFaults(stuck=2, restarts=1)},
    )
    return RuntimeStats(models=(loaded, model_stats("digits", None, far)), servers={"10.0.0.7:8500": "open"})


def parsed(text):
    """By name and labels, as Prometheus' own parser reads it."""
    parser = pytest.importorskip("prometheus_client.parser")
    found = {}
    for family in parser.text_string_to_metric_families(text):
        for one in family.samples:
            key = (one.name, frozenset(one.labels.items()))
            assert key not in found, "a series twice spoils a scrape"
            found[key] = one.value
    return found


def value(found, name, **labels):
    return found[name, frozenset(labels.items())]


class Fixed:
    """What has the stats of a runtime."""

    def __init__(self, stats=None, error=None):
        self.error = error
        self._stats = stats or full_stats()

    def stats(self):
        if self.error is not None:
            raise self.error
        return self._stats


def asked(address, path="/metrics", method="GET"):
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read().decode()
    finally:
        connection.close()


def test_the_text_is_what_prometheus_reads():
    """Every counter is there under its name, with the labels of model, version and device."""
    found = parsed(prometheus_text(full_stats()))
    labels = {"model": "digits", "version": "3"}
    assert value(found, "edge_requests_total", **labels, device="cpu", reason="local") == 1
    assert value(found, "edge_requests_total", **labels, server="10.0.0.7:8500", reason="overloaded") == 1
    assert value(found, "edge_requests_total", model="digits", server="a:1", reason="version-missing") == 1
    assert value(found, "edge_request_errors_total", **labels, kind="RuntimeClosed") == 1
    assert value(found, "edge_queue_requests", **labels) == 2
    assert value(found, "edge_queue_bytes", **labels) == 600
    assert value(found, "edge_requests_expired_total", **labels) == 4
    assert value(found, "edge_retries_total", **labels) == 1
    assert value(found, "edge_run_seconds_total", **labels) == 1.5
    assert value(found, "edge_batches_total", **labels, rows="4") == 2
    tpu = {"device": "edgetpu:usb:0", "variant": "int8-edgetpu"}
    assert value(found, "edge_engine_state", **labels, **tpu, state="unhealthy") == 1
    assert value(found, "edge_engine_state", **labels, **tpu, state="ready") == 0
    assert value(found, "edge_engine_failures_total", **labels, device="edgetpu:usb:0", cause="stuck") == 2
    assert value(found, "edge_engine_restarts_total", **labels, device="edgetpu:usb:0") == 1
    assert value(found, "edge_server_breaker", server="10.0.0.7:8500", state="open") == 1


def test_the_histogram_is_a_histogram():
    """Buckets add up, over a place's reasons, and end with all of them; the sum is in seconds."""
    found = parsed(prometheus_text(full_stats()))
    labels = {"model": "digits", "version": "3", "device": "cpu"}
    buckets = [
        value(found, "edge_request_duration_seconds_bucket", **labels, le=le)
        for le in ("0.0001", "0.0005", "0.01", "0.025", "10", "+Inf")
    ]
    assert buckets == [0, 1, 1, 2, 2, 2]
    assert value(found, "edge_request_duration_seconds_count", **labels) == 2
    assert value(found, "edge_request_duration_seconds_sum", **labels) == pytest.approx(0.0205)


@given(st.text(max_size=20).filter(lambda text: "\r" not in text))
def test_any_text_is_a_label(text):
    """Quotes, backslashes and line breaks included; none of them ends the line."""
    stats = RuntimeStats(models=(ModelStats(model="m", version=1, errors={text: 1}),))
    lines = [line for line in prometheus_text(stats).split("\n") if line.startswith("edge_request_errors_total")]
    assert len(lines) == 1
    assert lines[0].endswith(" 1")
    found = parsed(prometheus_text(stats))
    assert value(found, "edge_request_errors_total", model="m", version="1", **({"kind": text} if text else {})) == 1


def test_a_version_that_is_there_twice_is_one_series():
    """While it is replaced: what both did is added up."""
    one = ModelStats(model="m", version=1, queue=BatcherStats(expired=2), errors={"Overloaded": 1})
    found = parsed(prometheus_text(RuntimeStats(models=(one, one))))
    assert value(found, "edge_requests_expired_total", model="m", version="1") == 4


def test_an_idle_runtime_has_nothing_to_tell():
    """No model, no line."""
    assert prometheus_text(RuntimeStats()) == ""


def test_a_scrape_is_answered_until_it_is_closed():
    """With the current stats, at a port of its own; afterwards nobody listens, and no thread is left."""
    runtime = Fixed()
    with serve_metrics(runtime, "127.0.0.1:0") as server:
        assert asked(server.address) == (200, metrics.CONTENT_TYPE, prometheus_text(full_stats()))
        assert asked(server.address, method="HEAD")[::2] == (200, "")
        assert asked(server.address, "/other")[0] == 404
        assert asked(server.address, method="POST")[0] == 501
        assert "open" in repr(server)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        asked(server.address)
    assert not any(thread.name.startswith("edge-metrics") for thread in threading.enumerate())


def test_what_goes_wrong_at_a_scrape_ends_no_server(caplog):
    """A closed runtime is told as such, an unknown fault goes into the log; the next scrape is answered."""
    runtime = Fixed(error=RuntimeClosed("the runtime has been closed"))
    with serve_metrics(runtime, "127.0.0.1:0") as server:
        assert asked(server.address)[::2] == (503, "the runtime has been closed\n")
        runtime.error = ZeroDivisionError("secret")
        status, _, text = asked(server.address)
        assert status == 500
        assert "secret" not in text
        assert "the metrics can't be read" in caplog.text
        runtime.error = None
        assert asked(server.address)[0] == 200


def connected(server):
    host, port = server.address.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_silent_clients_do_not_hold_up_the_others(monkeypatch):
    """Nor the closing: however many there are, the next scrape is answered before the time of any is over."""
    monkeypatch.setattr(metrics_server, "REQUEST_LIMIT_S", 1e9)
    with serve_metrics(Fixed(), "127.0.0.1:0") as server:
        silent = [connected(server) for _ in range(3 * metrics_server.MAX_CONNECTIONS)]
        assert asked(server.address)[0] == 200
        assert silent[0].recv(1) == b""
        server.close()
        assert silent[-1].recv(1) == b""
        for one in silent:
            one.close()
    for thread in threading.enumerate():
        if thread.name.startswith("edge-metrics"):
            thread.join(30)
            assert not thread.is_alive()


def test_a_slow_client_is_cut_off(monkeypatch):
    """When its time is over, also one that says something now and then."""
    monkeypatch.setattr(metrics_server, "REQUEST_LIMIT_S", 0.05)
    with serve_metrics(Fixed(), "127.0.0.1:0") as server, connected(server) as slow:
        slow.sendall(b"GET /metrics")
        assert slow.recv(1) == b""


@pytest.mark.parametrize("address", ["9101", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:-1", "", "[::1:9101"])
def test_an_impossible_address_is_refused(address):
    """The message quotes it."""
    with pytest.raises(InvalidConfig, match="host:port"):
        serve_metrics(Fixed(), address)


def test_a_port_that_is_taken_is_refused():
    """As an option that can't be had."""
    with serve_metrics(Fixed(), "127.0.0.1:0") as server, pytest.raises(InvalidConfig, match="can't be listened on"):
        serve_metrics(Fixed(), server.address)


def test_heat_and_throttling():
    """Temperatures by sensor, factors by device, clocks in the base unit, and what the firmware says."""
    climate = ClimateStats(
        sensors=(Sensor(source="thermal_zone0", kind="cpu-thermal", celsius=81.5),),
        factors={"cpu": 3.0, "apex_0": 1.0},
        clock_mhz=(600.0, 1800.0),
        firmware=("throttled", "seen_under_voltage"),
    )
    found = parsed(prometheus_text(RuntimeStats(climate=climate)))
    assert value(found, "edge_temperature_celsius", sensor="thermal_zone0", kind="cpu-thermal") == 81.5
    assert value(found, "edge_throttle_factor", device="cpu") == 3
    assert value(found, "edge_throttle_factor", device="apex_0") == 1
    assert value(found, "edge_cpu_frequency_hertz", limit="allowed") == 600_000_000
    assert value(found, "edge_cpu_frequency_hertz", limit="maximal") == 1_800_000_000
    assert value(found, "edge_firmware_throttling", state="throttled") == 1
    assert value(found, "edge_firmware_throttling", state="seen_under_voltage") == 1


def test_what_is_known_of_a_server():
    """Calls under way, and in base units what a row takes there, the way and its bandwidth; no line for the unknown."""
    known = ServerStats(
        address="a:1", state="closed", in_flight=2, wait_ms=12.5, round_trip_ms=0.8, bandwidth_bytes_s=2.5e6
    )
    text = prometheus_text(RuntimeStats(endpoints=(known, ServerStats(address="b:1", state="open"))))
    found = parsed(text)
    assert value(found, "edge_server_calls_in_flight", server="a:1") == 2
    assert value(found, "edge_server_calls_in_flight", server="b:1") == 0
    assert value(found, "edge_server_wait_seconds", server="a:1") == pytest.approx(0.0125)
    assert value(found, "edge_server_round_trip_seconds", server="a:1") == pytest.approx(0.0008)
    assert value(found, "edge_server_bandwidth_bytes", server="a:1") == 2.5e6
    assert text.count('server="b:1"') == 1


def test_untrusted_servers_are_counted():
    """By reason, with what was dropped and when a trusted server's certificate ends; nothing where there is none."""
    assert "untrusted" not in prometheus_text(RuntimeStats())
    server = ServerStats(address="10.0.0.7:8500", state="closed", certificate="gpu-1", certificate_until_s=1.8e9)
    trust = TrustStats(counts={"certificate": 2, "silent": 1}, dropped=7)
    found = parsed(prometheus_text(RuntimeStats(endpoints=(server,), trust=trust)))
    assert value(found, "edge_remote_untrusted_total", reason="certificate") == 2
    assert value(found, "edge_remote_announcements_dropped_total") == 7
    assert value(found, "edge_server_certificate_end_seconds", server="10.0.0.7:8500") == 1.8e9
