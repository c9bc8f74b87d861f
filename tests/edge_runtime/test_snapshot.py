import contextlib
import os
import socket
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


@contextmanager
def raw_server(head, piece=b"", pause_s=0.0):
    """The address of a server that sends a head, and then a piece again and again, and an event for who hung up."""
    gone = threading.Event()
    closed = threading.Event()

    def serve(listener):
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(head)
            while piece and not closed.wait(pause_s):
                connection.sendall(piece)
        gone.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", gone
        finally:
            closed.set()
            thread.join()


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_a_whole_answer_has_its_time_and_no_more(head, piece):
    """Who drips bytes, or says again and again that more will come, is left; the connection ends with that."""
    with raw_server(head, piece, pause_s=0.01) as (address, gone):
        with pytest.raises(NoSnapshot, match=r"no whole answer within 0\.2 s"):
            fetch(address, limit_s=0.2)
        assert gone.wait(30)


def test_foreign_words_are_repeated_without_what_moves_a_cursor():
    """A status line that is none is shown, but controls no terminal."""
    with raw_server(b"\x1b]0;pwned\x07\x1b[2Jhello\r\n\r\n") as (address, _):
        with pytest.raises(NoSnapshot, match="pwned") as refused:
            fetch(address, limit_s=30.0)
        assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b"[" * 100_000,
        b'{"taken_s": 1, "process": {"pid": 1' + b"0" * 400 + b'}, "stats": {}}',
        b'{"taken_s": 1e300, "process": {"pid": 1}, "stats": {}}',
        b'{"taken_s": 1, "process": {"pid": 1}, "stats": {"models": [{"model": "m", "version": 1, "errors": {"e": 1'
        + b"0" * 30
        + b"}}]}}",
    ],
)
def test_what_no_runtime_says_is_no_snapshot(body):
    """Depths and figures with which nothing can be reckoned are refused where they come in."""
    with pytest.raises(ValueError, match=r"nested too deep|figures that no runtime has|range|expected"):
        decode(body)
