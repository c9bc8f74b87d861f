"""Reads what a TFLite file computes: its operators in order, their tensors, options and cost. No interpreter.

The schema's Python classes come with LiteRT, so `read` runs in a child process. They check nothing: a damaged file
shows as an exception of theirs, which becomes a `SourceInvalid`; what a hostile one can still do is cost time, which
the child's limit bounds.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.artifact import VARIABLE, Quantization
from converter.errors import SourceInvalid

IDENTIFIER = b"TFL3"
"""At byte 4 of every TFLite file, as flatbuffers have it."""

CUSTOM = "CUSTOM"

DAMAGED = (
    *(struct.error, IndexError, ValueError, TypeError, KeyError, AttributeError),
    *(OverflowError, MemoryError, RecursionError),
)
"""What the schema's classes raise on bytes that are no flatbuffer of theirs (UnicodeDecodeError is a ValueError)."""

_INTEGERS = ("int32", "int64")

_DTYPES = {"string": "uint8", "bfloat16": "uint16", "int4": "uint8", "int2": "uint8"}
"""What numpy has no dtype for, as the bytes that are all zero where its values are."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of the graph.

    Attributes:
        index: Its place in its subgraph.
        name: As in the file; nothing makes it unique.
        dtype: In lower case: `int8`, `float32`, `int4`, `resource`...
        shape: Its sizes; those that the caller chooses are `VARIABLE`.
        quantization: Of tensors with scales; None without.
        data: A constant's bytes, uint8, one-dimensional; None for what is computed.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: Quantization | None = None
    data: npt.NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def constant(self) -> bool:
        """Whether its values are in the file."""
        return self.data is not None

    @property
    def size_bytes(self) -> int:
        """Of a constant."""
        return 0 if self.data is None else int(self.data.size)

    @property
    def dynamic(self) -> bool:
        """Whether a size is the caller's choice."""
        return VARIABLE in self.shape

    def integers(self) -> tuple[int, ...] | None:
        """A constant's int32 or int64 values (axes, paddings), flat; None for any other tensor."""
        if self.data is None or self.dtype not in _INTEGERS:
            return None
        return tuple(int(value) for value in self.data.view(self.dtype))

    def zero(self) -> bool:
        """Whether it is a constant of nothing but real zeros."""
        if self.data is None:
            return False
        stored = self.data.view(np.dtype(_DTYPES.get(self.dtype, self.dtype)))
        return bool(np.all(stored == (self.quantization.zero_points[0] if self.quantization else 0)))

    def __str__(self) -> str:
        return f"{self.name!r} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator, in the order of execution.

    Attributes:
        index: Its place.
        name: The builtin's name (`CONV_2D`), or a custom operator's own.
        custom: Whether it is a custom one.
        version: Of the operator, as TFLite counts.
        inputs: None where an optional one is absent.
        outputs: At least one, as a rule.
        options: Those of the schema, in snake case, enums as numbers: `{"padding": 0, "stride_w": 1}`.
        activation: The fused one: `NONE`, `RELU`...; `NONE` where the operator can have none.
    """

    index: int
    name: str
    custom: bool = False
    version: int = 1
    inputs: tuple[Tensor | None, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    activation: str = "NONE"

    def input(self, place: int) -> Tensor | None:
        """The input at that place; None where it is absent."""
        return self.inputs[place] if place < len(self.inputs) else None

    @property
    def given(self) -> tuple[Tensor, ...]:
        """The inputs that are there."""
        return tuple(one for one in self.inputs if one is not None)

    @property
    def output_name(self) -> str:
        """The name of its first output; empty where it has none."""
        return self.outputs[0].name if self.outputs else ""


@dataclass(frozen=True, kw_only=True)
class SignatureTensors:
    """A signature as the file has it: tensors by the caller's names, in the file's order.

    Attributes:
        name: Its key.
        subgraph: Which subgraph it is for.
        inputs: By name.
        outputs: By name.
    """

    name: str
    subgraph: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A TFLite file's primary subgraph, and what there is beside it.

    Attributes:
        inputs: In the file's order.
        outputs: Likewise.
        operators: In the order of execution.
        subgraphs: How many the file has.
        signatures: All of the file; empty in files of old converters.
        others: The names of the operators in the other subgraphs.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    subgraphs: int = 1
    signatures: tuple[SignatureTensors, ...] = ()
    others: frozenset[str] = frozenset()

    def uses(self, *names: str) -> bool:
        """Whether an operator of that name is anywhere in the file."""
        return any(one.name in names for one in self.operators) or any(name in self.others for name in names)


def read(path: Path) -> Graph:
    """The graph of a TFLite file. Only in a child process.

    Raises:
        SourceInvalid: it can't be read, or is no TFLite file, or is damaged.
    """
    content = content_of(path)
    try:
        return _Reader(content).graph()
    except DAMAGED as error:
        raise SourceInvalid(f"{path}: a damaged TFLite file: {type(error).__name__}: {error}") from error


def content_of(path: Path) -> bytes:
    """The bytes of what at least begins as a TFLite file does.

    Raises:
        SourceInvalid: it can't be read, or begins otherwise.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if head[4:] != IDENTIFIER:
                raise SourceInvalid(f"{path}: no TFLite file: it does not have {IDENTIFIER.decode()!r} at byte 4")
            return head + file.read()
    except OSError as error:
        raise SourceInvalid(f"{path}: can't be read: {error.strerror}") from error


