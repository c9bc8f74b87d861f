import asyncio
import json
import re
import socket
import threading
import time

import httpx
import pytest
from support.rest_stand import Gate, NumpyExecutor, halves, standing

from fallback_server.protocol.status import Fault
from fallback_server.transport.grpc_server import PortUnavailable
from fallback_server.transport.rest.refusals import HTTP_CODES


@pytest.fixture
def gated(tmp_path):
    gate = Gate()
    with standing({("slow", 1): gate.executor, ("half", 1): halves()}, tmp_path) as stand:
        stand.gate = gate
        yield stand
        gate.opened.set()


BODY = b'{"inputs": [1]}'


def post(url, **options):
    return httpx.post(url, timeout=30, **options)


def in_thread(function):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(function()), daemon=True)
    thread.start()
    return thread, answers


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_request_past_its_time_is_a_gateway_timeout(tmp_path):
    """The caller hears of it; what runs goes on for nobody."""
    gate = Gate()
    with standing({("slow", 1): gate.executor}, tmp_path, timeout_s=0.2) as stand:
        answer = post(f"{stand.url}/v1/models/slow:predict", content=BODY)
        assert (answer.status_code, answer.json()["error"]) == (504, "the answer took longer than 200 ms")
        gate.opened.set()


def test_a_client_that_leaves_cancels_its_request(gated):
    """One that waits in the queue is never run."""
    url = f"{gated.url}/v1/models/slow:predict"
    running = [in_thread(lambda: post(url, content=BODY)) for _ in range(3)]  # as many as there are threads
    assert gated.gate.entered.wait(30)
    with socket.create_connection(("127.0.0.1", gated.port)) as client:
        client.sendall(
            b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
        )
        until(lambda: len(gated.server._backend._waiting) == 4)
    until(lambda: len(gated.server._backend._waiting) == 3)
    gated.gate.opened.set()
    for thread, answers in running:
        thread.join(30)
        assert answers[0].status_code == 200
    assert gated.gate.runs <= 3


def test_a_stop_waits_for_what_is_in_flight(gated):
    """New connections are refused, the answer still comes."""
    thread, answers = in_thread(lambda: post(f"{gated.url}/v1/models/slow:predict", content=BODY))
    assert gated.gate.entered.wait(30)
    stopping = asyncio.run_coroutine_threadsafe(gated.server.stop(grace_s=30), gated.loop)
    until(lambda: _refused(gated.port))
    assert not stopping.done()
    gated.gate.opened.set()
    stopping.result(30)
    thread.join(30)
    assert answers[0].json() == {"outputs": [1.0]}
    assert answers[0].headers["connection"] == "close"


def test_a_stop_tells_those_that_go_on_asking(gated):
    """None meets a closed connection: each is told, and that the connection is closed with that answer."""

    def ask_on():
        with httpx.Client(timeout=30) as client:
            while (answer := client.get(f"{gated.url}/v2/models/half")).status_code == 200:
                started.add(threading.get_ident())
            return answer

    started = set()
    asking = [in_thread(ask_on) for _ in range(4)]
    until(lambda: len(started) == 4)
    gated.call(gated.server.stop(grace_s=30))
    for thread, answers in asking:
        thread.join(30)
        assert (answers[0].status_code, answers[0].json()["error"]) == (503, "the server is stopping")
        assert answers[0].headers["connection"] == "close"


def _refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


def test_a_stop_gives_up_on_what_outlasts_the_grace(gated):
    """The caller is told that the server is stopping."""
    thread, answers = in_thread(lambda: post(f"{gated.url}/v1/models/slow:predict", content=BODY))
    assert gated.gate.entered.wait(30)
    gated.call(gated.server.stop(grace_s=0))
    thread.join(30)
    assert (answers[0].status_code, answers[0].json()["error"]) == (503, "the server is stopping")


def test_a_body_that_is_too_large_is_refused(tmp_path):
    """By its announced length, or when it has come to be so: with value and bound, and the connection closed."""
    with standing({("half", 1): halves()}, tmp_path, max_body_bytes=1000) as stand:
        url = f"{stand.url}/v1/models/half:predict"
        known = post(url, content=b" " * 5000)
        grown = post(url, content=iter([b" " * 600] * 10))
        for answer, size in ((known, "5000"), (grown, r"\d{4}")):
            assert answer.status_code == 413
            assert re.search(f"has {size} bytes or more, at most 1000 are allowed", answer.json()["error"])
        answer = post(url, content=b'{"inputs": [[2, 4]]}' + b" " * 900)
        assert answer.json() == {"outputs": [[1.0, 2.0]]}
        assert stand.server._backend.held.bytes == 0


def test_all_bodies_together_are_bounded(gated):
    """What would take too much memory is refused as what is too much to do."""
    held = gated.server._backend.held
    held.max_bytes = len(BODY) * 4
    url = f"{gated.url}/v1/models/slow:predict"
    running = [in_thread(lambda: post(url, content=BODY)) for _ in range(2)]
    until(lambda: held.bytes == len(BODY) * 2)
    answer = post(url, content=BODY)
    assert answer.status_code == 429
    gated.gate.opened.set()
    for thread, _ in running:
        thread.join(30)
    until(lambda: held.bytes == 0)


