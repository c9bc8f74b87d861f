"""Writes changed TFLite files: the whole flatbuffer is taken apart and put together again. Only in a child process."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import SourceInvalid
from converter.graph import DAMAGED, IDENTIFIER, Graph, SignatureTensors, Tensor, content_of

ALIGNMENT_BYTES = 16
"""Of constants, as the schema has it: kernels read them where they lie, with vector instructions."""

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_]+")


def load(path: Path) -> Any:
    """The file as a `ModelT` of the schema's object API, its constants as views of the file's bytes.

    Raises:
        SourceInvalid: it can't be read, or is no TFLite file, or is damaged.
    """
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  only in a child

    content = content_of(path)
    try:
        return schema.ModelT.InitFromPackedBuf(content, 0)
    except DAMAGED as error:
        raise SourceInvalid(f"{path}: a damaged TFLite file: {type(error).__name__}: {error}") from error


def save(model: Any, path: Path) -> None:
    """Writes a `ModelT`; the same model gives the same bytes. Needs memory for two to three times the file."""
    import flatbuffers  # type: ignore[import-untyped]  # noqa: PLC0415  comes with LiteRT

    model.buffers = [_Aligned(buffer) for buffer in model.buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    path.write_bytes(builder.Output())


def constant(model: Any, values: np.ndarray[Any, Any]) -> int:
    """Adds a buffer with these values; its index."""
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  only in a child

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def drop_unused_codes(model: Any) -> None:
    """Removes operator codes that no operator has: a runtime refuses a file for a code that it does not know."""
    every = [operator for subgraph in model.subgraphs for operator in subgraph.operators or ()]
    used = sorted({int(operator.opcodeIndex) for operator in every})
    places = {index: place for place, index in enumerate(used)}
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for operator in every:
        operator.opcodeIndex = places[int(operator.opcodeIndex)]


def set_signature(model: Any, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Gives the primary subgraph one signature, instead of any that the file has.

    Args:
        model: As of `load`.
        name: The signature's key.
        inputs: The caller's names for the subgraph's inputs, in its order.
        outputs: For its outputs.
    """
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  only in a child

    def entries(names: Sequence[str], indices: Iterable[int]) -> list[Any]:
        found = []
        for one, index in zip(names, indices, strict=True):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = one, int(index)
            found.append(entry)
        return found

    subgraph = model.subgraphs[0]
    definition = schema.SignatureDefT()
    definition.signatureKey, definition.subgraphIndex = name, 0
    definition.inputs = entries(inputs, subgraph.inputs)
    definition.outputs = entries(outputs, subgraph.outputs)
    model.signatureDefs = [definition]


def named_by_tensors(graph: Graph, name: str) -> SignatureTensors:
    """A signature for a graph that has none: its names are the tensors', made plain and different from each other.

    `serving_default_image:0` and `image:0` become `image`; of two that would be equal the second gets `_1`.
    """
    return SignatureTensors(
        name=name, subgraph=0, inputs=_plain_names(graph.inputs, "input"), outputs=_plain_names(graph.outputs, "output")
    )


def _plain_names(tensors: Iterable[Tensor], otherwise: str) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for tensor in tensors:
        text = re.sub(r":\d+$", "", tensor.name.rsplit(";", 1)[-1]).removeprefix("serving_default_")
        base = _NOT_PLAIN.sub("_", text).strip("_") or otherwise
        name, count = base, 0
        while name in named:
            count += 1
            name = f"{base}_{count}"
        named[name] = tensor
    return named


class _Aligned:
    """Packs a buffer as the schema wants it; the generated classes put bytes anywhere."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def Pack(self, builder: Any) -> int:  # noqa: N802  the generated classes' name
        from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  only in a child

        data = None
        if self._buffer.data is not None and len(self._buffer.data):
            content = np.asarray(self._buffer.data, np.uint8).tobytes()
            builder.StartVector(1, len(content), ALIGNMENT_BYTES)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))
