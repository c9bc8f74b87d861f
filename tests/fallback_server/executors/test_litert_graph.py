"""TFLite files read without LiteRT, sound ones and such as nobody made by accident."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.harmful_models import looping_model
from support.interpreter_models import net_model
from support.stateful_models import counting_model

from fallback_server.executors import litert_graph
from fallback_server.executors.litert_files import SealedFile
from fallback_server.executors.litert_graph import Unreadable, read_subgraphs, subgraphs_of

NET = net_model(hidden=2, size=4)


def test_operators_tensors_and_constants_are_what_was_written():
    """In order, with the tensors that each reads and writes."""
    (graph,) = read_subgraphs(NET)
    assert [(each.code, each.inputs, each.outputs) for each in graph.operators] == [
        (3, (0, 1, 2), (3,)),
        (40, (3, 4), (5,)),
        (9, (5, 6, 7), (8,)),
    ]
    assert graph.inputs == (0,)
    assert graph.constants == {1, 2, 4, 6, 7}
    assert graph.types == (0, 0, 0, 0, 2, 0, 0, 0, 0)
    assert not graph.variables


def test_all_graphs_are_read_and_which_is_run_once():
    """Loops have bodies, and variables get their values from a graph of their own."""
    assert [[each.code for each in graph.operators] for graph in read_subgraphs(looping_model())] == [[119], [63], [0]]
    main, initial = read_subgraphs(counting_model())
    assert main.operators[0].begins == 1
    assert [each.code for each in initial.operators] == [142, 144]


def test_an_open_file_is_read_where_it_lies():
    """Also one that is sealed; an empty one is no file."""
    file = SealedFile.of(NET, "m")
    assert subgraphs_of(file.fd) == read_subgraphs(NET)
    file.close()
    empty = SealedFile.of(b"", "m")
    with pytest.raises(Unreadable):
        subgraphs_of(empty.fd)
    empty.close()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_are_read_or_refused(data):
    """No other error, and no end of it: cut off anywhere, or with any words changed."""
    content = bytearray(NET[: data.draw(st.integers(0, len(NET)))])
    words = st.sampled_from([0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF])
    for at, word in data.draw(st.lists(st.tuples(st.integers(0, max(len(content) // 4 - 1, 0)), words), max_size=4)):
        if len(content) >= 4:
            struct.pack_into("<I", content, 4 * at, word)
    with contextlib.suppress(Unreadable):
        read_subgraphs(bytes(content))


def test_what_would_be_read_for_ever_is_refused(monkeypatch):
    """How much is read is bounded, whatever refers to it."""
    monkeypatch.setattr(litert_graph, "MAX_ENTRIES", 20)
    with pytest.raises(Unreadable, match="more than 20 operators, tensors and references"):
        read_subgraphs(NET)
