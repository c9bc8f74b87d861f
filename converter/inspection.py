"""Looks into a package that is already made: what is in it, and whether it still runs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from converter.artifact import Package, PackageNotFound, install
from converter.errors import ConverterError
from converter.evaluate import check_and_measure
from converter.isolation import ForkServer
from converter.result import PackageResult, VariantResult, of_package

RUN_LIMIT_S = 300.0
"""For one variant's run on zeros; a large model on a slow board takes seconds."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Package]:
    """The package at `path`, a directory or a `.tar.gz`, with every digest checked.

    Raises:
        PackageError: see `artifact`.
    """
    if not path.exists():
        raise PackageNotFound(f"{path}: no such file or directory")
    if path.is_dir():
        yield Package.open(path)
        return
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        yield install(path, folder)


def inspect(path: Path) -> PackageResult:
    """What the package's manifest says."""
    with opened(path) as package:
        return of_package(package, path)


def verify(path: Path) -> PackageResult:
    """As `inspect`, after every variant was run once, on zeros; those that don't run have the status `failed`."""
    with opened(path) as package, ForkServer(("ai_edge_litert.interpreter",)) as server:
        found = of_package(package, path)
        variants = tuple(_try(server, package, one) for one in found.variants)
    return PackageResult(
        package=found.package,
        name=found.name,
        version=found.version,
        chosen=found.chosen,
        variants=variants,
        source_metrics=found.source_metrics,
        evaluation_samples=found.evaluation_samples,
    )


def _try(server: ForkServer, package: Package, result: VariantResult) -> VariantResult:
    variant = package.manifest.variant(result.name)
    try:
        for signature in package.manifest.signatures:
            server.run(check_and_measure, RUN_LIMIT_S, package.file(variant), signature, None)
    except ConverterError as error:
        return VariantResult(
            name=result.name,
            status="failed",
            size_bytes=result.size_bytes,
            metrics=result.metrics,
            error=" ".join(str(error).split()),
        )
    return result
