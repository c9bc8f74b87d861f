"""A configuration that is read again by command, over real gRPC: what the caller is told of models that go."""

import asyncio
import contextlib
import threading

import pytest
from support.control_stand import config, serving
from support.fallback_stages import soon

from fallback_server.batching.options import BatchingOptions
from fallback_server.cli import main
from fallback_server.core.servable import State
from fallback_server.dataplane import DataPlane
from fallback_server.poller import Poller
from fallback_server.transport.grpc_server import GrpcServer


@contextlib.asynccontextmanager
async def listening(server):
    """Has a server listen, and look at the disk when it is woken, and then alone; gives its address."""
    poller = Poller(source=server.control, manager=server.control, wait_s=3600, on_ready=lambda: None)
    server.control.wake = poller.wake
    clock = asyncio.get_running_loop().time
    grpc = GrpcServer(
        DataPlane(versions=server.control, options=BatchingOptions(), clock=clock), server.control, server_id="s"
    )
    port = await grpc.start(host="127.0.0.1", port=0)
    poller.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await grpc.stop(grace_s=0)
        poller.stop(timeout_s=30)


@pytest.fixture
def stand(tmp_path):
    """A server of a, b and c, and the list that it is configured by."""
    found = [config(tmp_path, name) for name in "abc"]
    with serving(tmp_path) as make:
        yield make(*found, folders=("a/1", "b/1", "c/1"), read_configs=lambda: tuple(found)), found


def test_a_model_that_is_taken_out_is_no_failure(stand, capsys):
    """It is told as removed, once, and nobody waits for it; what is left is told as reloaded."""
    server, found = stand

    async def story():
        async with listening(server) as address:
            assert await asyncio.to_thread(main, ["reload", address]) == 0
            del found[1]
            assert server.control.reload() == ("a", "c")
            found.insert(1, config(server.root, "b"))
            assert await asyncio.to_thread(main, ["reload", address]) == 0
            del found[1]
            assert await asyncio.to_thread(main, ["reload", address]) == 0
            assert await asyncio.to_thread(main, ["reload", address]) == 0

    asyncio.run(story())
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "reloaded: a, b, c",
        "reloaded: a, b, c",
        "reloaded: a, c; removed: b",
        "reloaded: a, c",
    ]


def test_who_waits_for_a_model_that_is_removed_meanwhile_is_told_so(stand, capsys):
    """The load that hung is given up; the call that waited for it fails, and says what became of it."""
    server, found = stand
    server.gates[9] = threading.Event()
    server.add("hang/9")

    async def story():
        async with listening(server) as address:
            found.append(config(server.root, "hang"))
            waiting = asyncio.create_task(asyncio.to_thread(main, ["reload", address]))
            loading = {9: State.LOADING}
            await asyncio.to_thread(soon, lambda: server.manager.names()[-1] == "hang")
            await asyncio.to_thread(soon, lambda: server.states("hang") == loading)
            found.pop()
            assert await asyncio.to_thread(main, ["reload", address]) == 0
            assert await waiting == 1

    asyncio.run(story())
    out, err = capsys.readouterr()
    assert out == "reloaded: a, b, c; removed: hang\n"
    assert err.endswith("did not become available: {{name: hang}: it was removed meanwhile, or taken out of service}\n")