def macs(operator: Operator) -> int:
    """Multiply-accumulates for one run at the file's own sizes, variable ones taken as 1; 0 for operators without.

    With N, H, W, C for batch, height, width and channels: CONV_2D takes N*H_out*W_out*C_out * kh*kw*C_in, where C_in
    is the filter's (so that grouped convolutions count right); DEPTHWISE_CONV_2D N*H_out*W_out*C_out * kh*kw;
    TRANSPOSE_CONV N*H_in*W_in*C_in * kh*kw*C_out, each input value meeting each filter value once;
    FULLY_CONNECTED (all outputs) * depth; BATCH_MATMUL (all outputs) * the inner dimension.
    """
    known = _MACS.get(operator.name)
    if known is None or operator.custom or not operator.outputs:
        return 0
    return known(operator)


def _conv(operator: Operator) -> int:
    filters = operator.input(1)
    return size(operator.outputs[0].shape) * size(filters.shape[1:]) if filters else 0


def _depthwise(operator: Operator) -> int:
    filters = operator.input(1)
    return size(operator.outputs[0].shape) * size(filters.shape[1:3]) if filters else 0


def _transpose_conv(operator: Operator) -> int:
    filters, values = operator.input(1), operator.input(2)  # Its input 0 is the output's shape.
    return size(values.shape) * size(filters.shape[:3]) if filters and values else 0


def _fully_connected(operator: Operator) -> int:
    weights = operator.input(1)
    return size(operator.outputs[0].shape) * size(weights.shape[-1:]) if weights else 0


def _batch_matmul(operator: Operator) -> int:
    left = operator.input(0)
    if left is None or len(left.shape) < 2:
        return 0
    inner = left.shape[-2] if operator.options.get("adj_x") else left.shape[-1]
    return size(operator.outputs[0].shape) * size((inner,))


_MACS = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
}

WEIGHTED = frozenset(_MACS)
"""The operators that have multiply-accumulates to count."""


def size(shape: Iterable[int]) -> int:
    """How many elements; a variable size counts as 1."""
    return math.prod(1 if dim == VARIABLE else dim for dim in shape)


