"""What an Edge TPU would do with a TFLite file, foretold without its compiler.

The compiler puts one part of the graph on the Edge TPU: the operators up to the first that it does not take, in the
order of execution; that one and all after it stay on the CPU. A QUANTIZE of a float input and a DEQUANTIZE of a float
output stay on the CPU too, and end nothing: they are the rim of a model with floats in and out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from converter.edgetpu.rules import DATA_DTYPES, objection
from converter.edgetpu.static import needed, static_batch
from converter.errors import VariantUnusable
from converter.findings import EdgeTpuReport, OperatorMapping
from converter.graph import Graph, Operator, macs, read
from devices.operators import EDGE_TPU_CACHE_BYTES, EDGE_TPU_COMPILER, EDGE_TPU_COMPILER_VERSIONS

CUSTOM_OPERATOR = "edgetpu-custom-op"
"""The one operator that edgetpu_compiler puts in the place of all that it maps."""

RIM = "a float tensor at the model's rim is converted on the CPU"


def report(file: Path) -> EdgeTpuReport:
    """What an Edge TPU would do with the file, with fixed sizes and a batch of one (see `static`). Only in a child.

    That form is written beside the file: whoever owns that folder removes it where this process is killed.

    Raises:
        SourceInvalid: it is no TFLite file, or a damaged one.
    """
    graph = read(file)
    if not needed(graph):
        return foretell(graph)
    with tempfile.TemporaryDirectory(prefix=".static-", dir=file.parent) as folder:
        try:
            static_batch(file, Path(folder) / "static.tflite")
        except VariantUnusable as error:
            return foretell(graph, (f"its sizes are not fixed: {error}",))
        return foretell(read(Path(folder) / "static.tflite"))


def is_compiled(file: Path) -> bool:
    """Whether the file holds what edgetpu_compiler makes. Only in a child.

    Raises:
        SourceInvalid: it is no TFLite file, or a damaged one.
    """
    return read(file).uses(CUSTOM_OPERATOR)


def foretell(graph: Graph, blockers: Sequence[str] = ()) -> EdgeTpuReport:
    """The report on a graph whose sizes are fixed. Pure.

    Args:
        graph: What is to be compiled.
        blockers: What is known already to keep all of it off.
    """
    blockers = (*blockers, *_blockers(graph))
    reasons = [RIM if is_rim(graph, one) else objection(one) for one in graph.operators]
    if blockers:
        reasons = [reason or "the file as a whole can't be compiled" for reason in reasons]
    end = next((place for place, reason in enumerate(reasons) if reason not in ("", RIM)), None)
    if end is not None:
        what = f"it comes after operator {end}, {graph.operators[end].name}, with which the Edge TPU's part ends"
        reasons[end + 1 :] = [reason or what for reason in reasons[end + 1 :]]
    return assemble(graph, reasons, by_rules=True, parameter_bytes=None, blockers=blockers)


def assemble(
    graph: Graph,
    reasons: Sequence[str],
    *,
    by_rules: bool,
    parameter_bytes: int | None,
    blockers: Sequence[str] = (),
    cache_bytes: int = EDGE_TPU_CACHE_BYTES,
) -> EdgeTpuReport:
    """The report that follows from a reason (or none) for each operator.

    Args:
        graph: The graph.
        reasons: Why each operator is not mapped; empty for one that is.
        by_rules: Whether they come from the table and not from the compiler.
        parameter_bytes: Of the mapped part; None counts them here.
        blockers: See `EdgeTpuReport`.
        cache_bytes: Likewise.
    """
    operators = tuple(
        OperatorMapping(
            index=one.index,
            operator=one.name,
            name=one.output_name,
            mapped=not reason,
            reason=reason,
            macs=macs(one),
        )
        for one, reason in zip(graph.operators, reasons, strict=True)
    )
    total = sum(one.macs for one in operators)
    on_tpu = [one for one in operators if one.mapped]
    # A model without any multiply-accumulate is measured by its operators.
    share = sum(one.macs for one in on_tpu) / total if total else len(on_tpu) / max(1, len(operators))
    return EdgeTpuReport(
        by="rules" if by_rules else "compiler",
        operators=operators,
        first_unmapped=next((one.index for one in operators if not one.mapped and not _rim_of(graph, one)), None),
        macs_mapped=share,
        parameter_bytes=_parameters(graph, operators) if parameter_bytes is None else parameter_bytes,
        cache_bytes=cache_bytes,
        blockers=tuple(blockers),
    )


def is_rim(graph: Graph, operator: Operator) -> bool:
    """Whether it turns a float input into what the model computes with, or back into a float output."""
    if operator.name == "QUANTIZE" and operator.given:
        own = operator.given[0]
        return own.dtype == "float32" and own.index in {one.index for one in graph.inputs}
    if operator.name == "DEQUANTIZE" and operator.outputs:
        return operator.outputs[0].index in {one.index for one in graph.outputs}
    return False


def _rim_of(graph: Graph, mapping: OperatorMapping) -> bool:
    return is_rim(graph, graph.operators[mapping.index])


def _parameters(graph: Graph, mappings: Sequence[OperatorMapping]) -> int:
    """The constants that mapped operators compute with, each once; axes and shapes are no parameters."""
    found = {
        tensor.index: tensor.size_bytes
        for one in mappings
        if one.mapped
        for tensor in graph.operators[one.index].given
        if tensor.constant and (tensor.quantization or tensor.dtype in DATA_DTYPES)
    }
    return sum(found.values())


def _blockers(graph: Graph) -> list[str]:
    """What keeps the file as a whole off the Edge TPU."""
    found = []
    if graph.uses(CUSTOM_OPERATOR):
        found.append("it is compiled already")
    if graph.subgraphs > 1:
        found.append(f"it has {graph.subgraphs} subgraphs (branches, loops or several signatures), one is taken")
    if graph.operators and not any(_is_quantized(one) for one in graph.operators):
        found.append("nothing in it computes with int8 or uint8: only a model that does so throughout is taken")
    batches = [one for one in graph.inputs if len(one.shape) > 1 and one.shape[0] > 1]
    if batches:
        found.append(f"input {batches[0].name!r} has a batch of {batches[0].shape[0]}: one sample at a time is taken")
    for one in graph.operators:
        known = EDGE_TPU_COMPILER_VERSIONS.get(one.name)
        if known is not None and one.version > known:
            found.append(
                f"{one.name} at {one.output_name!r} has version {one.version}; "
                f"{EDGE_TPU_COMPILER}, the last, reads up to {known} and refuses the file"
            )
    return found


def _is_quantized(operator: Operator) -> bool:
    return any(one.dtype in DATA_DTYPES and not one.constant for one in (*operator.given, *operator.outputs))
