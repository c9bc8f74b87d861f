"""What quantizing each operator costs, seen by itself. Loads TensorFlow: runs in a child.

TensorFlow's quantizer can put the float form of every operator beside its int8 form, both fed with what the int8 one
before them gave. The difference of the two is this operator's own error: of its weights and of its output's range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from converter.calibration import representative
from converter.data import Array
from converter.errors import VariantUnusable
from converter.findings import LayerError
from converter.metrics import rounded, sqnr_db
from converter.quantize import Lowering, calibrated_model

DEFAULT_SAMPLES = 64
"""Each error is a mean over all of a tensor's values too; the ranking settles after some dozen samples."""

_NUMERIC_VERIFY = "NumericVerify"

_MOVES_VALUES_DB = 100.0
"""8 bits give 50 dB at most: an operator above this only moves values, and its output is as good as its input."""

_DEAD_CHANNEL = 1e-12
"""Of the loudest channel's power: a channel below it says nothing that float32 would keep."""


def layer_errors(task: Lowering, max_samples: int = DEFAULT_SAMPLES) -> tuple[LayerError, ...]:
    """The error of each operator that int8 has a form of, in the first signature, the worst first.

    An operator is ranked by the worst of its output and its inputs: left in float beside the one that feeds it, it
    takes that one's output unquantized, and left out it would have it quantized again.

    The signal-to-noise ratio is taken channel by channel (the last axis) and the channels' noise shares are averaged,
    each at most 1: in a tensor with one loud channel all others can be lost while the plain ratio reads 40 dB.

    Args:
        task: As for the recipe `mixed`; `file` is not written.
        max_samples: How many of the calibration samples are used at most.

    Raises: as `quantize.lower`.
    """
    from tensorflow.lite.python import convert  # noqa: PLC0415  only in a child

    if len(task.signatures) > 1:
        # The verifying operators can be read in the file's first subgraph alone, whichever signature that is.
        task = replace(task, signatures=task.signatures[:1], float_file=None, calibrated_file=None)
    calibrated = calibrated_model(task)
    probe = _Probe(convert.mlir_quantize(calibrated, enable_numeric_verify=True), task.signatures[0].name)
    if task.calibration is None:
        raise VariantUnusable(f"{task.recipe.name} needs calibration data")
    for inputs in representative(task.calibration, max_samples):
        probe.run(inputs)
    return probe.errors()


@dataclass(kw_only=True)
class _Layer:
    """One operator's sums over the samples; the arrays are by channel.

    Attributes:
        name: Of the output tensor as the float model has it.
        operator: Its kind.
        inputs: Indices of what the int8 form takes.
        quantized: Index of the int8 output.
        original: Index of the float one.
        scale: Of the int8 output.
        zero_point: Likewise.
    """

    name: str
    operator: str
    inputs: tuple[int, ...]
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
        live = self.signal > self.signal.max() * _DEAD_CHANNEL
        shares = np.minimum(1.0, self.noise[live] / self.signal[live])
        mean_noise = float(self.noise.mean()) / max(1, self.samples)
        return LayerError(
            name=self.name,
            operator=self.operator,
            sqnr_db=rounded(sqnr_db(1.0, float(shares.mean()) if shares.size else 0.0)),
            rmse_per_scale=rounded(float(np.sqrt(mean_noise)) / self.scale),
        )


class _Probe:
    """The model with both forms of every operator, and their errors so far."""

    def __init__(self, model: bytes, signature: str) -> None:
        import tensorflow as tf  # noqa: PLC0415  only in a child; LiteRT's interpreter lacks the verifying operator

        self._interpreter = tf.lite.Interpreter(
            model_content=model,
            experimental_preserve_all_tensors=True,
            # XNNPACK would fuse tensors away that are to be looked at.
            experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        details = self._interpreter.get_signature_runner(signature).get_input_details()
        self._inputs = {name: int(detail["index"]) for name, detail in details.items()}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._layers = list(self._find())

    def _find(self) -> Iterator[_Layer]:
        tensors = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}
        operators = self._interpreter._get_ops_details()  # noqa: SLF001  there is no other way to the operators
        made_by = {int(index): one for one in operators for index in one["outputs"]}
        for one in operators:
            if one["op_name"] != _NUMERIC_VERIFY:
                continue
            quantized, original = (int(index) for index in one["inputs"])
            if original in made_by and made_by[original]["op_name"] == "DEQUANTIZE":
                continue  # An operator that only moves values: there is no float form beside it, and no error.
            scale, zero_point = tensors[quantized]["quantization"]
            yield _Layer(
                name=tensors[original]["name"],
                operator=made_by[quantized]["op_name"],
                inputs=tuple(int(index) for index in made_by[quantized]["inputs"]),
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
        found = {layer.quantized: layer.error() for layer in self._layers}
        inputs = {layer.quantized: layer.inputs for layer in self._layers}

        def worst_input_db(index: int) -> float:
            return min((of_tensor_db(one) for one in inputs[index] if one in found), default=found[index].sqnr_db)

        def of_tensor_db(index: int) -> float:
            own_db = found[index].sqnr_db
            return worst_input_db(index) if own_db >= _MOVES_VALUES_DB else own_db

        def rank(index: int) -> tuple[float, float, str]:
            error = found[index]
            return min(error.sqnr_db, worst_input_db(index)), error.sqnr_db, error.name

        return tuple(found[index] for index in sorted(found, key=rank))