def test_the_port_must_be_free(gated):
    """Two servers never share a port unnoticed."""
    with pytest.raises(PortUnavailable, match=f"can't listen on 127.0.0.1:{gated.port} for REST"):
        gated.call(gated.server.start(host="127.0.0.1", port=gated.port))


def test_pages_of_any_origin_may_call_where_the_flag_says_so(tmp_path, gated):
    """With it, browsers are answered that they may; without, nothing is said."""
    asked = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    with standing({("half", 1): halves()}, tmp_path, cors=True) as stand:
        url = f"{stand.url}/v1/models/half:predict"
        answer = httpx.options(url, headers={**asked, "Access-Control-Request-Headers": "content-type"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        answer = post(url, content=b'{"inputs": [[2, 4]]}', headers={"Origin": "http://a.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
    answer = httpx.options(f"{gated.url}/v1/models/half:predict", headers=asked)
    assert answer.json()["error"] == "Malformed request: OPTIONS /v1/models/half:predict"
    assert "access-control-allow-origin" not in answer.headers


def test_a_fault_of_ours_tells_nothing(tmp_path, caplog):
    """What a model raises stays in the log; what the server raises too."""

    def secret(x):
        raise RuntimeError("secret path")

    executor = NumpyExecutor(serving_default=({"x": (-1,)}, {"y": (-1,)}, secret))
    with standing({("bad", 1): executor}, tmp_path) as stand:
        answer = post(f"{stand.url}/v1/models/bad:predict", content=BODY)
        assert (answer.status_code, answer.json()["error"]) == (500, "the model failed to run")
        stand.models.states = lambda _: 1 / 0
        answer = httpx.get(f"{stand.url}/v1/models/bad")
        assert (answer.status_code, answer.json()["error"]) == (500, "internal error; the server's log tells more")
    assert "secret path" in caplog.text


def test_every_fault_has_an_http_code():
    """The table is stated in full."""
    assert HTTP_CODES.keys() == set(Fault)


def test_openapi_tells_what_is_dispatched(gated):
    """Every path and method of the document is routed, every route is in it, and every schema it refers to exists."""
    with httpx.Client(base_url=gated.url, timeout=30) as client:
        document = client.get("/openapi.json").json()
        operations = {(path, method) for path, methods in document["paths"].items() for method in methods}
        routed = {(route.path, route.method.lower()) for route in gated.server.app.routes.routes}
        assert operations == routed
        filled = {"{model}": "half", "{version}": "1", "{label}": "x"}
        for path, method in sorted(operations):
            url = re.sub(r"\{\w+\}", lambda part: filled[part[0]], path)
            answer = client.request(method, url, content=b"{}" if method == "post" else None)
            assert "Malformed request" not in answer.text
            assert "nothing is at" not in answer.text
            told = document["paths"][path][method]["responses"]
            assert str(answer.status_code) in told, (path, answer.status_code, answer.text)
    text = json.dumps(document)
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) <= document["components"]["schemas"].keys()
    names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))


def test_head_answers_as_get_without_the_body(tmp_path):
    """As probes ask; a path that takes POST alone takes no HEAD either."""
    with standing({("half", 1): halves()}, tmp_path, metrics_path="/metrics") as stand:
        for path in ("/", "/metrics", "/v1/models/half", "/v2", "/v2/health/live", "/v2/health/ready", "/v1/models/no"):
            with httpx.Client(base_url=stand.url, timeout=30) as client:
                head, got = client.head(path), client.get(path)
                assert (head.status_code, head.content) == (got.status_code, b"")
                assert head.headers["content-type"] == got.headers["content-type"]
                assert int(head.headers["content-length"]) > 0
        assert httpx.head(f"{stand.url}/v2/repository/index").headers["allow"] == "POST"
        assert httpx.put(f"{stand.url}/v2").headers["allow"] == "GET, HEAD"
        stand.call(stand.server.set_serving(serving=False))
        assert httpx.head(f"{stand.url}/v2/health/ready").status_code == 503


def test_a_path_may_come_with_its_origin(gated):
    """As RFC 9112, section 3.2.2 says of every server."""
    with httpx.Client(base_url=gated.url, timeout=30) as client:
        for origin in (b"http://h", b"HTTP://h:80", b"https://user@[::1]:8501"):
            target = {"target": origin + b"/v1/models/half:predict"}
            answer = client.post("/", content=b'{"inputs": [[2, 4]]}', extensions=target)
            assert answer.json() == {"outputs": [[1.0, 2.0]]}
        assert client.get("/", extensions={"target": b"http://h"}).json()["links"]


def test_the_root_says_where_to_go(gated):
    """Name, version and links."""
    root = httpx.get(gated.url).json()
    assert root["name"] == "edge-fallback-server"
    assert root["links"]["openapi"] == "/openapi.json"


def test_answers_leave_at_once(gated):
    """Connections have no Nagle's delay: head and body are two writes, and the second would wait for the client."""
    with httpx.Client(base_url=gated.url, timeout=30) as client:
        client.get("/v2/health/live")
        (connection,) = gated.server._uvicorn.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
