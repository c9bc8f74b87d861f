"""What a TFLite file may do to the process that runs it, told by its operators. Pure.

A request's values must not harm those of others. A run in the server's own process can't be ended, and what ends the
process ends the server: so only operators come in there whose time follows from their shapes, and which take any
values. tests/fallback_server/executors/test_litert_rules.py runs each on values that are hard on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fallback_server.executors.litert_flow import BIASED, bias_of, foreign_values
from fallback_server.executors.litert_graph import CALL_ONCE, NONE, RESHAPE, Graphs, Operator, Subgraph
from fallback_server.executors.litert_types import go_together

_NO_SHAPES: tuple[int, ...] = ()
_SECOND = (1,)

HARMLESS: Mapping[str, tuple[int, tuple[int, ...]]] = MappingProxyType(
    {
        "ADD": (0, _NO_SHAPES),
        "AVERAGE_POOL_2D": (1, _NO_SHAPES),
        "CONCATENATION": (2, _NO_SHAPES),
        "CONV_2D": (3, _NO_SHAPES),
        "DEPTHWISE_CONV_2D": (4, _NO_SHAPES),
        "DEPTH_TO_SPACE": (5, _NO_SHAPES),
        "DEQUANTIZE": (6, _NO_SHAPES),
        "EMBEDDING_LOOKUP": (7, _NO_SHAPES),
        "FLOOR": (8, _NO_SHAPES),
        "FULLY_CONNECTED": (9, _NO_SHAPES),
        "L2_NORMALIZATION": (11, _NO_SHAPES),
        "L2_POOL_2D": (12, _NO_SHAPES),
        "LOCAL_RESPONSE_NORMALIZATION": (13, _NO_SHAPES),
        "LOGISTIC": (14, _NO_SHAPES),
        "MAX_POOL_2D": (17, _NO_SHAPES),
        "MUL": (18, _NO_SHAPES),
        "RELU": (19, _NO_SHAPES),
        "RELU_N1_TO_1": (20, _NO_SHAPES),
        "RELU6": (21, _NO_SHAPES),
        "RESHAPE": (22, _SECOND),
        "RESIZE_BILINEAR": (23, _SECOND),
        "SOFTMAX": (25, _NO_SHAPES),
        "SPACE_TO_DEPTH": (26, _NO_SHAPES),
        "TANH": (28, _NO_SHAPES),
        "PAD": (34, _SECOND),
        "GATHER": (36, _NO_SHAPES),
        "BATCH_TO_SPACE_ND": (37, (1, 2)),
        "SPACE_TO_BATCH_ND": (38, (1, 2)),
        "TRANSPOSE": (39, _SECOND),
        "MEAN": (40, _SECOND),
        "SUB": (41, _NO_SHAPES),
        "DIV": (42, _NO_SHAPES),
        "SQUEEZE": (43, _NO_SHAPES),
        "STRIDED_SLICE": (45, (1, 2, 3)),
        "EXP": (47, _NO_SHAPES),
        "SPLIT": (49, (0,)),
        "LOG_SOFTMAX": (50, _NO_SHAPES),
        "CAST": (53, _NO_SHAPES),
        "PRELU": (54, _NO_SHAPES),
        "MAXIMUM": (55, _NO_SHAPES),
        "ARG_MAX": (56, _SECOND),
        "MINIMUM": (57, _NO_SHAPES),
        "LESS": (58, _NO_SHAPES),
        "NEG": (59, _NO_SHAPES),
        "PADV2": (60, _SECOND),
        "GREATER": (61, _NO_SHAPES),
        "GREATER_EQUAL": (62, _NO_SHAPES),
        "LESS_EQUAL": (63, _NO_SHAPES),
        "SELECT": (64, _NO_SHAPES),
        "SLICE": (65, (1, 2)),
        "SIN": (66, _NO_SHAPES),
        "TRANSPOSE_CONV": (67, (0,)),
        "TILE": (69, _SECOND),
        "EXPAND_DIMS": (70, _SECOND),
        "EQUAL": (71, _NO_SHAPES),
        "NOT_EQUAL": (72, _NO_SHAPES),
        "LOG": (73, _NO_SHAPES),
        "SUM": (74, _SECOND),
        "SQRT": (75, _NO_SHAPES),
        "RSQRT": (76, _NO_SHAPES),
        "SHAPE": (77, _NO_SHAPES),
        "POW": (78, _NO_SHAPES),
        "ARG_MIN": (79, _SECOND),
        "FAKE_QUANT": (80, _NO_SHAPES),
        "REDUCE_PROD": (81, _SECOND),
        "REDUCE_MAX": (82, _SECOND),
        "PACK": (83, _NO_SHAPES),
        "LOGICAL_OR": (84, _NO_SHAPES),
        "ONE_HOT": (85, _SECOND),
        "LOGICAL_AND": (86, _NO_SHAPES),
        "LOGICAL_NOT": (87, _NO_SHAPES),
        "UNPACK": (88, _NO_SHAPES),
        "REDUCE_MIN": (89, _SECOND),
        "REDUCE_ANY": (91, _SECOND),
        "SQUARE": (92, _NO_SHAPES),
        "ZEROS_LIKE": (93, _NO_SHAPES),
        "FILL": (94, (0,)),
        "RESIZE_NEAREST_NEIGHBOR": (97, _SECOND),
        "LEAKY_RELU": (98, _NO_SHAPES),
        "SQUARED_DIFFERENCE": (99, _NO_SHAPES),
        "MIRROR_PAD": (100, _SECOND),
        "ABS": (101, _NO_SHAPES),
        "SPLIT_V": (102, (1, 2)),
        "CEIL": (104, _NO_SHAPES),
        "REVERSE_V2": (105, _SECOND),
        "ADD_N": (106, _NO_SHAPES),
        "GATHER_ND": (107, _NO_SHAPES),
        "COS": (108, _NO_SHAPES),
        "RANK": (110, _NO_SHAPES),
        "ELU": (111, _NO_SHAPES),
        "QUANTIZE": (114, _NO_SHAPES),
        "ROUND": (116, _NO_SHAPES),
        "HARD_SWISH": (117, _NO_SHAPES),
        "SELECT_V2": (123, _NO_SHAPES),
        "BATCH_MATMUL": (126, _NO_SHAPES),
        "CUMSUM": (128, _SECOND),
        "BROADCAST_TO": (130, _SECOND),
        "CONV_3D": (132, _NO_SHAPES),
        "REDUCE_ALL": (140, _SECOND),
        "GELU": (150, _NO_SHAPES),
        "RELU_0_TO_1": (152, _NO_SHAPES),
        "SIGN": (158, _NO_SHAPES),
    }
)
"""Name -> its number in the schema, and which of its inputs say what shapes it reads or makes.

