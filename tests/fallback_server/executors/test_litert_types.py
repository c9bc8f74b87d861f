"""Types that LiteRT would read, or write, beyond their tensors stay out; all that it knows how to run come in."""

import pytest
from support import operator_files

from fallback_server.executors.litert_graph import read_graphs
from fallback_server.executors.litert_rules import HARMLESS, harm
from fallback_server.executors.litert_types import go_together

F32, F16, I32, U8, I64, BOOL, I16, I8 = 0, 1, 2, 3, 4, 6, 7, 9


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("ADD", (F32, F32), (F32,)),
        ("CONCATENATION", (I8, I8, I8), (I8,)),
        ("RESHAPE", (F32, I32), (F32,)),
        ("RESHAPE", (F32, None), (F32,)),
        ("TILE", (F32, I64), (F32,)),
        ("LESS", (F32, F32), (BOOL,)),
        ("CAST", (BOOL,), (F32,)),
        ("SHAPE", (F32,), (I64,)),
        ("ARG_MAX", (U8, I32), (I32,)),
        ("SELECT_V2", (BOOL, F32, F32), (F32,)),
        ("GATHER", (F32, I64), (F32,)),
        ("ONE_HOT", (I32, I32, F32, F32), (F32,)),
        ("EMBEDDING_LOOKUP", (I32, I8), (F32,)),
        ("QUANTIZE", (F32,), (I8,)),
        ("DEQUANTIZE", (F16,), (F32,)),
        ("CONV_2D", (F32, F32, F32), (F32,)),
        ("CONV_2D", (I8, I8, I32), (I8,)),
        ("FULLY_CONNECTED", (F32, I8, None), (F32,)),
        ("FULLY_CONNECTED", (I16, I8, I64), (I16,)),
        ("TRANSPOSE_CONV", (I32, F32, F32), (F32,)),
        ("BATCH_MATMUL", (I16, I16), (I16,)),
        ("SPLIT", (I32, F32), (F32, F32)),
    ],
)
def test_what_converters_write_comes_in(name, given, found):
    """Floats, scaled integers with their biases, indices and shapes."""
    code, shaping = HARMLESS[name]
    assert go_together(code, given, found, shaping)


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("RESHAPE", (F32, I32), (I8,)),
        ("SOFTMAX", (F32,), (I8,)),
        ("CUMSUM", (I64, I32), (F32,)),
        ("SUM", (F32, I32), (BOOL,)),
        ("SPLIT", (U8, F32), (F32, F32)),
        ("SPLIT", (I32, F32), (F32, I8)),
        ("ADD", (F32, I8), (F32,)),
        ("LESS", (F32, F32), (F32,)),
        ("SHAPE", (F32,), (I8,)),
        ("SELECT_V2", (F32, F32, F32), (F32,)),
        ("SELECT_V2", (), (F32,)),
        ("GATHER", (F32, U8), (F32,)),
        ("EMBEDDING_LOOKUP", (I32, I8), (I64,)),
        ("QUANTIZE", (F32,), (F16,)),
        ("DEQUANTIZE", (I8,), (I8,)),
        ("CONV_2D", (F32, I16, F32), (F32,)),
        ("CONV_2D", (F32, F32, I8), (F32,)),
        ("CONV_2D", (F32, F32, F32), (I8,)),
        ("BATCH_MATMUL", (I16, I8), (I16,)),
        ("TRANSPOSE_CONV", (I32, I8, I16), (I8,)),
    ],
)
def test_types_of_other_sizes_stay_out(name, given, found):
    """LiteRT runs most of these."""
    code, shaping = HARMLESS[name]
    assert not go_together(code, given, found, shaping)


def test_the_file_says_so():
    """By the operator's name, before a request can do harm."""
    content = operator_files.operator_file("RESHAPE", "float32")
    assert harm(read_graphs(content)) == ""
    (graph,) = read_graphs(content).subgraphs
    assert graph.types == (F32, I32, F32)
    file = operator_files.operator_file("QUANTIZE", "float32", "bool")
    assert harm(read_graphs(file)) == "its operator QUANTIZE may reach beyond tensors of these types"
