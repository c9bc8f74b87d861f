"""What an existing TFLite file is, and what puts it into a package. Loads LiteRT: only in a child process."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from converter import edgetpu, graph_edit
from converter.artifact import VARIABLE, ManifestInvalid, Signature, TensorSpec
from converter.artifact.signature import DTYPES
from converter.config import DEFAULT_SIGNATURE
from converter.errors import SourceInvalid, VariantUnusable
from converter.evaluate import blank
from converter.findings import EdgeTpuReport
from converter.graph import WEIGHTED, Graph, Operator, SignatureTensors, Tensor, read
from converter.sources.saved_model import make_signature
from converter.variant_runner import VariantRunner

QUANTIZED = frozenset({"int8", "uint8", "int16"})
"""Tensors of these dtypes stand for real numbers where they have scales."""

STATE = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")

DIVISIONS = frozenset({"DIV", "FLOOR_DIV", "FLOOR_MOD"})
WHOLE = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint32"})
"""A division of these by 0 ends the process that it runs in."""

_INT8 = frozenset({"int8", "uint8"})


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """What was found out about a file. Picklable.

    Attributes:
        variant: What its variant is called: `float32`, `float16`, `dynamic`, `int4`, `int8`, `int8-float-io`,
            `int16x8` or `mixed`.
        signatures: As callers see them: float32 where the file is quantized.
        named_here: Whether the file had no signature, and got one named after its tensors.
        stateful: Whether it keeps a state from call to call.
        edge_tpu: What an Edge TPU would do with it; of int8 files.
        risks: What it has that may never end or crash on some values, in words.
    """

    variant: str
    signatures: tuple[Signature, ...]
    named_here: bool
    stateful: bool
    edge_tpu: EdgeTpuReport | None = None
    risks: tuple[str, ...] = ()


def prepare(model: Path, out: Path) -> Wrapped:
    """Copies the file to `out`, with a signature where it has none: a runtime finds tensors by its names.

    Raises:
        SourceInvalid: it is no TFLite file, or damaged, or compiled for the Edge TPU, or has tensors that no package
            can describe.
    """
    graph = read(model)
    if graph.uses(edgetpu.CUSTOM_OPERATOR):
        raise SourceInvalid(
            f"{model}: it is compiled for the Edge TPU and runs nowhere else: give the file that it was compiled from, "
            "and this one after it"
        )
    signatures = _usable(graph)
    if not signatures:
        signatures = (graph_edit.named_by_tensors(graph, DEFAULT_SIGNATURE),)
        _sign(model, out, signatures[0])
    else:
        shutil.copyfile(model, out)
    name = variant_name(graph)
    try:
        seen = tuple(_logical(one) for one in signatures)
    except ManifestInvalid as error:
        raise SourceInvalid(f"{model}: {error}") from error
    return Wrapped(
        variant=name,
        signatures=seen,
        named_here=not _usable(graph),
        stateful=graph.uses(*STATE),
        edge_tpu=edgetpu.report(out) if name.startswith("int8") else None,
        risks=risks_of(graph),
    )


def prepare_compiled(model: Path, out: Path, plain: Path, logical: Signature) -> tuple[Signature, ...]:
    """Copies a file that is compiled for the Edge TPU to `out`, with the names of the one that it was compiled from.

    Args:
        model: The compiled file.
        out: Where to.
        plain: What `prepare` made of the other.
        logical: That one's signature.

    Returns:
        The signature as the compiled file has it: its tensors, and the other's names.

    Raises:
        SourceInvalid: it is not compiled, or LiteRT refuses it, or its tensors are not the other's.
    """
    graph, original = read(model), read(plain)
    if not graph.uses(edgetpu.CUSTOM_OPERATOR):
        raise SourceInvalid(f"{model}: holds no {edgetpu.CUSTOM_OPERATOR}: it was not compiled for the Edge TPU")
    _verify(model)
    if len(original.signatures) != 1:
        raise SourceInvalid(
            f"{model}: the other file has {len(original.signatures)} signatures, a compiled one stands for one"
        )
    signature = original.signatures[0]
    inputs = _paired(model, "input", original.inputs, graph.inputs, signature.inputs)
    outputs = _paired(model, "output", original.outputs, graph.outputs, signature.outputs)
    named = SignatureTensors(name=logical.name, subgraph=0, inputs=inputs, outputs=outputs)
    if graph.signatures == (named,):
        shutil.copyfile(model, out)
    else:
        _sign(model, out, named)
    own = Signature(
        name=logical.name,
        inputs=tuple(_spec(spec.name, inputs[spec.name]) for spec in logical.inputs),
        outputs=tuple(_spec(spec.name, outputs[spec.name]) for spec in logical.outputs),
        batch_axis=logical.batch_axis,
    )
    return (own,)


def run_once(file: Path, signatures: Sequence[Signature]) -> tuple[Signature, ...]:
    """Runs each signature on zeros; the signatures as the file has them.

    Raises:
        VariantUnusable: its tensors are not what was read of it.
        Exception: whatever LiteRT raises where it can't run.
    """
    found = []
    for logical in signatures:
        runner = VariantRunner(file, logical)
        for rows in (1, 2) if logical.batch_axis is not None else (1,):
            for name, values in runner.run(blank(logical, rows).inputs).items():
                if logical.batch_axis is not None and values.shape[:1] != (rows,):
                    raise VariantUnusable(f"output {name!r} has the shape {list(values.shape)} for {rows} samples")
        found.append(runner.signature)
    return tuple(found)


def variant_name(graph: Graph) -> str:
    """What the file is, by the operators that have weights, or else by all."""
    operators = [one for one in graph.operators if one.name in WEIGHTED] or list(graph.operators)
    computed = {_dtype(one) for one in operators}
    if computed and computed <= _INT8:
        rim = (*graph.inputs, *graph.outputs)
        return "int8-float-io" if any(one.dtype.startswith("float") for one in rim) else "int8"
    if computed == {"int16"}:
        return "int16x8"
    if computed & (_INT8 | {"int16"}):
        return "mixed"
    stored = {tensor.dtype for one in graph.operators for tensor in one.given if tensor.constant and tensor.shape}
    by_weights = (("int4", "int4"), ("int8", "dynamic"), ("uint8", "dynamic"), ("float16", "float16"))
    return next((name for dtype, name in by_weights if dtype in stored), "float32")


def risks_of(graph: Graph) -> tuple[str, ...]:
    """What no run on zeros shows to be harmless. Of subgraphs that no loop runs the operators' dtypes are not known."""
    loops = ("a loop (WHILE)",) if graph.uses("WHILE") else ()
    divided = {one.name for one in graph.operators if one.name in DIVISIONS and _divides_by_given(one)}
    divided |= graph.others & (DIVISIONS - {"DIV"})
    return (*loops, f"divisions of whole numbers ({', '.join(sorted(divided))})") if divided else loops


