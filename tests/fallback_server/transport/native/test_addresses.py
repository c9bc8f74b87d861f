import asyncio
import socket

import grpc
import pytest
from support.grpc_stand import loaded

from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport.grpc_server import GrpcServer, PortUnavailable
from fallback_server.transport.native.addresses import addresses, peer_text, target


def free(address):
    """Whether this machine has an address."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("::", ["::"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("0.0.0.0", ["::" if socket.has_dualstack_ipv6() else "0.0.0.0"]),
    ],
)
def test_a_host_has_the_addresses_that_grpc_gives_it(host, expected):
    """An address is itself; `localhost` is both of loopback, and all of IPv4 is all."""
    assert addresses(host) == expected


def test_targets():
    """An address of IPv6 has brackets."""
    assert (target("::1", 5), target("127.0.0.1", 0)) == ("[::1]:5", "127.0.0.1:0")


@pytest.mark.parametrize(
    ("peer", "told"),
    [
        ("ipv4:127.0.0.1:5", "ipv4:127.0.0.1:5"),
        ("ipv6:[::1]:5", "ipv6:[::1]:5"),
        ("ipv6:[::ffff:10.0.0.7]:5", "ipv4:10.0.0.7:5"),
        ("unix:", "unix:"),
    ],
)
def test_callers_of_ipv4_are_told_as_such(peer, told):
    """Over whichever socket they come."""
    assert peer_text(peer) == told


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::"])
def test_every_address_of_a_name_answers(tmp_path, host):
    """On one port, with either transport; and all are let go at the end."""
    at = [address for address in ("127.0.0.1", "::1") if free(address)]

    async def story():
        async with loaded(path=tmp_path) as stand:
            server = GrpcServer(stand.plane, stand.control, native=stand.server._native)
            port = await server.start(host=host, port=0)
            for address in at:
                async with grpc.aio.insecure_channel(target(address, port)) as channel:
                    call = channel.unary_unary(methods.GET_MODEL_STATUS.path)
                    assert await call(
                        pb.GetModelStatusRequest(model_spec={"name": "m"}).SerializeToString(), timeout=20
                    )
            await server.stop(grace_s=1)
            again = GrpcServer(stand.plane, stand.control, native=stand.server._native)
            assert await again.start(host=host, port=port) == port
            await again.stop(grace_s=1)

    asyncio.run(story())


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("host", ["nope.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_refused(tmp_path, host):
    """With the address and why."""

    async def story():
        async with loaded(path=tmp_path) as stand:
            server = GrpcServer(stand.plane, stand.control, native=True)
            with pytest.raises(PortUnavailable, match=f"can't listen on {host}:0: "):
                await server.start(host=host, port=0)
            await server.stop(grace_s=0)

    asyncio.run(story())
