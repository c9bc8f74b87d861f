import numpy as np
import pytest

from converter.artifact import Quantization
from converter.edgetpu.rules import objection
from converter.graph import Operator, Tensor

SCALE = Quantization(scales=(0.5,), zero_points=(3,))


def flow(*shape, dtype="int8", quantization=SCALE):
    return Tensor(index=0, name="net/layer", dtype=dtype, shape=shape, quantization=quantization)


def const(values, dtype="int32", shape=None, quantization=None):
    array = np.asarray(values, dtype)
    data = np.frombuffer(array.tobytes(), np.uint8)
    return Tensor(index=1, name="c", dtype=dtype, shape=shape or array.shape, quantization=quantization, data=data)


def weights(*shape):
    return const(np.ones(shape), "int8", quantization=SCALE)


def operator(name, inputs, output, *, activation="NONE", custom=False, **options):
    return Operator(
        index=0,
        name=name,
        custom=custom,
        inputs=tuple(inputs),
        outputs=(output,),
        options=options,
        activation=activation,
    )


IMAGE = flow(1, 8, 8, 4)
ROW = flow(1, 40)
CONV = (IMAGE, weights(4, 1, 1, 4), const(np.zeros(4)))
SLICE = (flow(1, 8, 8, 4), const([0, 0, 0, 0]), const([1, 4, 4, 4]))

TAKEN = {
    "conv": operator("CONV_2D", CONV, IMAGE, activation="RELU", dilation_w_factor=2, dilation_h_factor=2),
    "conv-without-bias": operator("CONV_2D", (*CONV[:2], None), IMAGE),
    "depthwise": operator("DEPTHWISE_CONV_2D", CONV, IMAGE),
    "dense": operator("FULLY_CONNECTED", (ROW, weights(10, 40)), flow(1, 10), weights_format=0),
    "pool": operator("MAX_POOL_2D", (IMAGE,), IMAGE),
    "concatenation": operator("CONCATENATION", (IMAGE, IMAGE, IMAGE), flow(1, 8, 8, 12)),
    "concatenation-zeros": operator(
        "CONCATENATION", (IMAGE, const(np.full((1, 8, 8, 1), 3), "int8", quantization=SCALE)), flow(1, 8, 8, 5)
    ),
    "mean": operator("MEAN", (IMAGE, const([1, 2])), flow(1, 4)),
    "mean-of-channels": operator("MEAN", (IMAGE, const([-1])), flow(1, 8, 8)),
    "pad": operator("PAD", (IMAGE, const([[0, 0], [1, 1], [1, 1], [0, 0]])), flow(1, 10, 10, 4)),
    "pack": operator("PACK", (ROW, ROW), flow(1, 2, 40), axis=1),
    "prelu": operator("PRELU", (IMAGE, const(np.ones((1, 1, 4)), "int8", quantization=SCALE)), IMAGE),
    "softmax": operator("SOFTMAX", (flow(1, 16000),), flow(1, 16000)),
    "split": operator("SPLIT", (const(3, shape=()), IMAGE), flow(1, 8, 8, 2)),
    "squeeze": operator("SQUEEZE", (flow(1, 1, 40),), flow(40), squeeze_dims=(0, 1)),
    "strided-slice": operator("STRIDED_SLICE", (*SLICE, const([1, 1, 1, 1])), flow(1, 4, 4, 4), ellipsis_mask=0),
    "reduce-max": operator("REDUCE_MAX", (IMAGE, const([1, 2])), flow(1, 4)),
    "uint8": operator("ADD", (flow(1, 4, dtype="uint8"), flow(1, 4, dtype="uint8")), flow(1, 4, dtype="uint8")),
    "five-dimensions": operator("RELU", (flow(1, 1, 8, 8, 4),), flow(1, 1, 8, 8, 4)),
    "lstm": operator(
        "UNIDIRECTIONAL_SEQUENCE_LSTM", (flow(1, 6, 3), flow(1, 4, dtype="int16")), flow(1, 6, 4), time_major=False
    ),
}

