"""TFLite files of one operator each, and values that are hard on it. `operator_files.py NAMES...` runs them.

Run as a program, it has a child of its own for each operator, and writes a line for each dtype: how many runs there
were and how many LiteRT refused, or the signal that ended them.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from support import interpreter_models

from fallback_server.executors.litert_rules import FLOATS_ONLY

DTYPES = ("float32", "int8", "uint8", "int16", "int32", "int64", "bool")

_SHAPE = (1, 4, 4, 4)
_LIMIT_S = 30
_MIXTURES = 20
_SCALED = ("int8", "uint8", "int16")
_COMPARING = ["EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"]


def _with(*constants, shapes=(_SHAPE,), answer=None, outputs=1, order=None, weights=None, first=None, **options):
    """What an operator is given.

    Args:
        constants: After the inputs: arrays, or "weights", "bias" and "value" in the dtype that goes with the input's.
        shapes: Of the inputs.
        answer: The outputs' shape, where the file must have it right; by default the first input's.
        outputs: How many.
        order: The inputs' and constants' places among what the operator reads.
        weights: Their shape.
        first: The first input's dtype, where it is always the same.
        options: As the schema calls them.
    """
    return {
        "constants": constants, "shapes": shapes, "answer": shapes[0] if answer is None else answer,
        "outputs": outputs, "order": order, "weights": weights, "first": first, "options": options,
    }  # fmt: skip


def _ints(*values, shape=None):
    return np.array(values, np.int32).reshape((len(values),) if shape is None else shape)


_PADS = _ints(0, 0, 1, 1, 1, 1, 0, 0, shape=(4, 2))
_WINDOW = {"padding": 0, "strideW": 1, "strideH": 1}
_POOL = {**_WINDOW, "filterWidth": 2, "filterHeight": 2}
_TWO = {"shapes": (_SHAPE, _SHAPE)}

_ALONE = ["FLOOR", "CEIL", "ROUND", "LOGISTIC", "TANH", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "EXP", "LOG"]
_ALONE += ["SQRT", "RSQRT", "SIN", "COS", "ABS", "NEG", "SQUARE", "ELU", "HARD_SWISH", "GELU", "SIGN", "ZEROS_LIKE"]
_ALONE += ["LOGICAL_NOT", "LOG_SOFTMAX", "L2_NORMALIZATION", "LOCAL_RESPONSE_NORMALIZATION", "DEQUANTIZE", "QUANTIZE"]
_ALONE += ["RANK", "SQUEEZE", "CAST"]
_PAIRED = ["ADD", "SUB", "MUL", "DIV", "POW", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "LOGICAL_AND", "LOGICAL_OR"]
_PAIRED += ["ATAN2", "PRELU", "FLOOR_DIV", "FLOOR_MOD"]
_REDUCING = ["MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ANY", "REDUCE_ALL"]

CASES = {
    **{name: _with() for name in _ALONE},
    **{name: _with(**_TWO) for name in (*_PAIRED, *_COMPARING)},
    **{name: _with(_ints(1, 2), keepDims=False) for name in _REDUCING},
    "SHAPE": _with(outType=2),
    "SOFTMAX": _with(beta=1.0),
    "LEAKY_RELU": _with(alpha=0.1),
    "FAKE_QUANT": _with(min=-1.0, max=1.0, numBits=8),
    "AVERAGE_POOL_2D": _with(**_POOL),
    "MAX_POOL_2D": _with(**_POOL),
    "L2_POOL_2D": _with(**_POOL),
    "CONV_2D": _with("weights", "bias", weights=(4, 3, 3, 4), **_WINDOW),
    "DEPTHWISE_CONV_2D": _with("weights", "bias", weights=(1, 3, 3, 4), depthMultiplier=1, **_WINDOW),
    "TRANSPOSE_CONV": _with(_ints(1, 4, 4, 4), "weights", order=(1, 2, 0), weights=(4, 3, 3, 4), **_WINDOW),
    "FULLY_CONNECTED": _with("weights", "bias", shapes=((3, 4),), weights=(4, 4)),
    "CONV_3D": _with(
        "weights", shapes=((1, 4, 4, 4, 2),), weights=(2, 2, 2, 2, 2), **_WINDOW, strideD=1,
        dilationDFactor=1, dilationWFactor=1, dilationHFactor=1,
    ),
    "BATCH_MATMUL": _with(shapes=((2, 4, 4), (2, 4, 4))),
    "CONCATENATION": _with(**_TWO, axis=1),
    "ADD_N": _with(shapes=(_SHAPE, _SHAPE, _SHAPE)),
    "PACK": _with(**_TWO, axis=0, valuesCount=2),
    "UNPACK": _with(outputs=4, num=4, axis=1),
    "RESHAPE": _with(_ints(4, 16)),
    "EXPAND_DIMS": _with(_ints(1)),
    "TRANSPOSE": _with(_ints(0, 3, 1, 2)),
    "PAD": _with(_PADS),
    "PADV2": _with(_PADS, "value"),
    "MIRROR_PAD": _with(_PADS, mode=0),
    "SLICE": _with(_ints(0, 1, 1, 0), _ints(1, 2, 2, 4), answer=(1, 2, 2, 4)),
    "STRIDED_SLICE": _with(_ints(0, 0, 1, 0), _ints(1, 4, 3, 4), _ints(1, 2, 1, 1)),
    "SPLIT": _with(_ints(1, shape=()), order=(1, 0), outputs=2, numSplits=2),
    "SPLIT_V": _with(_ints(1, 3), _ints(1, shape=()), outputs=2, numSplits=2),
    "TILE": _with(_ints(1, 2, 1, 3)),
    "BROADCAST_TO": _with(_ints(3, 4, 4, 4)),
    "RESIZE_BILINEAR": _with(_ints(7, 3), halfPixelCenters=True),
    "RESIZE_NEAREST_NEIGHBOR": _with(_ints(7, 3), halfPixelCenters=True),
    "SPACE_TO_DEPTH": _with(blockSize=2),
    "DEPTH_TO_SPACE": _with(blockSize=2),
    "SPACE_TO_BATCH_ND": _with(_ints(2, 2), _ints(0, 0, 0, 0, shape=(2, 2))),
    "BATCH_TO_SPACE_ND": _with(_ints(2, 2), _ints(0, 0, 0, 0, shape=(2, 2)), shapes=((4, 4, 4, 2),)),
    "REVERSE_V2": _with(_ints(1)),
    "CUMSUM": _with(_ints(1)),
    "ARG_MAX": _with(_ints(1), outputType=2),
    "ARG_MIN": _with(_ints(1), outputType=2),
    "FILL": _with(_ints(2, 3), shapes=((),), order=(1, 0)),
    "ONE_HOT": _with(_ints(5, shape=()), "value", "value", shapes=((4,),), axis=-1),
    "GATHER": _with("weights", shapes=((4,),), order=(1, 0), weights=(3, 4), axis=0),
    "GATHER_ND": _with("weights", shapes=((4, 2),), order=(1, 0), weights=(3, 3, 4)),
    "EMBEDDING_LOOKUP": _with("weights", shapes=((4,),), weights=(3, 4)),
    "SELECT": _with(shapes=(_SHAPE, _SHAPE, _SHAPE), first="bool"),
    "SELECT_V2": _with(shapes=(_SHAPE, _SHAPE, _SHAPE), first="bool"),
}  # fmt: skip
"""Each operator once, with the constants that its shapes need."""

_ANSWERS = {
    **dict.fromkeys(_COMPARING, "bool"),
    **dict.fromkeys(["GATHER", "GATHER_ND", "EMBEDDING_LOOKUP", "ONE_HOT", "DEQUANTIZE"], "float32"),
    **dict.fromkeys(["SHAPE", "RANK", "ARG_MAX", "ARG_MIN"], "int32"),
}
_OPTIONS = {
    **dict.fromkeys(_REDUCING, "Reducer"),
    **dict.fromkeys(["MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D"], "Pool2D"),
    **dict.fromkeys(["MAXIMUM", "MINIMUM"], "MaximumMinimum"),
    "L2_NORMALIZATION": "L2Norm", "PADV2": "PadV2", "BATCH_MATMUL": "BatchMatMul", "ATAN2": "ATan2",
    "SPACE_TO_BATCH_ND": "SpaceToBatchND", "BATCH_TO_SPACE_ND": "BatchToSpaceND", "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "CONV_3D": "Conv3D", "SELECT_V2": "SelectV2", "REVERSE_V2": "ReverseV2",
    "SPLIT_V": "SplitV",
}  # fmt: skip
_HALF_OPEN = {"SOFTMAX": 256, "LOGISTIC": 256, "TANH": 128, "L2_NORMALIZATION": 128, "LOG_SOFTMAX": 16}
"""Operators whose outputs have a scale of their own: one over this."""


def files(name, dtypes=DTYPES):
    """(what it is, its bytes) of an operator in each dtype; LiteRT need not know all of them."""
    for dtype in dtypes:
        targets = DTYPES if name == "CAST" else _SCALED if name == "QUANTIZE" else (None,)
        for target in targets:
            yield f"{name} {dtype}{'' if target is None else f' to {target}'}", operator_file(name, dtype, target)


def operator_file(name, dtype="float32", target=None):
    """A file of one operator; its inputs are `in0`, `in1` and so on.

    Args:
        name: As the schema has it.
        dtype: Of its inputs.
        target: Of its outputs, where that is another than follows.
    """
    case = CASES[name]
    know(name)
    file = interpreter_models._File()
    graph = file.graph()

    def tensor(label, shape, kind, values=None):
        index = file.tensor(graph, label, shape, kind, values)
        if kind in _SCALED or label == "bias":
            graph.tensors[index].quantization = _quantization(label, kind, name)
        return index

    given = [
        tensor(f"in{place}", shape, case["first"] or dtype if not place else dtype)
        for place, shape in enumerate(case["shapes"])
    ]
    used = list(given)
    for constant in case["constants"]:
        if isinstance(constant, str):
            used.append(_typed_constant(tensor, constant, case, _ANSWERS.get(name, dtype)))
        else:
            used.append(tensor(f"c{len(used)}", constant.shape, "int32", constant))
    if case["order"]:
        used = [used[place] for place in case["order"]]
    answers = target or _ANSWERS.get(name, dtype)
    found = [tensor(f"out{place}", case["answer"], answers) for place in range(case["outputs"])]
    file.operator(graph, name, used, found, **case["options"])
    if name == "BROADCAST_TO":
        file.model.operatorCodes[-1].version = 2
    graph.inputs, graph.outputs = given, found
    return file.bytes()


def _typed_constant(tensor, constant, case, kind):
    """Weights, a bias or one value, in the dtype that goes with the input's."""
    if constant == "weights":
        kind = "int8" if kind == "int16" else kind
        values = (np.arange(np.prod(case["weights"])) % 5 - 1).reshape(case["weights"])
        return tensor("weights", case["weights"], kind, values.astype(kind))
    if constant == "bias":
        kind = {"float32": "float32", "int16": "int64"}.get(kind, "int32")
        return tensor("bias", (4,), kind, np.ones(4, kind))
    return tensor(f"value{kind}", (), kind, np.ones((), kind))


