import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support.edge_models import publish_scale, rows
from support.edge_servers import scale_server
from support.snapshots import Running, busy, snapshot

from edge_runtime import Runtime
from edge_runtime.errors import RuntimeClosed
from edge_runtime.metrics import serve_metrics
from edge_runtime.snapshot import MAX_BYTES, NoSnapshot, decode, encode, fetch, take


@contextmanager
def other_program(status, body):
    """The address of an HTTP server that is none of ours."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_running_application_is_seen_from_outside():
    """Over the metrics' port comes all that the runtime tells, and whose process it is."""
    with serve_metrics(Running(), "127.0.0.1:0") as server:
        seen = fetch(server.address)
    assert seen.stats == busy()
    assert seen.process.pid == os.getpid()
    assert seen.process.program
    assert seen.process.cpu_s > 0
    assert seen.process.up_s > 0
    assert seen.process.resident_bytes > 2**20


def test_a_real_runtime_shows_its_models_places_and_servers(tmp_path):
    """What a device and a server have answered, each with its reason, and what is known of the server."""
    publish_scale(tmp_path, 1, 2.0)
    with (
        scale_server({2: 3.0}) as server,
        Runtime.open(tmp_path, fallback=server.address, metrics="127.0.0.1:0", threads=1) as runtime,
    ):
        runtime.model("scale").predict(rows(1))
        runtime.model("scale", version=2).predict(rows(1))
        stats = fetch(runtime._metrics.address).stats
    found = {(model.version, one.place, one.reason) for model in stats.models for one in model.answered}
    assert found == {(1, "device:cpu", "local"), (2, f"server:{server.address}", "version-missing")}
    (known,) = stats.endpoints
    assert (known.address, known.state, known.in_flight) == (server.address, "closed", 0)


def test_fields_of_a_later_release_are_passed_over():
    """And those that an earlier one doesn't have are as if nothing was known."""
    data = b'{"taken_s": 1, "process": {"pid": 7, "colour": 3}, "stats": {"models": []}, "more": {}}'
    seen = decode(data)
    assert (seen.process.pid, seen.process.up_s, seen.stats.endpoints) == (7, None, ())


def test_other_bounds_of_latencies_are_no_snapshot():
    """They can't be compared with ours, and are not read as if they could."""
    data = encode(snapshot()).replace(b'"counts":[', b'"counts":[0,')
    with pytest.raises(ValueError, match="18 counts of latencies, 17 expected"):
        decode(data)


def test_where_nothing_listens_the_error_says_what_to_do():
    """The address, and the option that makes a runtime listen."""
    with serve_metrics(Running(), "127.0.0.1:0") as server:
        address = server.address
    with pytest.raises(NoSnapshot, match=f"nothing listens at {address}: open the runtime with metrics="):
        fetch(address)


def test_a_closed_runtime_says_so():
    """In its own words."""
    runtime = Running()
    runtime.error = RuntimeClosed("the runtime has been closed")
    with (
        serve_metrics(runtime, "127.0.0.1:0") as server,
        pytest.raises(NoSnapshot, match="503 'the runtime has been closed'"),
    ):
        fetch(server.address)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"not here\nnor there", r"404 'not here' \(another program, or an older runtime\)"),
        (200, b"<html>", "no snapshot of a runtime"),
        (200, b"{}", "no snapshot of a runtime"),
        (200, b" " * (MAX_BYTES + 2), "no snapshot of a runtime"),
    ],
)
def test_another_program_is_told_as_such(status, body, said):
    """Whatever it answers, and however much."""
    with other_program(status, body) as address, pytest.raises(NoSnapshot, match=said):
        fetch(address)


def test_who_listens_and_says_nothing_is_given_up():
    """When the time is over."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NoSnapshot, match=f"no runtime answers at {address}: timed out"):
            fetch(address, limit_s=0.05)


def test_this_process_is_measured_without_a_name(monkeypatch):
    """An interpreter without a script has none."""
    monkeypatch.setattr("sys.argv", [])
    assert take(busy()).process.program == ""
