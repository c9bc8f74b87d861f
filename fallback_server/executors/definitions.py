"""Signatures as clients ask for them: a SignatureDefMap, made where a model brings none of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fallback_server.executors.base import Signature, TensorSpec
from fallback_server.protocol.proto import tensor_pb2 as pb
from fallback_server.protocol.tensors import wire_dtype

PREDICT = "tensorflow/serving/predict"
"""The method of a signature that says nothing else."""


def definitions(signatures: Iterable[Signature]) -> bytes:
    """A serialized SignatureDefMap. The graph's tensors are called as in the signature, with TensorFlow's `:0`."""
    made = pb.SignatureDefMap()
    for signature in signatures:
        definition = made.signature_def[signature.name]
        definition.method_name = signature.method or PREDICT
        _fill(definition.inputs, signature.inputs)
        _fill(definition.outputs, signature.outputs)
    return made.SerializeToString(deterministic=True)


def _fill(tensors: Mapping[str, pb.TensorInfo], specs: Mapping[str, TensorSpec]) -> None:
    for name, spec in specs.items():
        info = tensors[name]
        info.name = f"{name}:0"
        info.dtype = wire_dtype(spec.dtype)  # type: ignore[assignment]  # the stubs know no numbers
        if spec.shape is None:
            info.tensor_shape.unknown_rank = True
        else:
            for size in spec.shape:
                info.tensor_shape.dim.add(size=size)
