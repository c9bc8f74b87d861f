"""What quantizing each operator costs, seen by itself. Loads TensorFlow: runs in a child.

TensorFlow's quantizer can write a file with the float model and the int8 model side by side, and an operator between
them that compares tensor with tensor. There the errors of all operators before one reach it, and behind an operator
that loses its output nothing can be seen any more. So the file is changed: what was to compare now quantizes the float
tensor, and whoever took the int8 one takes that instead. Each int8 operator is then fed with what the float model
computes, quantized as in the int8 model, and its output is compared with the float model's: the error that there would
be if this operator alone were int8. It is of its inputs' ranges, of its weights, and of its output's range. So a layer
says nothing of those before it, whatever these lose.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from converter import graph_edit
from converter.calibration import representative
from converter.data import Array
from converter.errors import VariantUnusable
from converter.findings import LayerError
from converter.metrics import rounded, sqnr_db
from converter.quantize import Lowering, calibrated_model

DEFAULT_SAMPLES = 64
"""Each error is a mean over all of a tensor's values too; the ranking settles after some dozen samples."""

_NUMERIC_VERIFY = "NumericVerify"

_DEAD_CHANNEL = 1e-12
"""Of the loudest channel's power: a channel below it says nothing that float32 would keep."""


def layer_errors(task: Lowering, max_samples: int = DEFAULT_SAMPLES) -> tuple[LayerError, ...]:
    """The error of each operator that int8 has a form of, in the first signature, the worst first.

    A tensor whose range int8 can't hold shows at the operator that gives it and at those that take it. So it should:
    only where all of these are left in float is it never quantized.

    The signal-to-noise ratio is taken channel by channel (the last axis) and the channels' noise shares are averaged,
    each at most 1: in a tensor with one loud channel all others can be lost while the plain ratio reads 40 dB.

    Args:
        task: As for the recipe `mixed`; `file` is not written, but its folder is used.
        max_samples: How many of the calibration samples are used at most.

    Raises: as `quantize.lower`.
    """
    from tensorflow.lite.python import convert  # noqa: PLC0415  only in a child

    calibration = task.calibration
    if calibration is None:
        raise VariantUnusable(f"{task.recipe.name} needs calibration data")
    if len(task.signatures) > 1:
        # The two models can be read in the file's first subgraph alone, whichever signature that is.
        task = replace(task, signatures=task.signatures[:1], float_file=None, calibrated_file=None)
    both = convert.mlir_quantize(calibrated_model(task), enable_numeric_verify=True, enable_whole_model_verify=True)
    with tempfile.TemporaryDirectory(dir=task.file.parent) as folder:
        file = Path(folder) / "both.tflite"
        file.write_bytes(both)
        model = graph_edit.load(file)
        pairs = _feed_from_float(model)
        graph_edit.save(model, file)
        probe = _Probe(file, task.signatures[0].name, pairs)
        for inputs in representative(calibration, max_samples):
            probe.run(inputs)
        return probe.errors()


def _feed_from_float(model: Any) -> list[tuple[int, int]]:
    """Changes the `ModelT` of both forms: every int8 operator is fed with what the float ones before it gave.

    Each operator that compares an int8 tensor with its float form becomes one that quantizes the float form; it has
    an output of the int8 tensor's scale already. Whoever comes after it takes this output instead of the int8
    tensor, and the float form itself where it took the int8 one dequantized, as a float operator does that has no
    int8 form.

    Returns: the int8 tensors of the first subgraph, each with its float form, by index.
    """
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  only in a child

    codes = model.operatorCodes
    comparing = {place for place, code in enumerate(codes) if code.customCode == _NUMERIC_VERIFY.encode()}
    dequantizing = {place for place, code in enumerate(codes) if code.builtinCode == schema.BuiltinOperator.DEQUANTIZE}
    pairs = [_feed_subgraph(subgraph, comparing, dequantizing) for subgraph in model.subgraphs]
    for place in comparing:
        codes[place].customCode = None
        codes[place].version = 1
        codes[place].builtinCode = codes[place].deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    return pairs[0]


