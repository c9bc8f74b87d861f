"""Models that keep state: a counter built here, and the real wake words of pymicro-wakeword."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from support.edge_models import WIDTH

from converter.artifact import Signature, TensorSpec

_OPERATORS = schema.BuiltinOperator
_CODES = [
    _OPERATORS.CALL_ONCE,
    _OPERATORS.VAR_HANDLE,
    _OPERATORS.READ_VARIABLE,
    _OPERATORS.ASSIGN_VARIABLE,
    _OPERATORS.ADD,
]


def _wake_words() -> list[str]:
    found = importlib.util.find_spec("pymicro_wakeword")
    folder = Path(found.origin).parent / "models" if found and found.origin else Path("/nowhere")
    return sorted(str(path) for path in folder.glob("*.tflite"))


WAKE_WORDS = _wake_words() or [
    pytest.param("", marks=pytest.mark.skip(reason="pymicro-wakeword is not installed")),
]
"""The paths of the real models, as parameters of a test."""


def counting_model(step: float = 1.0) -> bytes:
    """Adds a count to its input: y = x + step * n at the n-th run since it was loaded; float32 [1, 4]."""
    return _model(step, assigns=True)


def constant_model(step: float = 1.0) -> bytes:
    """Has a variable that is set once and only read afterwards: y = x + step."""
    return _model(step, assigns=False)


def _model(step: float, *, assigns: bool) -> bytes:
    shape = [1, WIDTH]
    main = schema.SubGraphT()
    main.tensors = [
        _tensor("x", shape),
        _tensor("handle", [1], schema.TensorType.RESOURCE),
        _tensor("before", shape),
        _tensor("step", shape, buffer=1),
        _tensor("after", shape),
        _tensor("y", shape),
    ]
    main.inputs, main.outputs = [0], [5]
    count = [_operator(4, [2, 3], [4]), _operator(3, [1, 4], [])] if assigns else []
    main.operators = [
        _operator(0, [], [], schema.CallOnceOptionsT()),
        _operator(1, [], [1], schema.VarHandleOptionsT()),
        _operator(2, [1], [2]),
        *count,
        _operator(4, [0, 4 if assigns else 2], [5]),
    ]
    main.operators[0].builtinOptions.initSubgraphIndex = 1
    initial = schema.SubGraphT()
    initial.tensors = [_tensor("handle", [1], schema.TensorType.RESOURCE), _tensor("start", shape, buffer=2)]
    initial.inputs, initial.outputs = [], []
    initial.operators = [_operator(1, [], [0], schema.VarHandleOptionsT()), _operator(3, [0, 1], [])]
    for one in (main.operators[1], initial.operators[0]):
        one.builtinOptions.container, one.builtinOptions.sharedName = "", "count"
    model = schema.ModelT()
    model.version, model.subgraphs = 3, [main, initial]
    model.operatorCodes = [_code(code) for code in _CODES]
    model.buffers = [schema.BufferT(), _buffer(step), _buffer(0.0 if assigns else step)]
    model.signatureDefs = [_signature_def()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tensor(name, shape, kind=schema.TensorType.FLOAT32, buffer=0):
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    return tensor


def _buffer(value):
    buffer = schema.BufferT()
    buffer.data = np.full((1, WIDTH), value, np.float32).tobytes()
    return buffer


def _operator(code, inputs, outputs, options=None):
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    kinds = [
        schema.BuiltinOptions.CallOnceOptions,
        schema.BuiltinOptions.VarHandleOptions,
        schema.BuiltinOptions.ReadVariableOptions,
        schema.BuiltinOptions.AssignVariableOptions,
        schema.BuiltinOptions.AddOptions,
    ]
    plain = {2: schema.ReadVariableOptionsT, 3: schema.AssignVariableOptionsT, 4: schema.AddOptionsT}
    operator.builtinOptionsType, operator.builtinOptions = kinds[code], options or plain[code]()
    return operator


def _code(builtin):
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)
    return code


def _signature_def():
    def entry(name, index):
        map_ = schema.TensorMapT()
        map_.name, map_.tensorIndex = name, index
        return map_

    definition = schema.SignatureDefT()
    definition.signatureKey, definition.subgraphIndex = "serving_default", 0
    definition.inputs, definition.outputs = [entry("x", 0)], [entry("y", 5)]
    return definition


def wake_word_signature(path: str) -> Signature:
    """The tensors of a wake word's file: int8 [1, 3, 40], three steps of 40 mel features, -> uint8 [1, 1]."""
    from ai_edge_litert.interpreter import Interpreter

    ((name, tensors),) = Interpreter(model_path=path).get_signature_list().items()
    (entry,), (exit_,) = tensors["inputs"], tensors["outputs"]
    return Signature(
        name=name,
        inputs=(TensorSpec(name=entry, dtype="int8", shape=(1, 3, 40)),),
        outputs=(TensorSpec(name=exit_, dtype="uint8", shape=(1, 1)),),
        batch_axis=0,
    )


def frames(count: int, seed: int = 0) -> np.ndarray:
    """Quiet noise, int8 [count, 1, 3, 40]: with loud noise a wake word's answer is 0 throughout and proves nothing."""
    return np.random.default_rng(seed).integers(-128, -100, (count, 1, 3, 40), np.int8)
