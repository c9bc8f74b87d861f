"""Which tensor goes where between the segments of a model that was cut by edgetpu_compiler. Pure.

The compiler leaves every tensor its name, so that a segment's inputs are found by name among what earlier segments
gave, as pycoral's PipelinedModelRunner does, or else they are the model's own inputs. It knows no signatures, though:
the names by which a package calls inputs and outputs are not in the segments. The converter takes them from the
SavedModel, and TensorFlow names the tensors after them, inputs at least: `image` is `serving_default_image:0`, but
`scores` is `StatefulPartitionedCall:0`. So a package's tensor is, in this order,

1. the tensor whose name is the same, as it is or made plain as `edge-convert` makes names plain;
2. the only one left that has its dtype, shape and quantization, if it is the only one of the package's to fit it;
3. the one at its place among those left, if as many are left on both sides, and they fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from converter.artifact import Quantization, Signature, TensorSpec
from edge_runtime.errors import PackageRefused

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_]+")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One segment's part.

    Attributes:
        takes: The tensors that it is given.
        kept: Those that are still needed after it, also of earlier segments.
    """

    takes: tuple[str, ...]
    kept: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """How a request goes through the segments.

    Attributes:
        inputs: By the package's name of an input, the tensor.
        steps: One for each segment.
        outputs: By the package's name of an output, the tensor.
    """

    inputs: dict[str, str]
    steps: tuple[Step, ...]
    outputs: dict[str, str]


def wiring(segments: Sequence[Signature], signature: Signature, subject: str) -> Wiring:
    """Wires the segments up.

    Args:
        segments: Their own tensors, in the order in which they run.
        signature: The variant's, with the package's names.
        subject: What errors call it.

    Raises:
        PackageRefused: a tensor is missing, or does not fit; the text names it.
    """
    made: dict[str, TensorSpec] = {}
    wanted: dict[str, TensorSpec] = {}
    for number, segment in enumerate(segments, 1):
        for tensor in segment.inputs:
            known = made.get(tensor.name) or wanted.setdefault(tensor.name, tensor)
            if (known.dtype, known.shape) != (tensor.dtype, tensor.shape):
                raise PackageRefused(
                    f"{subject}: segment {number} of {len(segments)} takes {tensor.name!r} as {tensor}, "
                    f"where it is {known} before"
                )
        made |= {tensor.name: tensor for tensor in segment.outputs}
    inputs = _matched(signature.inputs, list(wanted.values()), (), signature.name, subject)
    if left := sorted(set(wanted) - set(inputs.values())):
        number = next(at for at, one in enumerate(segments, 1) if left[0] in {tensor.name for tensor in one.inputs})
        raise PackageRefused(
            f"{subject}: segment {number} of {len(segments)} takes {left[0]!r}, which no segment before it gives, "
            f"and which is none of the inputs {sorted(inputs)}"
        )
    outputs = _matched(signature.outputs, _results(segments), list(made.values()), signature.name, subject)
    return Wiring(inputs=inputs, steps=_steps(segments, set(outputs.values())), outputs=outputs)


def _results(segments: Sequence[Signature]) -> list[TensorSpec]:
    """What may be the model's outputs: the last segment's, and what others give and nobody takes."""
    taken = {tensor.name for segment in segments for tensor in segment.inputs}
    found = {tensor.name: tensor for tensor in segments[-1].outputs}
    for segment in segments[:-1]:
        found |= {one.name: one for one in segment.outputs if one.name not in taken and one.name not in found}
    return list(found.values())


def _steps(segments: Sequence[Signature], results: set[str]) -> tuple[Step, ...]:
    steps: list[Step] = []
    needed = set(results)
    for segment in reversed(segments):
        takes = tuple(tensor.name for tensor in segment.inputs)
        steps.append(Step(takes=takes, kept=frozenset(needed)))
        # What this one gives is not needed before it, unless it takes what it gives.
        needed = (needed - {tensor.name for tensor in segment.outputs}) | set(takes)
    return tuple(reversed(steps))


def _matched(
    specs: Sequence[TensorSpec],
    tensors: Sequence[TensorSpec],
    others: Sequence[TensorSpec],
    signature: str,
    subject: str,
) -> dict[str, str]:
    """By the package's name, the tensor; `others` are found by their names only."""
    found: dict[str, TensorSpec] = {}
    for spec in specs:
        for tensor in (*tensors, *others):
            if spec.name in (tensor.name, _plain(tensor.name, signature)) and tensor not in found.values():
                found[spec.name] = tensor
                break
    _match_alone(specs, tensors, found)
    left = [spec for spec in specs if spec.name not in found]
    free = [tensor for tensor in tensors if tensor not in found.values()]
    if len(left) == len(free):
        found |= {spec.name: tensor for spec, tensor in zip(left, free, strict=True)}
    for spec in specs:
        match = found.get(spec.name)
        if match is None:
            names = ", ".join(f"{one.name!r} {one}" for one in free) or "none"
            raise PackageRefused(
                f"{subject}: {spec.name!r}, {spec}, can't be told among the segments' tensors: {names}"
            )
        if not _fits(spec, match):
            raise PackageRefused(f"{subject}: {spec.name!r} is {spec} in the manifest, and {match} in a segment")
    return {name: tensor.name for name, tensor in found.items()}


def _match_alone(specs: Sequence[TensorSpec], tensors: Sequence[TensorSpec], found: dict[str, TensorSpec]) -> None:
    """Adds the pairs that fit each other and nothing else; of two alike, the order decides later."""
    left = [spec for spec in specs if spec.name not in found]
    free = [tensor for tensor in tensors if tensor not in found.values()]
    for spec in left:
        fitting = [tensor for tensor in free if _same(spec, tensor)]
        if len(fitting) == 1 and sum(_same(other, fitting[0]) for other in left) == 1:
            found[spec.name] = fitting[0]


def _fits(spec: TensorSpec, tensor: TensorSpec) -> bool:
    """Whether values of one can be those of the other; of quantization not all files say something."""
    return spec.dtype == tensor.dtype and spec.accepts(tensor.shape)


def _same(spec: TensorSpec, tensor: TensorSpec) -> bool:
    return _fits(spec, tensor) and _same_quantization(spec.quantization, tensor.quantization)


def _same_quantization(one: Quantization | None, other: Quantization | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.zero_points == other.zero_points and np.allclose(one.scales, other.scales, rtol=1e-5, atol=0)


def _plain(name: str, signature: str) -> str:
    """`serving_default_image:0` and `image:0` are `image`."""
    text = re.sub(r":\d+$", "", name.rsplit(";", 1)[-1])
    text = text.removeprefix(f"{signature}_").removeprefix("serving_default_")
    return _NOT_PLAIN.sub("_", text).strip("_")