def _quantization(label, kind, name):
    found = schema.QuantizationParametersT()
    scale, zero = (0.01, 0) if label == "bias" else (0.1, 128 if kind == "uint8" else 0)
    if label.startswith("out") and name in _HALF_OPEN:
        scale = 1 / (32768 if kind == "int16" else _HALF_OPEN[name])
        if name in ("SOFTMAX", "LOGISTIC"):
            zero = {"uint8": 0, "int8": -128}.get(kind, 0)
        elif name == "LOG_SOFTMAX":
            zero = {"uint8": 255, "int8": 127}.get(kind, 0)
    found.scale, found.zeroPoint = [scale], [zero]
    return found


def know(name):
    """The operator's options, where it has any."""
    title = _OPTIONS.get(name) or "".join(part.capitalize() for part in name.split("_"))
    kind = getattr(schema.BuiltinOptions, f"{title}Options", 0)
    made = getattr(schema, f"{title}OptionsT") if kind else lambda: None
    interpreter_models._OPERATORS.setdefault(name, (kind, made))


def hard_values(dtype):
    """Values that few models see: extremes, and no numbers."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind == "f":
        top = np.finfo(dtype).max
        plain = [0, -0.0, 1, -1, -0.5, 255.5, 1e-40, -1e-40, 1e30, 2**31, -(2**31), 2**63]
        return np.array([*plain, top, -top, np.nan, np.inf, -np.inf], dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    signed = [-1, -2] if low else []
    return np.array([low, high, 0, 1, 2, low + 1, high - 1, high // 2, low // 2, *signed], dtype)


def _requests(details):
    """Inputs full of one such value each, in all pairs, and mixtures."""
    random = np.random.default_rng(0)
    hard = [hard_values(np.dtype(detail["dtype"])) for detail in details]
    for fills in itertools.product(*(range(len(values)) for values in hard[:2])):
        places = (*fills, *fills[-1:] * (len(hard) - len(fills)))
        yield [values[place % len(values)] for values, place in zip(hard, places, strict=True)]
    for _ in range(_MIXTURES):
        yield [random.choice(values, tuple(each["shape"])) for values, each in zip(hard, details, strict=True)]


def _run(content):
    """How many runs ended well, how many LiteRT refused, and how long the longest took."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    well = refused = 0
    longest_s = 0.0
    for request in _requests(details):
        for detail, values in zip(details, request, strict=True):
            interpreter.set_tensor(detail["index"], np.broadcast_to(values, tuple(detail["shape"])))
        begin_s = time.perf_counter()
        try:
            interpreter.invoke()
            well += 1
        except (RuntimeError, ValueError):
            refused += 1
        longest_s = max(longest_s, time.perf_counter() - begin_s)
    return f"{well} runs, {refused} refused, at most {longest_s * 1e6:.0f} us"


def _tell(name):
    """Runs an operator's files in a child, which writes a line for each."""
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for what, content in files(name, DTYPES[:1] if name in FLOATS_ONLY else DTYPES):
            os.write(1, f"{what}: ".encode())
            try:
                line = _run(content)
            except (RuntimeError, ValueError) as error:
                line = f"not known: {' '.join(str(error).split())}"
            os.write(1, f"{line}\n".encode())
        os._exit(0)
    end_s = time.monotonic() + _LIMIT_S
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end_s:
            os.kill(child, 9)
        time.sleep(0.001)
    if code := os.waitstatus_to_exitcode(found[1]):
        os.write(1, f"ended by {code}\n".encode())


if __name__ == "__main__":
    import ai_edge_litert.interpreter  # noqa: F401  once, before the children

    for each in sys.argv[1:] or CASES:
        _tell(each)
