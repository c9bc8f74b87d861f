"""Whether a variant's file is what the manifest says of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from converter.artifact import VARIABLE, Quantization, Signature, TensorSpec, Variant
from converter.errors import VariantUnusable

_SCALE_TOLERANCE = 1e-6
"""Relative: a manifest may have been written with float32's digits only."""


def check_declared(variant: Variant, found: Sequence[Signature]) -> None:
    """Refuses a file whose tensors have other dtypes, shapes or quantization than the manifest says.

    A dimension that is variable on one side may be fixed on the other: a file can lose what an output's size depends
    on, and that sizes fit is seen when it runs.

    Args:
        variant: What the manifest says.
        found: The signatures as the file has them, any of them in any order.

    Raises:
        VariantUnusable: they differ; the first tensor is named.
    """
    declared = {one.name: one for one in variant.signatures}
    for signature in found:
        said = declared.get(signature.name)
        if said is None:
            raise VariantUnusable(f"the manifest says nothing of its signature {signature.name!r}")
        for kind, theirs, ours in (
            ("input", said.inputs, signature.inputs),
            ("output", said.outputs, signature.outputs),
        ):
            specs = {one.name: one for one in theirs}
            for spec in ours:
                _check(f"{kind} {spec.name!r}", specs.get(spec.name), spec)


def _check(what: str, said: TensorSpec | None, found: TensorSpec) -> None:
    if said is None:
        raise VariantUnusable(f"the manifest says nothing of its {what}")
    if said.dtype != found.dtype or not _alike(said.shape, found.shape):
        raise VariantUnusable(f"{what} is {found} in the file, the manifest says {said}")
    # Of floats the file may tell how they were stored once; nothing reads it.
    integers = found.numpy_dtype.kind in "iu"
    if integers and not _same(said.quantization, found.quantization):
        have, want = _text(found.quantization), _text(said.quantization)
        raise VariantUnusable(f"{what} has {have} in the file, the manifest says {want}")


def _alike(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return len(first) == len(second) and all(
        VARIABLE in (one, other) or one == other for one, other in zip(first, second, strict=True)
    )


def _same(first: Quantization | None, second: Quantization | None) -> bool:
    if first is None or second is None:
        return first is second
    if first.zero_points != second.zero_points or (len(first.scales) > 1 and first.axis != second.axis):
        return False
    pairs = zip(first.scales, second.scales, strict=True)  # As many as zero points.
    return all(math.isclose(one, other, rel_tol=_SCALE_TOLERANCE) for one, other in pairs)


def _text(quantization: Quantization | None) -> str:
    if quantization is None:
        return "no quantization"
    if len(quantization.scales) > 1:
        return f"{len(quantization.scales)} scales along axis {quantization.axis}, {quantization.scales[0]:.7g} first"
    return f"the scale {quantization.scales[0]:.7g} and zero point {quantization.zero_points[0]}"
