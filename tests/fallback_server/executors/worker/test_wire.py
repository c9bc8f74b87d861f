"""Frames between the server and its workers."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fallback_server.executors.base import JoinedInputs
from fallback_server.executors.worker.messages import Exited, Ran, Run, Spawn, Tensor
from fallback_server.executors.worker.wire import Closed, Frame, Receiver, WireError, send, send_ran, send_run

DTYPES = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16", ">f4"]


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ours, theirs
    ours.close()
    theirs.close()


def there_and_back(tensors):
    """What arrives of tensors that are sent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        send_run(ours, "signature", tensors)
        frame = Receiver(theirs).receive()
    assert isinstance(frame.message, Run)
    return frame.tensors(frame.message.tensors)


def mapped():
    """How many frames this process has mapped."""
    return Path("/proc/self/maps").read_text().count("/memfd:tensors")


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.sampled_from(DTYPES).flatmap(
            lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))
        ),
        max_size=4,
    )
)
def test_tensors_arrive_as_they_were(tensors):
    """Every dtype, shape, scalar and empty tensor arrives with its values."""
    found = there_and_back(tensors)
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], value)
        assert found[name].shape == value.shape


@settings(deadline=None, max_examples=30)
@given(st.lists(st.binary(max_size=20), max_size=5), st.integers(0, 100_000))
def test_strings_arrive_as_they_were(items, long):
    """Strings of any bytes and length arrive, in a packet or in shared memory."""
    value = np.empty((len(items) + 1, 1), object)
    value[:, 0] = [*items, b"x" * long]
    found = there_and_back({"s": value})["s"]
    assert found.shape == value.shape
    assert found.reshape(-1).tolist() == value.reshape(-1).tolist()


@pytest.mark.parametrize("columns", [3, 50_000])
@pytest.mark.parametrize("dtype", ["f4", ">f4", "i1", "?"])
def test_joined_inputs_arrive_in_one_piece(columns, dtype):
    """Of several requests, padded, in a packet or in shared memory: as if they had been put together before."""
    rng = np.random.default_rng(1)
    parts = [{"a": rng.integers(0, 2, (rows, columns)).astype(dtype), "b": rng.random(rows)} for rows in (2, 0, 3)]
    found = there_and_back(JoinedInputs(parts, padding=2))
    for name in ("a", "b"):
        rows = [part[name] for part in parts]
        np.testing.assert_array_equal(found[name], np.concatenate([*rows, rows[0][:1], rows[0][:1]]))
    assert found["a"].dtype == np.dtype(dtype).newbyteorder("=")


def test_joined_strings_arrive_in_one_piece():
    """Their lengths come before all of them."""
    parts = [{"s": np.array([b"x" * 100_000, b""], object)}, {"s": np.array([b"y"], object)}]
    assert there_and_back(JoinedInputs(parts))["s"].tolist() == [b"x" * 100_000, b"", b"y"]


def test_bfloat16_arrives():
    """What only ml_dtypes can hold arrives too."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    value = np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3)
    found = there_and_back({"x": value})["x"]
    assert found.dtype == value.dtype
    assert found.tolist() == value.tolist()


def test_large_tensors_are_mapped_aligned_and_freed_with_the_arrays(pair):
    """A large frame is one mapping; each tensor begins at 64 bytes; the mapping goes with the last array."""
    ours, theirs = pair
    before = mapped()
    tensors = {"a": np.arange(50_001, dtype=np.float32), "b": np.float32(1), "c": np.ones((300, 300))[:, ::2]}
    send_ran(ours, tensors)
    frame = Receiver(theirs).receive()
    assert isinstance(frame.message, Ran)
    found = frame.tensors(frame.message.tensors)
    del frame
    assert mapped() == before + 1
    for name, value in tensors.items():
        assert found[name].ctypes.data % 64 == 0
        assert not found[name].flags.writeable
        np.testing.assert_array_equal(found[name], value)
    del value
    one = found.pop("a")[5:6]
    del found
    assert mapped() == before + 1
    del one
    assert mapped() == before


def test_the_end_of_the_other_side_is_told(pair):
    """Who waits for a frame learns that none will come, and who sends one that nobody takes it."""
    ours, theirs = pair
    theirs.close()
    with pytest.raises(Closed):
        Receiver(ours).receive()
    with pytest.raises(Closed):
        send_run(ours, "s", {"x": np.ones(100_000)})


def test_descriptors_come_along(pair):
    """A message brings the descriptors that it was sent with, which the receiver owns."""
    ours, theirs = pair
    readable, writable = os.pipe()
    send(ours, Spawn(7, "m/1"), [writable])
    os.close(writable)
    frame = Receiver(theirs).receive()
    assert frame.message == Spawn(7, "m/1")
    os.write(frame.fds[0], b"x")
    assert os.read(readable, 1) == b"x"
    os.close(frame.fds[0])
    os.close(readable)


@pytest.mark.parametrize(
    "packet", [b"x", b"\0" * 16, (9).to_bytes(4, "little") + bytes(4) + (16).to_bytes(8, "little"), b"\xff" * 40]
)
def test_packets_that_cannot_be_are_refused(pair, packet):
    """Each length is checked before it is used."""
    ours, theirs = pair
    ours.send(packet)
    with pytest.raises(WireError):
        Receiver(theirs).receive()


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (Tensor("x", 1, (4,), 0, 16), "reaches to 16 of 8"),
        (Tensor("x", 1, (1,), -4, 4), "reaches to 0 of 8"),
        (Tensor("x", 1, (3,), 0, 8), "8 bytes for float32"),
        (Tensor("x", 1, (-1,), 0, 8), "has the shape"),
        (Tensor("x", 7, (3,), 0, 8), "3 strings in 8 bytes"),
        (Tensor("x", 7, (1,), 0, 8), "strings of 1"),
    ],
)
def test_tensors_that_do_not_fit_their_frame_are_refused(tensor, what):
    """What reaches beyond the frame, or has other bytes than its shape, is refused by name."""
    frame = Frame(Exited(1, 0), memoryview(b"\1\0\0\0abcd"), [])
    with pytest.raises(WireError, match=what):
        frame.tensors([tensor])
