"""Packages and manifests of classifiers with a cascade threshold: `scores` are the input, times a factor."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from support.edge_models import publish_scale

from converter.artifact import Cascade, Manifest, Package, Signature, Source, TensorSpec, Variant, publish
from converter.artifact.schema import FileEntry

CASCADE = Cascade(
    output="scores", confidence="max", threshold=0.8, escalation_rate=0.3, accuracy=0.9, source_accuracy=0.9
)


def signature_of(name: str) -> Signature:
    """`x` -> `scores`, both float32 [-1, 4]."""
    return Signature(
        name=name,
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),),
        outputs=(TensorSpec(name="scores", dtype="float32", shape=(-1, 4)),),
        batch_axis=0,
    )


def manifest_of(signatures, cascade: Cascade | None, labels: tuple[str, ...] = ()) -> Manifest:
    """A manifest of one variant, `float32`, with that cascade."""
    variant = Variant(
        name="float32", file="variants/float32.tflite", size_bytes=1, signatures=signatures, cascade=cascade
    )
    return Manifest(
        format_version=2,
        model="m",
        version=1,
        signatures=signatures,
        variants=(variant,),
        chosen={"default": "float32"},
        source=Source(format="saved_model", digest="sha256:none"),
        files={"variants/float32.tflite": FileEntry(size_bytes=1, sha256="0" * 64)},
        labels=labels,
    )


def probabilities(random: np.random.Generator, count: int, sharpness: float) -> np.ndarray:
    """Rows of four classes' probabilities, float32."""
    logits = np.exp(random.normal(size=(count, 4)) * sharpness)
    return (logits / logits.sum(axis=1, keepdims=True)).astype(np.float32)


def publish_cascade(store: Path, version: int = 1, *, threshold: float = 0.8) -> Package:
    """Publishes `scale`, y = x on the device, with a threshold on `y`."""
    with tempfile.TemporaryDirectory() as folder:
        package = publish_scale(Path(folder), version, 1.0)
        manifest = package.manifest
        cascade = replace(CASCADE, output="y", threshold=threshold)
        variants = tuple(replace(one, cascade=cascade) for one in manifest.variants)
        files = {name: package.path / name for name in manifest.files}
        return publish(files, replace(manifest, format_version=2, variants=variants), store)