class _Reader:
    """Walks the flatbuffer; reads each tensor once."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  only in a child

        self._schema = schema
        self._builtins = _names(schema.BuiltinOperator)
        self._types = _names(schema.TensorType)
        self._activations = _names(schema.ActivationFunctionType)
        self._model = schema.Model.GetRootAs(content, 0)
        codes = [self._model.OperatorCodes(index) for index in range(self._model.OperatorCodesLength())]
        # Builtins past 126 are only in the newer field, those of old files only in the older one.
        self._codes = [(max(one.BuiltinCode(), one.DeprecatedBuiltinCode()), one) for one in codes]

    def graph(self) -> Graph:
        count = self._model.SubgraphsLength()
        if not count:
            raise ValueError("it has no subgraph")
        subgraphs = [self._model.Subgraphs(index) for index in range(count)]
        tensors = [self._tensors(one) for one in subgraphs]
        first, own = subgraphs[0], tensors[0]
        return Graph(
            inputs=tuple(own[first.Inputs(place)] for place in range(first.InputsLength())),
            outputs=tuple(own[first.Outputs(place)] for place in range(first.OutputsLength())),
            operators=tuple(
                self._operator(index, first.Operators(index), own) for index in range(first.OperatorsLength())
            ),
            subgraphs=count,
            signatures=tuple(
                self._signature(self._model.SignatureDefs(index), tensors)
                for index in range(self._model.SignatureDefsLength())
            ),
            others=frozenset(
                self._name(other.Operators(index).OpcodeIndex())
                for other in subgraphs[1:]
                for index in range(other.OperatorsLength())
            ),
        )

    def _tensors(self, subgraph: Any) -> list[Tensor]:
        return [self._tensor(index, subgraph.Tensors(index)) for index in range(subgraph.TensorsLength())]

    def _tensor(self, index: int, raw: Any) -> Tensor:
        shape = [] if raw.ShapeIsNone() else raw.ShapeAsNumpy().tolist()
        if raw.ShapeSignatureLength() == len(shape):
            shape = raw.ShapeSignatureAsNumpy().tolist() if shape else []
        return Tensor(
            index=index,
            name=_text(raw.Name()),
            dtype=self._types[raw.Type()].lower(),
            shape=tuple(shape),
            quantization=_quantization(raw.Quantization()),
            data=self._data(raw),
        )

    def _data(self, raw: Any) -> npt.NDArray[np.uint8] | None:
        buffer = self._model.Buffers(raw.Buffer())
        if buffer.Offset() > 1:  # Files past 2 GB have their constants behind the flatbuffer.
            raise ValueError("constants outside of the flatbuffer are not read")
        if raw.IsVariable() or not buffer.DataLength():
            return None
        data: npt.NDArray[np.uint8] = buffer.DataAsNumpy()
        return data

    def _name(self, code_index: int) -> str:
        code, raw = self._codes[code_index]
        if self._builtins[code] == CUSTOM:
            return _text(raw.CustomCode())
        return self._builtins[code]

    def _operator(self, index: int, raw: Any, tensors: list[Tensor]) -> Operator:
        code, definition = self._codes[raw.OpcodeIndex()]
        options = self._options(raw)
        activation = options.get("fused_activation_function", 0)
        inputs = [raw.Inputs(place) for place in range(raw.InputsLength())]
        return Operator(
            index=index,
            name=self._name(raw.OpcodeIndex()),
            custom=self._builtins[code] == CUSTOM,
            version=definition.Version(),
            inputs=tuple(None if one < 0 else tensors[one] for one in inputs),
            outputs=tuple(tensors[raw.Outputs(place)] for place in range(raw.OutputsLength())),
            options=options,
            activation=self._activations.get(activation, str(activation)),
        )

    def _options(self, raw: Any) -> dict[str, Any]:
        if raw.BuiltinOptions() is None:
            return {}
        found = self._schema.BuiltinOptionsCreator(raw.BuiltinOptionsType(), raw.BuiltinOptions())
        return {_snake(name): _plain(value) for name, value in vars(found).items()} if found else {}

    def _signature(self, raw: Any, tensors: list[list[Tensor]]) -> SignatureTensors:
        own = tensors[raw.SubgraphIndex()]
        inputs = [raw.Inputs(place) for place in range(raw.InputsLength())]
        outputs = [raw.Outputs(place) for place in range(raw.OutputsLength())]
        return SignatureTensors(
            name=_text(raw.SignatureKey()),
            subgraph=raw.SubgraphIndex(),
            inputs={_text(one.Name()): own[one.TensorIndex()] for one in inputs},
            outputs={_text(one.Name()): own[one.TensorIndex()] for one in outputs},
        )


def _text(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", "replace")


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}


def _quantization(raw: Any) -> Quantization | None:
    if raw is None or not raw.ScaleLength():
        return None
    scales = raw.ScaleAsNumpy().tolist()
    # Symmetric tensors of some converters have no zero points: they are all 0.
    zero_points = raw.ZeroPointAsNumpy().tolist() if raw.ZeroPointLength() else [0] * len(scales)
    if not all(math.isfinite(scale) and scale > 0 for scale in scales) or len(scales) != len(zero_points):
        return None
    return Quantization(
        scales=tuple(scales), zero_points=tuple(int(point) for point in zero_points), axis=raw.QuantizedDimension()
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return tuple(value) if isinstance(value, list) else value
