"""The server behind the port: what clients are bound by does not bind it, and no removal of its socket lasts."""

import asyncio
import logging
import shutil

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import loaded

from fallback_server.transport.native import private_folder
from fallback_server.transport.private_server import PrivateServer, private_arguments
from fallback_server.transport.unix_socket import SocketUnavailable


class Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details):
        async def echo(data, _context):
            return data

        return grpc.unary_unary_rpc_method_handler(echo)


def made():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    return server


def channel(server):
    return grpc.aio.insecure_channel(f"unix:{server.socket}", options=[("grpc.use_local_subchannel_pool", 1)])


async def asked(channel):
    return await channel.unary_unary("/a/B")(b"x", timeout=20, wait_for_ready=True)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where temporary files are."""
    monkeypatch.setattr(private_folder.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def told(story):
    async def run():
        server = PrivateServer(made)
        await server.start()
        try:
            await asyncio.wait_for(story(server), 60)
        finally:
            await server.stop(0)
            server.close()

    asyncio.run(run())


def test_what_bounds_a_clients_connection_does_not_bind_it():
    """All that a worker passes on comes over one; only what is said of messages goes along."""
    said = (
        ("grpc.max_concurrent_streams", 4),
        ("grpc.max_connection_age_ms", 1000),
        ("grpc.absolute_max_metadata_size", 100),
        ("grpc.max_receive_message_length", 5),
    )
    options = private_arguments(said)
    assert options[0] == ("grpc.max_receive_message_length", 5)
    assert not set(said[:3]) & set(options)
    assert dict(options)["grpc.max_concurrent_streams"] >= 2**31 - 2


def test_more_streams_are_passed_on_than_one_client_may_have(tmp_path):
    """Over one connection, as a worker's; the operator bounds what each connection to the port may have."""

    async def story():
        options = {"shared": True, "channel_arguments": (("grpc.max_concurrent_streams", 2),)}
        async with (
            loaded(FakeExecutor(), tmp_path, **options) as stand,
            grpc.aio.insecure_channel(f"unix:{stand.server.private_path}") as inside,
        ):
            health = health_pb2_grpc.HealthStub(inside)
            watches = [health.Watch(health_pb2.HealthCheckRequest(), timeout=30) for _ in range(8)]
            for watch in watches:
                await watch.read()
            for watch in watches:
                watch.cancel()

    asyncio.run(story())


def test_a_folder_that_is_removed_is_there_again(place, caplog):
    """In the same place, however often; who was connected stays so, and the log tells."""

    async def story(server):
        async with channel(server) as before:
            assert await asked(before) == b"x"
            shutil.rmtree(server.path)
            await server.look()
            assert await asked(before) == b"x"
        for _ in range(4):
            await server.look()  # Nothing is gone.
            shutil.rmtree(server.path)
            await server.look()
            async with channel(server) as new:
                assert await asked(new) == b"x"
        server.socket.unlink()
        await server.look()
        async with channel(server) as new:
            assert await asked(new) == b"x"

    with caplog.at_level(logging.WARNING):
        told(story)
    assert sum("was removed, and is there again" in record.getMessage() for record in caplog.records) == 6
    assert list(place.iterdir()) == []


def test_a_folder_of_somebody_else_in_its_place_is_left_alone(place, caplog):
    """It is told once; and it is made anew when that is gone."""

    async def story(server):
        shutil.rmtree(server.path)
        server.path.mkdir()
        await server.look()
        await server.look()
        assert list(server.path.iterdir()) == []
        server.path.rmdir()
        await server.look()
        async with channel(server) as new:
            assert await asked(new) == b"x"

    with caplog.at_level(logging.ERROR):
        told(story)
    assert len(caplog.records) == 1
    assert place.exists()


def test_one_that_can_not_listen_says_why(place):
    """With the path."""

    async def story():
        server = PrivateServer(made)
        shutil.rmtree(server.path)
        with pytest.raises(SocketUnavailable, match="can't listen on unix:"):
            await server.start()
        server.close()

    asyncio.run(story())
    assert list(place.iterdir()) == []
