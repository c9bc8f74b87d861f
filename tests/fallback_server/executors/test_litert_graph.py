"""TFLite files read without LiteRT, sound ones and such as nobody made by accident."""

import contextlib
import struct

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from support.harmful_models import looping_model
from support.interpreter_models import _File, net_model
from support.stateful_models import counting_model

from fallback_server.executors import litert_graph
from fallback_server.executors.litert_files import SealedFile
from fallback_server.executors.litert_graph import Unreadable, graphs_of_file, read_graphs

NET = net_model(hidden=2, size=4)


def test_operators_tensors_and_constants_are_what_was_written():
    """In order, with the tensors that each reads and writes."""
    (graph,) = read_graphs(NET).subgraphs
    assert [(each.code, each.inputs, each.outputs) for each in graph.operators] == [
        (3, (0, 1, 2), (3,)),
        (40, (3, 4), (5,)),
        (9, (5, 6, 7), (8,)),
    ]
    assert (graph.inputs, graph.outputs) == ((0,), (8,))
    assert graph.constants == {1, 2, 4, 6, 7}
    assert graph.types == (0, 0, 0, 0, 2, 0, 0, 0, 0)
    assert not graph.variables | graph.empty | graph.sparse | graph.special
    (signature,) = read_graphs(NET).signatures
    assert (signature.name, signature.graph) == (b"serving_default", 0)
    assert (signature.inputs, signature.outputs) == (((b"image", 0),), ((b"scores", 8),))


def test_all_graphs_are_read_and_which_is_run_once():
    """Loops have bodies, and variables get their values from a graph of their own."""
    graphs = read_graphs(looping_model()).subgraphs
    assert [[each.code for each in graph.operators] for graph in graphs] == [[119], [63], [0]]
    assert graphs[0].operators[0].calls == (1, 2)
    main, initial = read_graphs(counting_model()).subgraphs
    assert main.operators[0].calls == (1,)
    assert [each.code for each in initial.operators] == [142, 144]


def test_an_open_file_is_read_where_it_lies():
    """Also one that is sealed; an empty one is no file."""
    file = SealedFile.of(NET, "m")
    assert graphs_of_file(file.fd) == read_graphs(NET)
    file.close()
    empty = SealedFile.of(b"", "m")
    with pytest.raises(Unreadable):
        graphs_of_file(empty.fd)
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
        read_graphs(bytes(content))


def test_what_would_be_read_for_ever_is_refused(monkeypatch):
    """How much is read is bounded, whatever refers to it."""
    monkeypatch.setattr(litert_graph, "MAX_ENTRIES", 20)
    with pytest.raises(Unreadable, match="more than 20 operators, tensors and references"):
        read_graphs(NET)


def _sum(values=None, kind="float32", size=4, change=lambda file, graph: None):
    """Y = x + a constant of that many numbers."""
    file = _File()
    graph = file.graph()
    x, y = file.tensor(graph, "x", (size,), kind), file.tensor(graph, "y", (size,), kind)
    constant = file.tensor(graph, "constant", (size,), kind, np.ones(size, np.float32) if values is None else values)
    file.operator(graph, "ADD", [x, constant], [y])
    graph.inputs, graph.outputs = [x], [y]
    file.sign("serving_default", 0, {"x": x}, {"y": y})
    change(file, graph)
    return file.bytes()


def _strings(count, *places, content=b"abcd"):
    return np.frombuffer(struct.pack(f"<{1 + len(places)}i", count, *places) + content, np.uint8)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (_sum(np.ones(3, np.float32)), r"constant 2 of the sizes \[4\] has 12 bytes"),
        (_sum(np.ones(5, np.float32)), "has 20 bytes"),
        (_sum(_strings(3, 16, 17, 18, 20), "string"), "fewer strings than its sizes"),
        (_sum(_strings(-1), "string"), "fewer strings than its sizes"),
        (_sum(_strings(1 << 29, 16), "string"), "fewer strings than its sizes"),
        (_sum(np.uint8([1, 0]), "string"), "fewer strings than its sizes"),
        (_sum(_strings(4, 24, 25, 26, 27, 29), "string"), "has strings that lie elsewhere"),
        (_sum(_strings(4, 24, 25, 1 << 20, 27, 28), "string"), "has strings that lie elsewhere"),
        (_sum(_strings(4, 24, 25, -9, 27, 28), "string"), "has strings that lie elsewhere"),
    ],
)
def test_constants_hold_what_their_shapes_need(content, why):
    """LiteRT would read on behind them, and the answer hold other memory of the process."""
    with pytest.raises(Unreadable, match=why):
        read_graphs(content)


