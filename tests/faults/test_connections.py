"""Connections without end, over raw sockets: how many there may be, who has to go, and who is served meanwhile."""

import contextlib
import resource
import socket
import time

import httpx
import psutil
import pytest
from support.bystanders import DEADLINE_S, Bystander, memory_mib, others_served, serve, settled, sockets
from support.raw_http2 import RawHttp2
from support.worker_servers import Connection, request

from fallback_server.protocol import methods

pytestmark = pytest.mark.slow

CROWD = 10_000


@contextlib.contextmanager
def crowd(port, many, **greeting):
    """So many connections at a time; those that the server closes count too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, many + 1000) if hard > 0 else many + 1000, hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        yield [stack.enter_context(RawHttp2(port, **greeting)) for _ in range(many)]


def most_here():
    """Ten thousand, or what this machine's limits leave for both ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CROWD if hard < 0 or hard > 2 * CROWD - 1 else hard // 3


@pytest.mark.parametrize(("greet", "many"), [(False, 2000), (True, CROWD)], ids=["silent", "http2"])
def test_ten_thousand_idle_connections_leave_room_for_others(server, greet, many):
    """Each costs some 15 KB, and others are served, over connections that they have and over new ones."""
    with others_served(server, most_mib=400) as others, crowd(server.port, min(many, most_here()), greet=greet):
        others.served()
        with contextlib.closing(Connection(server.address)) as comer:
            assert comer.predict(timeout=DEADLINE_S) == (1, 2.0)
        assert httpx.get(f"http://{server.rest}/v1/models/lite", timeout=DEADLINE_S).status_code == 200
    assert settled(sockets, server, 200) <= 200


@pytest.mark.parametrize("server", ["grpcio"], indirect=True)
def test_ten_thousand_idle_connections_of_rest_leave_room_for_others(server):
    """The oldest make room: a new one is answered however many there are."""
    _, port = server.rest.rsplit(":", 1)
    with others_served(server, most_mib=400) as others, crowd(int(port), most_here(), greet=False) as waiting:
        others.served()
        assert httpx.get(f"http://{server.rest}/v1/models/lite", timeout=DEADLINE_S).status_code == 200
        if len(waiting) > 5000:
            assert waiting[0].frames() == []
            assert waiting[0].closed


def test_a_thousand_calls_of_one_connection_without_a_deadline_are_answered(server):
    """All of them, over one connection."""
    with contextlib.closing(Connection(server.address)) as one:
        predict = methods.PREDICT.bind(one.channel)
        calls = [predict.future(request(values=(number, 0, 0, 0))) for number in range(1000)]
        assert [call.result().outputs["y"].float_val[0] for call in calls] == [2.0 * number for number in range(1000)]


def test_a_connection_too_many_is_closed_at_once_and_the_others_stay(tmp_path):
    """By the bound that an operator sets; a place that becomes free is the next one's."""
    server = serve(tmp_path, "--grpc_channel_arguments=grpc.max_allowed_incoming_connections=64")
    with contextlib.closing(server), Bystander(server) as bystander:
        with crowd(server.port, 100) as all_of_them:
            end_s = time.monotonic() + 20
            while len([one for one in all_of_them if one.closed]) < 37 and time.monotonic() < end_s:
                for one in all_of_them:
                    one.frames()
            assert len([one for one in all_of_them if one.closed]) == 37  # 63 beside the bystander's.
        with contextlib.closing(Connection(server.address)) as comer:
            end_s = time.monotonic() + 20
            while time.monotonic() < end_s:
                with contextlib.suppress(Exception):
                    assert comer.predict(timeout=5) == (1, 2.0)
                    break
            assert comer.predict() == (1, 2.0)
    assert bystander.failed == []


def test_who_begins_and_says_no_more_is_closed(tmp_path):
    """Nothing at all, a part of HTTP/2's first words, or those and no call: each has its time."""
    arguments = "grpc.server_handshake_timeout_ms=1000,grpc.max_connection_idle_ms=1000"
    server = serve(tmp_path, f"--grpc_channel_arguments={arguments}")
    with contextlib.closing(server), contextlib.ExitStack() as stack:
        silent, half, idle = (stack.enter_context(RawHttp2(server.port, greet=greet)) for greet in (False, False, True))
        half.socket.sendall(b"PRI * HTTP")
        for one in (silent, half, idle):
            one.frames(wait_s=20)
            assert one.closed
        without = sockets(server)
        with contextlib.closing(Connection(server.address)) as honest:
            assert honest.predict() == (1, 2.0)
            assert settled(sockets, server, without) <= without  # It was told to go,
            assert honest.predict() == (1, 2.0)  # and has come again.


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_a_server_out_of_descriptors_serves_who_is_there_and_recovers(tmp_path, transport):
    """It neither spins nor fills its log; once others leave, whoever waited is taken."""
    server = serve(tmp_path, f"--transport={transport}")
    process = psutil.Process(server.process.pid)
    with contextlib.closing(server), Bystander(server) as bystander:
        before_mib, lines, spent = memory_mib(server), len(server.log), sum(process.cpu_times()[:2])
        process.rlimit(psutil.RLIMIT_NOFILE, (120, 120))
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                one = stack.enter_context(socket.socket())
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.connect(("127.0.0.1", server.port))
            bystander.served()
            time.sleep(1.5)
            bystander.served()
            assert memory_mib(server) - before_mib < 50
            assert len(server.log) - lines < 300
            assert sum(process.cpu_times()[:2]) - spent < 1.25
        with contextlib.closing(Connection(server.address)) as comer:
            assert comer.predict(timeout=DEADLINE_S) == (1, 2.0)
    assert bystander.failed == []
