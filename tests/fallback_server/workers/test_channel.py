"""Messages between processes: whole, of any size, with what comes beside them."""

import contextlib
import os
import socket

import pytest

from fallback_server.workers.channel import PACKET_BYTES, Channel, ChannelClosed
from fallback_server.workers.messages import Drain, End, Hosted, View
from fallback_server.workers.views import LabelTo, ModelRoutes


@pytest.fixture
def ends():
    ends = [Channel(each) for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    yield ends
    for end in ends:
        end.close()


def test_messages_come_as_they_were(ends):
    """In their order."""
    sent = [Drain(grace_s=1.5), Hosted(number=7, why_not="why"), End()]
    for message in sent:
        ends[0].send(message)
    assert [ends[1].receive().message for _ in sent] == sent


@pytest.mark.parametrize("size", [1, PACKET_BYTES - 100, PACKET_BYTES, 20 * PACKET_BYTES])
def test_any_size_goes(ends, size):
    """Beyond a packet in memory of its own; descriptors come along in either case."""
    readable, writable = os.pipe()
    ends[0].send(Hosted(number=1, why_not="x" * size), [writable])
    os.close(writable)
    message, fds = ends[1].receive()
    assert len(message.why_not) == size
    os.write(fds[0], b"!")
    assert os.read(readable, 1) == b"!"
    for fd in (readable, *fds):
        os.close(fd)


def test_routes_keep_their_types(ends):
    """Numbers as keys, None beside numbers."""
    model = ModelRoutes(
        versions={1: 10, 2: 11},
        coming=(3,),
        labels={"stable": LabelTo(1, None)},
        traffic={1: 0.5},
        hold=(1, None),
    )
    view = View(epoch=2**40, models={"m": model}, gone=("other",))
    ends[0].send(view)
    assert ends[1].receive().message == view


def test_an_end_is_told(ends):
    """Whether something is asked or told."""
    ends[0].close()
    with pytest.raises(ChannelClosed):
        ends[1].receive()
    with pytest.raises(ChannelClosed):
        ends[1].send(End())


def test_one_that_takes_nothing_is_as_one_that_is_gone():
    """After the socket's timeout."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0.1)
    channel = Channel(ours)
    with contextlib.suppress(TimeoutError):
        while True:
            ours.send(b"x" * 1000)
    with pytest.raises(ChannelClosed):
        channel.send(End())
    channel.close()
    theirs.close()


def test_what_can_t_be_read_ends_it():
    """Bytes of something else, or of another version."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours)
    for packet in (b"\0rubbish", b"\1", b"\0"):
        theirs.send(packet)
        with pytest.raises(ChannelClosed):
            channel.receive()
    channel.close()
    theirs.close()
