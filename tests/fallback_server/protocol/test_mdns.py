import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.protocol.mdns import Announcement, AnnouncementInvalid

GOOD = {b"proto": b"1", b"id": b"abc", b"tls": b"0", b"apis": b"tfs-grpc"}


@given(
    st.from_regex(r"[A-Za-z0-9-]{1,63}", fullmatch=True),
    st.booleans(),
    st.integers(1, 99),
    st.lists(st.sampled_from(["tfs-grpc", "tfs-rest", "oip"]), max_size=3).map(tuple),
)
def test_round_trip(server_id, tls, version, apis):
    """What a server announces is what a device reads."""
    one = Announcement(server_id=server_id, tls=tls, protocol_version=version, apis=apis)
    txt = {key.encode(): value.encode() for key, value in one.to_txt().items()}
    assert Announcement.from_txt(txt) == one


def test_later_keys_are_passed_over():
    """A later server may add keys, and is understood by a device of today."""
    assert Announcement.from_txt({**GOOD, b"colour": b"red"}).server_id == "abc"


@pytest.mark.parametrize(
    "change",
    [
        {b"proto": b"one"},
        {b"proto": None},
        {b"tls": b"maybe"},
        {b"id": b""},
        {b"id": b"a b"},
        {b"id": b"\xff"},
        {b"id": b"x" * 64},
        {b"apis": b"x" * 500},
    ],
)
def test_forged_records_are_refused(change):
    """A record that no server of ours writes is a named error."""
    with pytest.raises(AnnouncementInvalid):
        Announcement.from_txt({**GOOD, **change})


@given(st.dictionaries(st.sampled_from(list(GOOD)), st.none() | st.binary(max_size=20)))
def test_any_record_is_read_or_refused(change):
    """Whatever a record holds, reading it gives an announcement or the named error."""
    with contextlib.suppress(AnnouncementInvalid):
        assert Announcement.from_txt({**GOOD, **change}).server_id