def _feed_subgraph(subgraph: Any, comparing: set[int], dequantizing: set[int]) -> list[tuple[int, int]]:
    pairs = []
    instead: dict[int, int] = {}
    floats: dict[int, int] = {}  # By the index of what was quantized from it.
    for operator in subgraph.operators or ():
        given = () if operator.inputs is None else map(int, operator.inputs)
        operator.inputs = [instead.get(index, index) for index in given]
        if operator.opcodeIndex in comparing:
            int8, real = operator.inputs
            operator.inputs, operator.customOptions = [real], None
            floats[int(operator.outputs[0])] = real
            if int8 not in floats:  # Or else it has been compared before.
                instead[int8] = int(operator.outputs[0])
                pairs.append((int8, real))
        elif operator.opcodeIndex in dequantizing and operator.inputs[0] in floats:
            instead[int(operator.outputs[0])] = floats[operator.inputs[0]]
    return pairs


@dataclass(kw_only=True)
class _Layer:
    """One operator's sums over the samples; the arrays are by channel.

    Attributes:
        name: Of the output tensor as the float model has it.
        operator: Its kind.
        quantized: Index of the int8 output.
        original: Index of the float one.
        scale: Of the int8 output.
        zero_point: Likewise.
    """

    name: str
    operator: str
    quantized: int
    original: int
    scale: float
    zero_point: int
    signal: Array = field(default_factory=lambda: np.zeros(1))
    noise: Array = field(default_factory=lambda: np.zeros(1))
    samples: int = 0

    def add(self, original: Array, quantized: Array) -> None:
        real: Array = original.astype(np.float64)
        difference: Array = (quantized.astype(np.float64) - self.zero_point) * self.scale - real
        axes = tuple(range(real.ndim - 1))
        self.signal = self.signal + (real**2).mean(axis=axes)
        self.noise = self.noise + (difference**2).mean(axis=axes)
        self.samples += 1

    def error(self) -> LayerError:
        # No int8 holds what is not finite; figures that are none could not be written either.
        finite = np.isfinite(self.signal) & np.isfinite(self.noise)
        signal, noise = np.where(finite, self.signal, 1.0), np.where(finite, self.noise, 1.0)
        live = ~finite | (signal > self.signal[finite].max(initial=0.0) * _DEAD_CHANNEL)
        shares = np.minimum(1.0, noise[live] / signal[live])
        mean_noise = float(self.noise[finite].mean()) / max(1, self.samples) if finite.any() else 0.0
        return LayerError(
            name=self.name,
            operator=self.operator,
            sqnr_db=rounded(sqnr_db(1.0, float(shares.mean()) if shares.size else 0.0)),
            rmse_per_scale=rounded(float(np.sqrt(mean_noise)) / self.scale),
        )


class _Probe:
    """The file with both forms of every operator, and their errors so far."""

    def __init__(self, file: Path, signature: str, pairs: Sequence[tuple[int, int]]) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: PLC0415  only in a child

        self._interpreter = Interpreter(
            model_path=str(file),
            experimental_preserve_all_tensors=True,
            # XNNPACK would fuse tensors away that are to be looked at.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        details = self._interpreter.get_signature_runner(signature).get_input_details()
        self._inputs = {name: int(detail["index"]) for name, detail in details.items()}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._layers = list(self._find(pairs))

    def _find(self, pairs: Sequence[tuple[int, int]]) -> Iterator[_Layer]:
        tensors = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}
        operators = self._interpreter._get_ops_details()  # noqa: SLF001  there is no other way to the operators
        made_by = {int(index): one["op_name"] for one in operators for index in one["outputs"]}
        for quantized, original in pairs:
            scale, zero_point = tensors[quantized]["quantization"]
            yield _Layer(
                name=tensors[original]["name"],
                operator=made_by[quantized],
                quantized=quantized,
                original=original,
                scale=float(scale),
                zero_point=int(zero_point),
            )

    def run(self, inputs: Mapping[str, Array]) -> None:
        shapes = {name: inputs[name].shape for name in self._inputs}
        if shapes != self._shapes:
            for name, index in self._inputs.items():
                self._interpreter.resize_tensor_input(index, shapes[name])
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for name, index in self._inputs.items():
            self._interpreter.set_tensor(index, inputs[name])
        self._interpreter.invoke()
        for layer in self._layers:
            get = self._interpreter.get_tensor
            layer.add(get(layer.original), get(layer.quantized))

    def errors(self) -> tuple[LayerError, ...]:
        return tuple(sorted((one.error() for one in self._layers), key=lambda one: (one.sqnr_db, one.name)))