These must follow from shapes themselves, so that a trial has seen all that they can be. GATHER, GATHER_ND and
EMBEDDING_LOOKUP refuse indices that are out of bounds. What is missing though it looks harmless: division of whole
numbers (a process ends where the quotient does not fit), FLOOR_MOD (`fmod` takes as long as its operands are apart),
TOPK_V2 (it sorts by comparisons that NaN leaves without an order), ATAN2 (it reads operands of different sizes as if
they had the same), and all that has a state, calls another graph, or makes outputs whose sizes follow from values.
"""

FLOATS_ONLY = frozenset({"DIV", "POW", "FAKE_QUANT"})
"""Of those, the ones that are harmless on floats alone."""

_TYPES = frozenset({0, 1, 2, 3, 4, 6, 7, 9})
"""float32, float16, int32, uint8, int64, bool, int16, int8."""

_FLOAT32 = 0

_OTHERS = {
    31: "CALL", 32: "CUSTOM", 48: "TOPK_V2", 90: "FLOOR_DIV", 95: "FLOOR_MOD", 96: "RANGE", 109: "WHERE",
    112: "REVERSE_SEQUENCE", 118: "IF", 119: "WHILE", 122: "SCATTER_ND", 129: "CALL_ONCE", 142: "VAR_HANDLE",
    143: "READ_VARIABLE", 156: "ATAN2",
}  # fmt: skip
"""Names of some that are often met, for messages."""

_DATA_AND_WEIGHTS = MappingProxyType({3: (0, 1), 4: (0, 1), 9: (0, 1), 67: (2, 1), 126: (0, 1), 132: (0, 1)})
"""Operator -> its places: what comes in, and what that is multiplied by."""

_DEPTHWISE, _LOG_SOFTMAX = 4, 50
_INTEGERS = frozenset({3, 9, 17})
"""uint8, int8, int4."""

_WITH_SIZES = frozenset({1, 3, 4, 9, 12, 17, 67, 126, 132})
_AS_INPUTS = frozenset({0, 6, 18, 19, 20, 21, 41, 42, 98, 114})
"""Operators whose output is no scalar; those of which it is none where an input is none."""

_KEEPING = frozenset({138, 144})
"""HASHTABLE_IMPORT, whose first run alone counts, and ASSIGN_VARIABLE."""

_CALLING = frozenset({173, 174, 190, 198, 199, 200, 206})
"""Of StableHLO's operators those that run other graphs: which ones is not looked for, nor with what is newer."""

_NEWER = 208

_BY_CODE = {code: (name, shaping) for name, (code, shaping) in HARMLESS.items()}
_OF_SHAPES = frozenset({HARMLESS["SHAPE"][0], HARMLESS["RANK"][0]})


def harm(graphs: Graphs) -> str:
    """Why a request's values might harm the process that runs a file: one clause; empty where they can't.

    For files whose inputs have been run in all the shapes that they may have.
    """
    if not graphs.subgraphs:
        return "it has no graph"
    return foreign_values(graphs) or next(filter(None, map(_harm, graphs.subgraphs)), "")


