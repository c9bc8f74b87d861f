"""Runs a TFLite file with LiteRT, taking and giving the original's dtypes. Only in a child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.artifact import Quantization, Signature, TensorSpec
from converter.data import Array
from converter.errors import VariantUnusable

Range = tuple[float, float]
"""The real values of the raw bytes 0 and 255."""

_LARGEST_BYTE = 255


class VariantRunner:
    """One interpreter, for one signature.

    Attributes:
        signature: The tensors as the file has them: dtypes, shapes and quantization.
    """

    def __init__(
        self, file: Path, logical: Signature, *, threads: int = 1, ranges: Mapping[str, Range] | None = None
    ) -> None:
        """Loads the file.

        Args:
            file: The TFLite file.
            logical: The original's signature.
            threads: The interpreter's; one gives the same sums, and so the same package, every time.
            ranges: By input name, the real values that the bytes 0 and 255 of a camera stand for: of uint8 inputs that
                have their preprocessing folded in, which are then fed the bytes that a device would feed.

        Raises:
            VariantUnusable: the file lacks the signature, or has other names, ranks or dtypes.
        """
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  only in a child

        self._ranges = dict(ranges or {})
        self._interpreter = Interpreter(model_path=str(file), num_threads=threads)
        known = sorted(self._interpreter.get_signature_list())
        if logical.name not in known:
            raise VariantUnusable(f"the TFLite file has the signatures {known}, not {logical.name!r}")
        self._runner: Any = self._interpreter.get_signature_runner(logical.name)
        self.signature = Signature(
            name=logical.name,
            inputs=_specs("input", logical.inputs, self._runner.get_input_details()),
            outputs=_specs("output", logical.outputs, self._runner.get_output_details(), logical.batch_axis),
            batch_axis=logical.batch_axis,
        )
        self._check_batch_axis()

    def _check_batch_axis(self) -> None:
        if self.signature.batch_axis is None:
            return
        fixed = [spec for spec in self.signature.inputs if spec.shape[0] != -1]
        if fixed:
            raise VariantUnusable(f"input {fixed[0].name!r} has lost its variable batch: {fixed[0]}")

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call: inputs by name in the original's dtypes, outputs likewise (floats where the original has them)."""
        found = self._runner(**self._fed(inputs))
        return {spec.name: _real(np.asarray(found[spec.name]), spec) for spec in self.signature.outputs}

    def prepared(self, inputs: Mapping[str, Array]) -> Callable[[], None]:
        """A call with these inputs, as they are stored, that can be made again and again: for timing."""
        fed = self._fed(inputs)
        run = self._runner

        def call() -> None:
            run(**fed)

        return call

    def _fed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {
            spec.name: _stored(inputs[spec.name], spec, self._ranges.get(spec.name)) for spec in self.signature.inputs
        }

    def reset(self) -> None:
        """Forgets what earlier calls left in the model's variable tensors."""
        self._interpreter.reset_all_variables()


def _specs(
    kind: str, logical: tuple[TensorSpec, ...], details: Mapping[str, Any], batch_axis: int | None = None
) -> tuple[TensorSpec, ...]:
    names = [spec.name for spec in logical]
    if sorted(details) != sorted(names):
        raise VariantUnusable(f"the TFLite file has the {kind}s {sorted(details)}, the original {names}")
    return tuple(_spec(kind, spec, details[spec.name], batch_axis) for spec in logical)


def _spec(kind: str, logical: TensorSpec, detail: Mapping[str, Any], batch_axis: int | None) -> TensorSpec:
    shape = [int(dim) for dim in detail["shape_signature"]]
    if kind == "output" and not shape:
        # Of unknown rank until it runs, as behind a lookup table; that it is the original's, a run shows.
        shape = list(logical.shape)
    if len(shape) != len(logical.shape):
        raise VariantUnusable(f"{kind} {logical.name!r} has the shape {shape}, the original {list(logical.shape)}")
    if batch_axis is not None:
        # An output's variable dimension can be lost on the way; that the batch is kept, a run with two rows shows.
        shape[batch_axis] = -1
    dtype = "string" if detail["dtype"] in (bytes, np.bytes_, np.object_) else np.dtype(detail["dtype"]).name
    spec = TensorSpec(
        name=logical.name,
        dtype=dtype,
        shape=tuple(shape),
        quantization=_quantization(detail["quantization_parameters"]),
    )
    if spec.dtype != logical.dtype and not (spec.quantization and logical.dtype.startswith("float")):
        raise VariantUnusable(f"{kind} {logical.name!r} is {spec.dtype}, the original {logical.dtype}")
    return spec


def _quantization(parameters: Mapping[str, Any]) -> Quantization | None:
    if not len(parameters["scales"]):
        return None
    return Quantization(
        scales=tuple(float(scale) for scale in parameters["scales"]),
        zero_points=tuple(int(point) for point in parameters["zero_points"]),
        axis=int(parameters["quantized_dimension"]),
    )


def _stored(values: Array, spec: TensorSpec, folded: Range | None) -> Array:
    if folded and spec.dtype == "uint8" and values.dtype.kind == "f":
        # Not by the file's own quantization: its zero point is rounded, a camera's byte is what it is.
        low, high = folded
        raw = np.rint((values.astype(np.float64) - low) / (high - low) * _LARGEST_BYTE)
        return np.clip(raw, 0, _LARGEST_BYTE).astype(np.uint8)
    if spec.quantization and values.dtype.kind == "f":
        return spec.quantization.quantize(values, spec.numpy_dtype)
    return values


def _real(stored: Array, spec: TensorSpec) -> Array:
    if spec.quantization and stored.dtype.kind in "iu":
        return spec.quantization.dequantize(stored)
    return stored