def test_sound_constants_of_strings_and_of_nothing_are_read():
    """Strings as LiteRT has them; a tensor without elements needs no values."""
    (graph,) = read_graphs(_sum(_strings(4, 24, 25, 26, 27, 28), "string")).subgraphs
    assert graph.constants == {2}

    def without_elements(file, graph):
        graph.tensors[2].buffer, graph.tensors[2].shape = 0, [0]

    (graph,) = read_graphs(_sum(change=without_elements)).subgraphs
    assert (graph.constants, graph.empty) == (frozenset(), {2})


def test_the_first_buffer_holds_nothing_whatever_is_in_it():
    """LiteRT has it stand for no values: what refers to it is written by an operator, or never."""

    def first(file, graph):
        file.model.buffers[0].data = np.zeros(16, np.uint8)
        graph.tensors[2].buffer = 0

    (graph,) = read_graphs(_sum(change=first)).subgraphs
    assert not graph.constants


@pytest.mark.parametrize(
    ("offset", "size", "fits"),
    [(16, 16, True), (10**6, 16, False), (2**64 - 8, 16, False), (16, 10**6, False), (1, 16, True), (0, 16, True)],
)
def test_a_buffer_behind_the_flatbuffer_lies_in_the_file(offset, size, fits):
    """As large models have them; also where begin and length together are more than 64 bits. 0 and 1 stand for none."""

    def apart(file, graph):
        buffer = file.model.buffers[graph.tensors[2].buffer]
        buffer.data, buffer.offset, buffer.size = None, offset, size

    content = _sum(change=apart)
    if not fits:
        with pytest.raises(Unreadable, match="it ends before its byte"):
            read_graphs(content)
        return
    (graph,) = read_graphs(content).subgraphs
    assert graph.constants == ({2} if offset > 1 else frozenset())


def _with_scales(file, graph, number, count):
    graph.tensors[number].quantization = schema.QuantizationParametersT()
    graph.tensors[number].quantization.scale = [0.5] * count
    graph.tensors[number].quantization.zeroPoint = [0] * count


def test_what_is_more_than_an_array_is_told():
    """Values by channels that an operator writes, and blocks; not a constant's channels, nor one scale."""

    def channels(file, graph):
        _with_scales(file, graph, 0, 1)
        _with_scales(file, graph, 1, 4)
        _with_scales(file, graph, 2, 4)

    (graph,) = read_graphs(_sum(change=channels)).subgraphs
    assert graph.special == {1}

    def blocks(file, graph):
        _with_scales(file, graph, 2, 1)
        graph.tensors[2].quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        graph.tensors[2].quantization.details = schema.BlockwiseQuantizationT()

    (graph,) = read_graphs(_sum(change=blocks)).subgraphs
    assert graph.special == {2}


@pytest.mark.parametrize("text", [b"serving_default", b"scores", b"image"])
def test_a_text_has_an_end(text):
    """LiteRT reads up to it, also of what lies behind the file."""
    at = NET.rindex(text + b"\0")
    while at >= 0 and struct.unpack_from("<I", NET, at - 4)[0] != len(text):
        at = NET.rindex(text + b"\0", 0, at)
    content = bytearray(NET)
    content[at + len(text)] = ord("!")
    with pytest.raises(Unreadable, match="a text has no end"):
        read_graphs(bytes(content))


def test_metadata_lie_in_the_file():
    """LiteRT looks at them as it loads it."""

    def noted(file, graph):
        note = schema.MetadataT()
        note.name, note.buffer = "note", 7
        file.model.metadata = [note]

    with pytest.raises(Unreadable, match="its metadata lie nowhere"):
        read_graphs(_sum(change=noted))
