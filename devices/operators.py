"""Which TFLite operators a Coral Edge TPU takes, and under which limits: data, no code.

Sources: Coral's own table of supported operations ("TensorFlow models on the Edge TPU") for the operators and their
limits. For the versions: edgetpu_compiler 16.0, the last that was released, in 2021, reads a file only if it knows
every operator in it in its version. What it knows is what TensorFlow Lite knew then (the highest versions that
TensorFlow's register of operators had that year); where its users report less, that: CONV_2D 5 (google-coral/edgetpu
issue 631), TRANSPOSE_CONV 3 (845), QUANTIZE 2 (879), EXP 1 (google-coral/libedgetpu issue 71).
"""

from __future__ import annotations

from typing import Literal

import msgspec

EDGE_TPU_CACHE_BYTES = 8 * 2**20
"""The on-chip memory for parameters: "roughly 8 MB" in Coral's documentation, and in a compiler's log 60 KiB used and
7.96 MiB remaining (google-coral/edgetpu issue 173). The compiled program itself takes a part of it, so that a model
close to this may be streamed in part all the same."""

EDGE_TPU_COMPILER = "edgetpu_compiler 16.0"
"""The compiler that the versions are of."""

EDGE_TPU_MAX_RANK = 3
"""Tensors have at most three dimensions, or more where all but the innermost three are 1."""

SOFTMAX_MAX_ELEMENTS = 16_000

MEAN_DEPTH_MULTIPLE = 4
"""A mean over the channels needs a multiple of so many."""

Limit = Literal[
    "no-fused-activation",
    "constant-input-zero",
    "same-dilation",
    "default-weights",
    "one-scale",
    "one-dimensional",
    "at-most-16000",
    "depth-multiple",
    "not-batch",
    "alpha-one-dimensional",
    "leading-ones",
    "plain-slice",
]
"""What an operator must keep to.

`no-fused-activation`: none. `constant-input-zero`: with a constant input there are exactly two inputs, and that one is
all zeros. `same-dilation`: in x and y. `default-weights`: the weights' format is the default one. `one-scale`: for all
weights; in dense layers a scale for each output came in 2024 (tensorflow/tflite-micro pull request 2602), and what is
older does not refuse such a file but computes with one of the scales. `one-dimensional`:
the output is, but for leading 1s. `at-most-16000`: elements. `depth-multiple`: a reduction over the channels needs a
multiple of 4 of them. `not-batch`: not along the batch. `alpha-one-dimensional`: alpha is (Keras:
shared_axes=[1, 2]). `leading-ones`: only leading 1s are removed. `plain-slice`: all strides 1, no ellipsis mask, no
new-axis mask.
"""


class EdgeTpuOperator(msgspec.Struct, frozen=True, kw_only=True):
    """One operator that an Edge TPU takes.

    Attributes:
        name: TFLite's.
        limits: What it must keep to; a size may keep a large one off all the same, which no table says.
        parameters: The inputs, by place, that must be constant.
    """

    name: str
    limits: tuple[Limit, ...] = ()
    parameters: tuple[int, ...] = ()


EDGE_TPU_OPERATORS: dict[str, EdgeTpuOperator] = {
    one.name: one
    for one in (
        EdgeTpuOperator(name="ADD"),
        EdgeTpuOperator(name="AVERAGE_POOL_2D", limits=("no-fused-activation",)),
        EdgeTpuOperator(name="CONCATENATION", limits=("no-fused-activation", "constant-input-zero")),
        EdgeTpuOperator(name="CONV_2D", limits=("same-dilation",), parameters=(1, 2)),
        EdgeTpuOperator(name="DEPTHWISE_CONV_2D", limits=("same-dilation",), parameters=(1, 2)),
        EdgeTpuOperator(name="EXPAND_DIMS", parameters=(1,)),
        EdgeTpuOperator(
            name="FULLY_CONNECTED", limits=("default-weights", "one-scale", "one-dimensional"), parameters=(1, 2)
        ),
        EdgeTpuOperator(name="L2_NORMALIZATION"),
        EdgeTpuOperator(name="LOGISTIC"),
        EdgeTpuOperator(name="LSTM"),
        EdgeTpuOperator(name="MAXIMUM"),
        EdgeTpuOperator(name="MAX_POOL_2D", limits=("no-fused-activation",)),
        EdgeTpuOperator(name="MEAN", limits=("not-batch", "depth-multiple"), parameters=(1,)),
        EdgeTpuOperator(name="MINIMUM"),
        EdgeTpuOperator(name="MUL"),
        EdgeTpuOperator(name="PACK", limits=("not-batch",)),
        EdgeTpuOperator(name="PAD", limits=("not-batch",), parameters=(1,)),
        EdgeTpuOperator(name="PRELU", limits=("alpha-one-dimensional",), parameters=(1,)),
        EdgeTpuOperator(name="QUANTIZE"),
        EdgeTpuOperator(name="REDUCE_MAX", limits=("not-batch",), parameters=(1,)),
        EdgeTpuOperator(name="REDUCE_MIN", limits=("not-batch",), parameters=(1,)),
        EdgeTpuOperator(name="RELU"),
        EdgeTpuOperator(name="RELU6"),
        EdgeTpuOperator(name="RELU_N1_TO_1"),
        EdgeTpuOperator(name="RESHAPE", parameters=(1,)),
        EdgeTpuOperator(name="RESIZE_BILINEAR", parameters=(1,)),
        EdgeTpuOperator(name="RESIZE_NEAREST_NEIGHBOR", parameters=(1,)),
        EdgeTpuOperator(name="RSQRT"),
        EdgeTpuOperator(name="SLICE", parameters=(1, 2)),
        EdgeTpuOperator(name="SOFTMAX", limits=("one-dimensional", "at-most-16000")),
        EdgeTpuOperator(name="SPACE_TO_DEPTH"),
        EdgeTpuOperator(name="SPLIT", limits=("not-batch",), parameters=(0,)),
        EdgeTpuOperator(name="SQUARED_DIFFERENCE"),
        EdgeTpuOperator(name="SQUEEZE", limits=("leading-ones",)),
        EdgeTpuOperator(name="STRIDED_SLICE", limits=("plain-slice",), parameters=(1, 2, 3)),
        EdgeTpuOperator(name="SUB"),
        EdgeTpuOperator(name="SUM", parameters=(1,)),
        EdgeTpuOperator(name="TANH"),
        EdgeTpuOperator(name="TRANSPOSE", parameters=(1,)),
        EdgeTpuOperator(name="TRANSPOSE_CONV", parameters=(0, 1, 3)),
        EdgeTpuOperator(name="UNIDIRECTIONAL_SEQUENCE_LSTM"),
    )
}

