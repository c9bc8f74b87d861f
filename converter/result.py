"""What a conversion or an inspection found: the same fields in Python and in `--json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from converter.artifact import Cascade, Latency, Metrics, Package


class VariantResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one variant.

    Attributes:
        name: Its name.
        status: `ok`: made, run and in the package. `failed`: its conversion or its check went wrong. `refused`: not
            tried, since something that it needs was not given.
        size_bytes: The size of its file; None where there is none.
        metrics: By output, then by metric; see `metrics`.
        error: Why it failed or was refused, in one line; None where it is ok.
        latency: On `PackageResult.host`; empty where it was not measured.
        bench: From a file that `edge-run bench` wrote on a device, likewise on `PackageResult.bench_host`.
        cascade: From what confidence on its answers can stand; None where that was not found out.
    """

    name: str
    status: Literal["ok", "failed", "refused"]
    size_bytes: int | None = None
    metrics: Metrics = {}
    error: str | None = None
    latency: tuple[Latency, ...] = ()
    bench: tuple[Latency, ...] = ()
    cascade: Cascade | None = None


class PackageResult(msgspec.Struct, frozen=True, kw_only=True):
    """A package and its variants.

    Attributes:
        package: Its directory; None where nothing was published.
        name: The model's name.
        version: Its version.
        chosen: The variant to run, by target.
        variants: Every one that was tried or refused; of a package, those in it.
        source_metrics: The original's own.
        evaluation_samples: How many samples were measured on; 0 where the metrics are numeric error on calibration
            data, or nothing at all.
        notes: What the user should know, one sentence each.
        host: The machine that `latency` was measured on; empty where none was.
        bench_host: The machine that the bench file comes from; empty where none was given.
        report: The HTML report's file; None where none was written.
    """

    package: str | None
    name: str
    version: int
    chosen: dict[str, str]
    variants: tuple[VariantResult, ...]
    source_metrics: Metrics = {}
    evaluation_samples: int = 0
    notes: tuple[str, ...] = ()
    host: str = ""
    bench_host: str = ""
    report: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers: what `--json` prints."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def of_package(package: Package, where: Path | None = None) -> PackageResult:
    """What a package's manifest says of it; `where` it is shown to lie, if not where it was opened."""
    manifest = package.manifest
    return PackageResult(
        package=str(where or package.path),
        name=manifest.model,
        version=manifest.version,
        chosen=dict(manifest.chosen),
        variants=tuple(
            VariantResult(
                name=one.name, status="ok", size_bytes=one.size_bytes, metrics=one.metrics, cascade=one.cascade
            )
            for one in manifest.variants
        ),
        source_metrics=manifest.source.metrics,
        evaluation_samples=manifest.evaluation_samples,
    )
