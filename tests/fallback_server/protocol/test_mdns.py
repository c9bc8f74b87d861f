import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.protocol.mdns import Announcement, AnnouncementInvalid, apis_of

GOOD = {b"proto": b"1", b"id": b"abc", b"tls": b"0", b"apis": b"tfs-grpc"}


@given(
    st.from_regex(r"[A-Za-z0-9-]{1,63}", fullmatch=True),
    st.booleans(),
    st.integers(1, 99),
    st.lists(st.sampled_from(["tfs-grpc", "tfs-rest=8501", "oip"]), max_size=3).map(tuple),
    st.sampled_from(["", "0123456789abcdef" * 4]),
)
def test_round_trip(server_id, tls, version, apis, fingerprint):
    """What a server announces is what a device reads."""
    one = Announcement(
        server_id=server_id, tls=tls, protocol_version=version, apis=apis, fingerprint=fingerprint if tls else ""
    )
    txt = {key.encode(): value.encode() for key, value in one.to_txt().items()}
    assert Announcement.from_txt(txt) == one


def test_a_server_of_this_release():
    """What it speaks, and where; within what a TXT record may hold."""
    one = Announcement(server_id="a", apis=apis_of(rest_port=8501), tls=True, fingerprint="ab" * 32)
    assert one.to_txt() == {
        "proto": "1",
        "id": "a",
        "tls": "1",
        "apis": "tfs-grpc,tfs-rest=8501,oip-grpc,oip-rest=8501,edge-v1",
        "fp": "ab" * 32,
    }
    assert (one.port_of("tfs-grpc", 8500), one.port_of("oip-rest", 8500), one.port_of("x", 8500)) == (8500, 8501, None)
    assert apis_of(rest_port=None) == ("tfs-grpc", "oip-grpc", "edge-v1")
    assert all(len(key) + len(value) < 255 for key, value in one.to_txt().items())


@pytest.mark.parametrize("entry", ["tfs-rest=", "tfs-rest=x", "tfs-rest=0", "tfs-rest=99999"])
def test_a_port_that_is_none_is_no_place(entry):
    """As if it were not announced."""
    assert Announcement(server_id="a", apis=(entry,)).port_of("tfs-rest", 1) is None


def test_records_of_the_first_release_are_read():
    """It had no fingerprint, and APIs without ports."""
    assert Announcement.from_txt(GOOD) == Announcement(server_id="abc")


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
        {b"tls": b"1", b"fp": b"AB"},
        {b"tls": b"0", b"fp": b"ab" * 32},
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
