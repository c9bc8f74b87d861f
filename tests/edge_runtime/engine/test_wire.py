import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.artifact import Signature, TensorSpec
from edge_runtime import EngineFailed, InvalidConfig, PackageRefused
from edge_runtime.engine import wire
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.shared import Layout, Place
from edge_runtime.errors import EngineLost

SMALL, LARGE = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


@given(st.builds(wire.Header, SMALL, SMALL, SMALL, SMALL, LARGE, LARGE, LARGE))
def test_header_comes_back(header):
    """A header is what it was after it has been through the socket."""
    assert wire.unpack(wire.pack(header)) == header


PLACES = st.builds(
    Place,
    st.text(),
    st.text(),
    st.lists(st.integers(0, 2**40)).map(tuple),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
)


@given(
    st.builds(
        wire.Call, st.text(), st.builds(Layout, st.lists(PLACES).map(tuple), st.integers(0, 2**40)), st.booleans()
    )
)
def test_call_comes_back(call):
    """So is a table."""
    assert wire.decode(wire.encode(call), wire.Call) == call


def test_specification_comes_back():
    """All that is needed to open a session goes over."""
    tensor = TensorSpec(name="x", dtype="int8", shape=(-1, 4))
    spec = SessionSpec(
        subject="digits/3",
        delegate="external",
        signatures=(Signature(name="s", inputs=(tensor,), outputs=(tensor,)),),
        library="/opt/lib.so",
        options={"a": "b"},
    )
    assert wire.decode(wire.encode(spec), SessionSpec) == spec


@pytest.mark.parametrize(
    "error", [EngineFailed("it failed"), PackageRefused("refused"), InvalidConfig("no"), EngineLost("gone", "vanished")]
)
def test_errors_keep_their_name(error):
    """An error of this package is raised as the same one on the other side, with its text and cause."""
    found = wire.error_of(wire.decode(wire.encode(wire.fault_of(error)), wire.Fault))
    assert (type(found), str(found)) == (type(error), str(error))
    assert getattr(found, "cause", None) == getattr(error, "cause", None)


def test_other_errors_say_where_they_were():
    """An error that nobody foresaw becomes an EngineFailed that names its class and line."""
    try:
        {}["nothing"]
    except KeyError as error:
        found = wire.error_of(wire.fault_of(error))
    assert type(found) is EngineFailed
    assert str(found).startswith("KeyError: 'nothing' (")
    assert "test_wire, line " in str(found)


def test_texts_are_bounded():
    """However much an error says, the other side is told a bounded part."""
    assert len(str(wire.error_of(wire.fault_of(EngineFailed("x" * 10**6))))) == wire.MAX_TEXT
