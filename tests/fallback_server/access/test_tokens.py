"""Bearer tokens."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.access.tokens import MAX_TOKEN_CHARS, bearer_of, digest_of, new_token


def test_a_token_is_read_out_of_its_header():
    """And none is like another."""
    one, other = new_token(), new_token()
    assert one != other
    assert bearer_of(f"Bearer {one}") == one
    assert digest_of(one) == hashlib.sha256(one.encode()).hexdigest()


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("bearer abc", "abc"),
        ("BEARER   a.b-c_d~e+f/g== ", "a.b-c_d~e+f/g=="),
        ("Basic YTpi", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer a b", None),
        ("Bearer é", None),
        ("abc", None),
        ("Bearer " + "a" * MAX_TOKEN_CHARS, None),
    ],
)
def test_what_is_no_bearers_header_is_none(header, token):
    """The scheme is read in any case of letters; what else there is belongs to somebody else."""
    assert bearer_of(header) == token


@given(st.text())
def test_no_header_breaks_it(header):
    """Whatever a caller sends."""
    token = bearer_of(header)
    assert token is None or token in header