def _divides_by_given(operator: Operator) -> bool:
    """Whether it divides whole numbers by what is no constant of the file: by 0, perhaps."""
    divisor = operator.input(1)
    return divisor is not None and not divisor.constant and divisor.dtype in WHOLE


def _dtype(operator: Operator) -> str:
    """What the operator computes with: its first input that is no constant."""
    flowing = [one.dtype for one in operator.given if not one.constant]
    return flowing[0] if flowing else "float32"


def _usable(graph: Graph) -> tuple[SignatureTensors, ...]:
    """The file's signatures, if each has a name, inputs and outputs, as a manifest needs them."""
    named = all(
        one.name and one.inputs and one.outputs and "" not in {*one.inputs, *one.outputs} for one in graph.signatures
    )
    return graph.signatures if named else ()


def _sign(model: Path, out: Path, signature: SignatureTensors) -> None:
    content = graph_edit.load(model)
    graph_edit.set_signature(content, signature.name, list(signature.inputs), list(signature.outputs))
    graph_edit.save(content, out)


def _logical(signature: SignatureTensors) -> Signature:
    def seen(tensors: Mapping[str, Tensor]) -> list[TensorSpec]:
        return [_spec(name, tensor, as_real=True) for name, tensor in tensors.items()]

    return make_signature(signature.name, seen(signature.inputs), seen(signature.outputs))


def _spec(name: str, tensor: Tensor, *, as_real: bool = False) -> TensorSpec:
    if tensor.dtype not in DTYPES:
        raise ManifestInvalid(f"tensor {name!r} is {tensor.dtype}, which no package can describe")
    scaled = tensor.quantization is not None and tensor.dtype in QUANTIZED
    if scaled and as_real:
        return TensorSpec(name=name, dtype="float32", shape=tensor.shape)
    return TensorSpec(
        name=name, dtype=tensor.dtype, shape=tensor.shape, quantization=tensor.quantization if scaled else None
    )


def _paired(
    model: Path, kind: str, originals: Sequence[Tensor], compiled: Sequence[Tensor], named: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The compiled file's tensors by the other's names, in the graph's order.

    Raises:
        SourceInvalid: there are not as many, or one has another shape, dtype or quantization.
    """
    if len(originals) != len(compiled):
        raise SourceInvalid(f"{model}: has {len(compiled)} {kind}s, the file before it {len(originals)}")
    names = {tensor.index: name for name, tensor in named.items()}
    for place, (one, other) in enumerate(zip(originals, compiled, strict=True)):
        fixed = tuple(1 if size == VARIABLE else size for size in one.shape)
        if (one.dtype, fixed) != (other.dtype, tuple(1 if size == VARIABLE else size for size in other.shape)):
            raise SourceInvalid(f"{model}: {kind} {place} is {other}, of the file before it {one}")
        if not _same_scale(one, other):
            raise SourceInvalid(
                f"{model}: {kind} {place}, {other.name!r}, is quantized by {_scale(other)}, "
                f"of the file before it by {_scale(one)}"
            )
    return {names[one.index]: other for one, other in zip(originals, compiled, strict=True)}


def _same_scale(one: Tensor, other: Tensor) -> bool:
    a, b = one.quantization, other.quantization
    if a is None or b is None:
        return a is b
    close = all(math.isclose(x, y, rel_tol=1e-5) for x, y in zip(a.scales, b.scales, strict=False))
    return close and len(a.scales) == len(b.scales) and a.zero_points == b.zero_points


def _scale(tensor: Tensor) -> str:
    if tensor.quantization is None:
        return "nothing"
    return f"scale {tensor.quantization.scales[0]:g}, zero point {tensor.quantization.zero_points[0]}"


def _verify(model: Path) -> None:
    """LiteRT verifies the whole file when it is loaded; the delegate is asked for only when tensors are allocated."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  only in a child

    try:
        Interpreter(model_path=str(model))
    except (RuntimeError, ValueError) as error:
        raise SourceInvalid(f"{model}: LiteRT can't load it: {error}") from error