def keeps_state(graphs: Graphs) -> bool:
    """Whether a run of a file may depend on the runs before it. For files whose values come from where they should.

    That is where a run assigns to a variable or fills a table, or a tensor is a variable, as of fused recurrent
    operators; and where weights that come from outside are multiplied as integers with floats, since LiteRT keeps the
    sums of the first ones. Variables that are only read, and have their values from what is run once before the first
    run, and by nobody else, are no state.
    """
    initial = _run_once(graphs)
    return any(
        graph.variables
        or (number not in initial and any(operator.code in _KEEPING for operator in graph.operators))
        or any(_sums_kept(operator, graph) for operator in graph.operators)
        for number, graph in enumerate(graphs.subgraphs)
    )


def _harm(graph: Subgraph) -> str:
    if graph.variables:
        return "it keeps a state"
    if not _TYPES.issuperset(graph.types):
        return "it has tensors that are neither plain numbers nor bools"
    if graph.special:
        return f"its tensor {min(graph.special)} is more than an array of numbers with one scale"
    # Each tensor has one origin, and none that a request gives is among these.
    told = set(graph.constants | graph.empty).difference(graph.inputs)
    sized = {tensor for tensor in graph.constants.union(graph.inputs) if graph.shapes[tensor]}
    for operator in graph.operators:
        if fault := _fault(operator, graph, told) or _misread(operator, graph, sized):
            return fault
        if _has_sizes(operator, graph, sized):
            sized.update(operator.outputs)
        if operator.code in _OF_SHAPES or told.issuperset(_given(operator)):
            told.update(operator.outputs)
    return ""


def _run_once(graphs: Graphs) -> set[int]:
    """The graphs that CALL_ONCE runs, and nobody else."""
    once: set[int] = set()
    others = {0, *(signature.graph for signature in graphs.signatures)}
    for graph in graphs.subgraphs:
        for operator in graph.operators:
            if operator.code in _CALLING or operator.code > _NEWER:
                return set()
            (once if operator.code == CALL_ONCE else others).update(operator.calls)
    return once - others


def _fault(operator: Operator, graph: Subgraph, told: set[int]) -> str:
    if operator.code not in _BY_CODE:
        name = _OTHERS.get(operator.code, f"number {operator.code}")
        return f"how long its operator {name} takes, or whether it ends the process, may depend on a request's values"
    name, shaping = _BY_CODE[operator.code]
    shapes = [operator.inputs[place] for place in shaping if place < len(operator.inputs)]
    if NONE in operator.outputs:
        return f"its operator {name} lacks an output"
    if any(tensor != NONE and tensor not in told for tensor in shapes):
        return f"the shapes of its operator {name} depend on a request's values"
    given = [None if tensor == NONE else graph.types[tensor] for tensor in operator.inputs]
    if not go_together(operator.code, given, [graph.types[tensor] for tensor in operator.outputs], shaping):
        return f"its operator {name} may reach beyond tensors of these types"
    if name in FLOATS_ONLY and any(graph.types[tensor] != _FLOAT32 for tensor in _given(operator)):
        return f"its operator {name} may end the process where numbers are whole"
    return ""


def _misread(operator: Operator, graph: Subgraph, sized: set[int]) -> str:
    """Why an operator might read beyond what it is given: what LiteRT does not look at."""
    if operator.code == _LOG_SOFTMAX and not sized.issuperset(operator.inputs):
        return "its operator LOG_SOFTMAX may be given a scalar"
    depthwise = operator.code == _DEPTHWISE and _mixed_weights(operator, graph) != NONE
    if depthwise or _sums_kept(operator, graph):
        return f"its operator {_BY_CODE[operator.code][0]} multiplies floats by integers in a way that is not looked at"
    if operator.code in BIASED and bias_of(operator) != NONE:
        tensors = {bias_of(operator), operator.inputs[BIASED[operator.code][0]]}
        if not graph.constants.issuperset(tensors):
            return f"its operator {_BY_CODE[operator.code][0]} has weights or a bias that are no constants"
    return ""


def _has_sizes(operator: Operator, graph: Subgraph, sized: set[int]) -> bool:
    """Whether what an operator gives is surely no scalar; `sized` are the tensors of which that is known."""
    if operator.code == RESHAPE:
        shape = operator.inputs[1] if len(operator.inputs) > 1 else NONE
        return shape in graph.constants and graph.shapes[shape][:1] > (0,)
    if operator.code in _AS_INPUTS:
        return not sized.isdisjoint(operator.inputs)
    return operator.code in _WITH_SIZES


def _sums_kept(operator: Operator, graph: Subgraph) -> bool:
    """Whether an operator multiplies floats by integers that are not the file's."""
    weights = _mixed_weights(operator, graph)
    return weights != NONE and weights not in graph.constants


def _mixed_weights(operator: Operator, graph: Subgraph) -> int:
    """The integers that an operator multiplies floats by; `NONE` where it does not."""
    if operator.code not in _DATA_AND_WEIGHTS:
        return NONE
    data, weights = (
        operator.inputs[place] if place < len(operator.inputs) else NONE for place in _DATA_AND_WEIGHTS[operator.code]
    )
    if NONE in (data, weights) or graph.types[data] != _FLOAT32 or graph.types[weights] not in _INTEGERS:
        return NONE
    return weights


def _given(operator: Operator) -> list[int]:
    return [tensor for tensor in operator.inputs if tensor != NONE]