REFUSED = {
    "unknown": (operator("FLOOR_MOD", (ROW, ROW), ROW), "FLOOR_MOD is not among the operators"),
    "custom": (operator("MyOp", (ROW,), ROW, custom=True), "MyOp is a custom operator"),
    "float": (operator("RELU", (flow(1, 4, dtype="float32", quantization=None),), ROW), "is float32, it must be int8"),
    "int16": (operator("ADD", (flow(1, 4, dtype="int16"),), ROW), "tensor 'net/layer' is int16"),
    "float-weights": (
        operator("CONV_2D", (IMAGE, const(np.ones((4, 1, 1, 4)), "float32")), IMAGE),
        "constant 'c' is float32",
    ),
    "unquantized": (operator("ADD", (flow(1, 4, quantization=None),), ROW), "int8 without quantization"),
    "batch-of-two": (operator("RELU", (flow(2, 8, 8, 4),), flow(2, 8, 8, 4)), r"\[2, 8, 8, 4\]: all but the innermost"),
    "variable": (operator("RELU", (flow(-1, 40),), flow(-1, 40)), r"variable size: \[-1, 40\]"),
    "computed-weights": (operator("CONV_2D", (IMAGE, IMAGE), IMAGE), "its input 1, 'net/layer', must be constant"),
    "pool-activation": (operator("AVERAGE_POOL_2D", (IMAGE,), IMAGE, activation="RELU6"), "RELU6 is not taken"),
    "concatenation-constant": (
        operator("CONCATENATION", (IMAGE, weights(1, 8, 8, 1)), flow(1, 8, 8, 5)),
        "must be all zeros",
    ),
    "concatenation-three": (
        operator("CONCATENATION", (IMAGE, IMAGE, weights(1, 8, 8, 1)), flow(1, 8, 8, 9)),
        "exactly 2 inputs, it has 3",
    ),
    "dilation": (
        operator("CONV_2D", CONV, IMAGE, dilation_w_factor=2, dilation_h_factor=1),
        "the same in x and y, they are 2 and 1",
    ),
    "weights-format": (operator("FULLY_CONNECTED", (ROW, weights(10, 40)), flow(1, 10), weights_format=1), "it is 1"),
    "dense-scales": (
        operator(
            "FULLY_CONNECTED",
            (ROW, const(np.ones((2, 40)), "int8", quantization=Quantization(scales=(0.5, 0.25), zero_points=(0, 0)))),
            flow(1, 2),
        ),
        "its weights have 2 scales, one for each output",
    ),
    "dense-rows": (operator("FULLY_CONNECTED", (ROW, weights(10, 40)), flow(6, 10)), r"one-dimensional, it is \[6, 10"),
    "mean-of-3-channels": (operator("MEAN", (flow(1, 8, 8, 3), const([3])), flow(1, 8, 8)), "multiple of 4 .* are 3"),
    "mean-of-batch": (operator("MEAN", (IMAGE, const([0, 1])), flow(8, 4)), "along the batch"),
    "pad-of-batch": (
        operator("PAD", (IMAGE, const([[1, 0], [0, 0], [0, 0], [0, 0]])), flow(1, 8, 8, 4)),
        "along the batch",
    ),
    "pack-of-batch": (operator("PACK", (ROW, ROW), flow(1, 1, 40), axis=-3), "along the batch"),
    "split-of-batch": (operator("SPLIT", (const(0, shape=()), IMAGE), flow(1, 8, 8, 4)), "along the batch"),
    "reduce-batch": (operator("REDUCE_MIN", (IMAGE, const([-4])), flow(8, 8, 4)), "along the batch"),
    "alpha": (
        operator("PRELU", (IMAGE, const(np.ones((8, 8, 4)), "int8", quantization=SCALE)), IMAGE),
        r"shared_axes=\[1, 2\]\), it is \[8, 8, 4\]",
    ),
    "large-softmax": (operator("SOFTMAX", (flow(1, 16001),), flow(1, 16001)), "16001 elements, at most 16000"),
    "softmax-of-rows": (operator("SOFTMAX", (flow(4, 10),), flow(4, 10)), "one-dimensional"),
    "squeeze-inside": (operator("SQUEEZE", (flow(1, 8, 1),), flow(1, 8), squeeze_dims=(-1,)), r"not axes \[2\]"),
    "strides": (operator("STRIDED_SLICE", (*SLICE, const([1, 2, 2, 1])), IMAGE), r"must be 1, they are \[1, 2, 2, 1\]"),
    "new-axis": (
        operator("STRIDED_SLICE", (*SLICE, const([1] * 4)), IMAGE, new_axis_mask=2),
        "new_axis_mask must be 0",
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_keeps_to_the_table_is_taken(name):
    """One for each operator with a limit, just inside of it."""
    assert objection(TAKEN[name]) == ""


@pytest.mark.parametrize("name", REFUSED)
def test_what_passes_a_limit_is_refused_with_its_values(name):
    """Each limit of the table, passed; the reason has the value and the bound."""
    found, says = REFUSED[name]
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(objection(found))
