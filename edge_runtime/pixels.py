"""Inputs that take raw pixels: those into which a variant of the package has its preprocessing folded.

A uint8 array for such an input goes to a variant that has it folded as it is. Anywhere else, to a server or another
variant, its float form goes, made by the package's own preprocessing: so that all answer the same question.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
from msgspec.structs import replace

from converter.artifact import Manifest
from edge_runtime.errors import PackageRefused
from edge_runtime.types import Array, InferRequest

Reals = Callable[[Array], Array]
"""Pixels of any shape -> what preprocessing would have made of them."""

Pixels = Mapping[str, Mapping[str, Reals]]
"""By signature, then by input."""


def pixel_inputs(manifest: Manifest) -> Pixels:
    """The inputs that take pixels; signatures without any are not in it.

    Raises:
        PackageRefused: a variant has an input folded whose preprocessing can't be.
    """
    folded = {name for variant in manifest.variants for name in variant.folded}
    found: dict[str, dict[str, Reals]] = {}
    for signature in manifest.signatures:
        for spec in signature.inputs:
            if spec.name not in folded:
                continue
            if reason := manifest.preprocess.input(spec.name).unfoldable:
                raise PackageRefused(f"input {spec.name!r} is folded, which its preprocessing can't be: {reason}")
            reals = functools.partial(manifest.preprocess.from_pixels, spec.name, spec=spec)
            found.setdefault(signature.name, {})[spec.name] = reals
    return found


def in_reals(pixels: Pixels, request: InferRequest) -> InferRequest:
    """The request as it would have come without pixels."""
    made = {
        name: reals(request.inputs[name])
        for name, reals in pixels.get(request.signature, {}).items()
        if request.inputs[name].dtype == np.uint8
    }
    return replace(request, inputs={**request.inputs, **made}) if made else request
