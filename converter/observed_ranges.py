"""The ranges of activations, as a plain run sees them. Loads LiteRT: runs in a child.

TensorFlow's calibrator reads an operator's inputs after it ran. Where an operator writes its output over an input, as
ADD and MUL do where they can, the input is credited with the output's range: in TensorFlow 2.21 every residual branch
gets the range of the sum, and loses that many bits. So each range that the calibrator wrote is read again from a run
that keeps all tensors apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from converter.data import Array

Sample = dict[str, Array] | tuple[str, dict[str, Array]]
"""Inputs by name, for the only signature or for the one that is named."""


def observed(float_model: bytes, calibrated: bytes, samples: Iterable[Sample]) -> bytes:
    """The calibrated model with the ranges that its float32 model has on these samples.

    Only tensors of the signatures' own subgraphs are read: what is inside of a loop keeps what the calibrator wrote.

    Args:
        float_model: What was calibrated.
        calibrated: The same with a range at each activation that is to be quantized.
        samples: Those of the calibration.
    """
    from ai_edge_litert.tools import flatbuffer_utils  # noqa: PLC0415  only in a child

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(calibrated))
    observer = _Observer(float_model, model)
    for sample in samples:
        observer.run(*sample) if isinstance(sample, tuple) else observer.run(None, sample)
    observer.write()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def has_inner_tensors(float_model: bytes) -> bool:
    """Whether there are activations that `observed` does not reach: in loops, branches and LSTM kernels."""
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  only in a child

    model = schema.Model.GetRootAs(float_model, 0)
    own = {model.SignatureDefs(index).SubgraphIndex() for index in range(model.SignatureDefsLength())}
    if set(range(model.SubgraphsLength())) != own:
        return True
    operator = schema.BuiltinOperator
    inner = {
        operator.LSTM,
        operator.UNIDIRECTIONAL_SEQUENCE_LSTM,
        operator.BIDIRECTIONAL_SEQUENCE_LSTM,
        operator.SVDF,
    }
    codes = (model.OperatorCodes(index) for index in range(model.OperatorCodesLength()))
    return any(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) in inner for code in codes)


class _Observer:
    """The least and the largest value of each tensor so far, by subgraph and index."""

    def __init__(self, float_model: bytes, calibrated: Any) -> None:
        """Takes the model whose tensors are watched, and whose ranges are replaced by `write`."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType  # noqa: PLC0415  only in a child

        self._interpreter = Interpreter(
            model_content=float_model,
            experimental_preserve_all_tensors=True,
            # XNNPACK keeps the tensors inside of what it takes to itself.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._runners: dict[str | None, Any] = {}
        self._calibrated = calibrated
        self._subgraphs = {one.signatureKey.decode(): int(one.subgraphIndex) for one in calibrated.signatureDefs}
        self._watched = {index: _ranged(calibrated.subgraphs[index]) for index in set(self._subgraphs.values())}
        self._found: dict[tuple[int, int], tuple[float, float]] = {}

    def run(self, signature: str | None, inputs: dict[str, Array]) -> None:
        """One sample for the signature, or for the only one."""
        if signature not in self._runners:
            self._runners[signature] = self._interpreter.get_signature_runner(signature)
        self._runners[signature](**inputs)
        subgraph = self._subgraphs[signature or next(iter(self._subgraphs))]
        for index in self._watched[subgraph]:
            values: Array = self._interpreter.get_tensor(index, subgraph)
            if values.dtype != np.float32 or not values.size:
                continue
            low, high = self._found.get((subgraph, index), (np.inf, -np.inf))
            self._found[subgraph, index] = min(low, float(values.min())), max(high, float(values.max()))

    def write(self) -> None:
        """Puts what was seen into the calibrated model; what is not finite leaves what is there."""
        for (subgraph, index), bounds in self._found.items():
            if np.isfinite(bounds).all():
                quantization = self._calibrated.subgraphs[subgraph].tensors[index].quantization
                quantization.min, quantization.max = [bounds[0]], [bounds[1]]


def _ranged(subgraph: Any) -> list[int]:
    """The tensors to which the calibrator gave one range."""
    return [
        index
        for index, tensor in enumerate(subgraph.tensors)
        if tensor.quantization is not None and tensor.quantization.min is not None and len(tensor.quantization.min) == 1
    ]
