"""Compressed bodies: what they may be, and that it is what is unpacked that is counted."""

import asyncio
import gzip
import json
import zlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rest_stand import halves, standing

from fallback_server.core.errors import InvalidInput
from fallback_server.transport.rest.refusals import HttpRefused
from fallback_server.transport.rest.unpacking import Encoding, Unpacker, encoding_of

BODY = json.dumps({"inputs": [[2, 4]]}).encode()


def bare(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKERS = {
    "gzip": (Encoding.GZIP, gzip.compress),
    "zlib": (Encoding.DEFLATE, zlib.compress),
    "bare": (Encoding.DEFLATE, bare),
}


def unpacked(encoding, data, *, fed=2**16, piece=2**10):
    unpacker, pieces = Unpacker(encoding), []
    for begin in range(0, len(data), fed):
        unpacker.feed(data[begin : begin + fed])
        while unpacker.pending:
            pieces.append(unpacker.read(piece))
            assert len(pieces[-1]) <= piece
    unpacker.end()
    return b"".join(pieces)


@given(
    kind=st.sampled_from(sorted(PACKERS)),
    data=st.binary(max_size=300).flatmap(lambda data: st.sampled_from([data, data * 300])),
    fed=st.integers(1, 200),
    piece=st.sampled_from([1, 7, 2**10, 2**20]),
)
def test_what_was_packed_comes_out(kind, data, fed, piece):
    """However it comes in, and in pieces that are never larger than asked for."""
    encoding, pack = PACKERS[kind]
    assert unpacked(encoding, pack(data), fed=fed, piece=max(piece, len(data) // 1000)) == data


@given(parts=st.lists(st.binary(max_size=50), min_size=1, max_size=200), fed=st.sampled_from([1, 30, 2**16]))
def test_gzip_may_have_several_members(parts, fed):
    """Empty ones too: RFC 1952, section 2.2."""
    assert unpacked(Encoding.GZIP, b"".join(map(gzip.compress, parts)), fed=fed) == b"".join(parts)


@pytest.mark.parametrize("kind", sorted(PACKERS))
def test_what_is_no_whole_body_is_refused(kind):
    """Nothing, an end that comes too early, and anything behind the end."""
    encoding, pack = PACKERS[kind]
    packed = pack(BODY)
    for data in (b"", packed[:1], packed[:-1], packed + b"\0", packed + b"garbage"):
        with pytest.raises(InvalidInput, match="can't be unpacked"):
            unpacked(encoding, data)


def test_encodings():
    """One that is known, by either of gzip's names, or none."""
    for headers, encoding in (
        ([], None),
        ([""], None),
        (["identity"], None),
        (["x-gzip"], Encoding.GZIP),
        ([" GZIP , identity"], Encoding.GZIP),
        (["deflate"], Encoding.DEFLATE),
    ):
        assert encoding_of(headers) is encoding
    for headers in (["br"], ["gzip, gzip"], ["gzip", "deflate"]):
        with pytest.raises(HttpRefused, match="is not one of gzip, deflate, identity") as refused:
            encoding_of(headers)
        assert refused.value.headers == {"Accept-Encoding": "gzip, deflate, identity"}


def test_what_is_unpacked_is_bounded_and_counted(tmp_path):
    """A small body may hold a large one: it is refused as soon as that is seen, with as much taken as is allowed."""
    with standing({("half", 1): halves()}, tmp_path, max_body_bytes=2**21) as stand:
        held, peaks = stand.server._backend.held, []
        hold = held.hold

        def noted(address, size_bytes):
            hold(address, size_bytes)
            peaks.append(held.bytes)

        held.hold = noted
        url, headers = f"{stand.url}/v1/models/half:predict", {"content-encoding": "gzip"}
        answer = httpx.post(url, content=gzip.compress(bytes(2**26)), headers=headers, timeout=30)
        assert answer.status_code == 413
        assert max(peaks) <= 2**21
        assert len(peaks) > 1
        answer = httpx.post(url, content=gzip.compress(BODY + b" " * 2**20), headers=headers, timeout=30)
        assert answer.json() == {"outputs": [[1.0, 2.0]]}
        held.max_bytes = 2**20
        answer = httpx.post(url, content=gzip.compress(bytes(2**21 - 1)), headers=headers, timeout=30)
        assert answer.status_code == 429
        assert stand.call(asyncio.sleep(0, held.bytes)) == 0