EDGE_TPU_COMPILER_VERSIONS: dict[str, int] = {
    "ADD": 4,
    "AVERAGE_POOL_2D": 3,
    "BATCH_MATMUL": 4,
    "CONCATENATION": 3,
    "CONV_2D": 5,
    "DEPTHWISE_CONV_2D": 6,
    "DEQUANTIZE": 5,
    "DIV": 2,
    "EXP": 1,
    "EXPAND_DIMS": 1,
    "FULLY_CONNECTED": 9,
    "GATHER": 5,
    "L2_NORMALIZATION": 2,
    "LEAKY_RELU": 2,
    "LOGISTIC": 3,
    "LSTM": 4,
    "MAXIMUM": 4,
    "MAX_POOL_2D": 3,
    "MEAN": 3,
    "MINIMUM": 4,
    "MUL": 5,
    "PACK": 3,
    "PAD": 4,
    "PRELU": 1,
    "QUANTIZE": 2,
    "REDUCE_MAX": 3,
    "REDUCE_MIN": 3,
    "RELU": 3,
    "RELU6": 3,
    "RELU_N1_TO_1": 1,
    "RESHAPE": 1,
    "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "RSQRT": 2,
    "SHAPE": 1,
    "SLICE": 5,
    "SOFTMAX": 3,
    "SPACE_TO_DEPTH": 2,
    "SPLIT": 4,
    "SQUARED_DIFFERENCE": 2,
    "SQUEEZE": 2,
    "STRIDED_SLICE": 6,
    "SUB": 5,
    "SUM": 2,
    "TANH": 3,
    "TRANSPOSE": 5,
    "TRANSPOSE_CONV": 3,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 3,
    "UNPACK": 4,
}
"""The highest version of each operator that `EDGE_TPU_COMPILER` reads: one that is too new keeps the whole file from
being compiled, wherever it stands."""

GPU_OPERATORS = frozenset(
    {"ABS", "ADD", "ADD_N", "ATAN2", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CEIL", "CONCATENATION", "CONV_2D"}
    | {"COS", "CUMSUM", "DENSIFY", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE", "DIV"}
    | {"DYNAMIC_UPDATE_SLICE", "ELU", "EMBEDDING_LOOKUP", "EQUAL", "EXP", "FLOOR", "FLOOR_DIV", "FLOOR_MOD"}
    | {"FULLY_CONNECTED", "GATHER", "GELU", "GREATER", "GREATER_EQUAL", "HARD_SWISH", "LEAKY_RELU", "LESS"}
    | {"LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGISTIC", "LSTM", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM"}
    | {"MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL", "ONE_HOT", "PACK", "PAD", "PADV2", "POW", "PRELU", "QUANTIZE"}
    | {"REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR"}
    | {"RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN", "SLICE", "SOFTMAX"}
    | {"SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "STABLEHLO_CLAMP"}
    | {"STRIDED_SLICE", "SUB", "SUM", "TANH", "TILE", "TRANSPOSE", "TRANSPOSE_CONV"}
)
"""What TensorFlow Lite's GPU delegate takes at all (the operators that tensorflow/lite/tools/versioning/
gpu_compatibility.cc names); each has limits on shapes and types besides."""

GPU_CUSTOM_OPERATORS = frozenset(
    {"Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D", "Resampler"}
)
"""Likewise, of custom operators."""
