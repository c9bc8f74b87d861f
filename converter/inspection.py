"""Looks into a package that is already made: what is in it, and whether it still runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from converter import findings as findings_
from converter.artifact import (
    Bench,
    DigestMismatch,
    Latency,
    Manifest,
    ManifestInvalid,
    Package,
    PackageNotFound,
    SignatureRefused,
    decode_bench,
    install,
)
from converter.artifact.bench import MAX_BENCH_BYTES
from converter.artifact.schema import OWN_FILES
from converter.artifact.signing import Trusted, key_named, read_public_key
from converter.artifact.signing import verify as verify_signature
from converter.compiled import check_compiled
from converter.declared import check_declared
from converter.errors import ConverterError, OptionInvalid
from converter.evaluate import check_and_measure
from converter.findings import FINDINGS_FILE, Findings
from converter.isolation import ForkServer
from converter.report_html import render
from converter.report_writing import written
from converter.result import PackageResult, VariantResult, of_package
from converter.workspace import working_folder

NOT_RUN = "not run: needs an Edge TPU"
"""What `verify` notes of a variant that it could only look at."""

RUN_LIMIT_S = 300.0
"""For one variant's run on zeros; a large model on a slow board takes seconds."""

MAX_FINDINGS_BYTES = 64 * 2**20
"""Findings hold some kilobytes a variant; what is larger is not read."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What is known of a package.

    Attributes:
        result: What its manifest says, with a bench file's times where one was given.
        findings: What was found out when it was made; empty where it holds none.
        manifest: The whole manifest: labels, tools.
    """

    result: PackageResult
    findings: Findings
    manifest: Manifest


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
    with working_folder() as folder:
        yield install(path, folder)


def inspect(path: Path, bench: Path | None = None, report: Path | None = None) -> PackageResult:
    """What the package's manifest says; see `examine`.

    Args:
        path: The package.
        bench: What `edge-run bench PACKAGE --json` wrote on a device.
        report: Where the HTML report is written.
    """
    return examine(path, bench, report).result


def findings_at(result: PackageResult) -> Findings:
    """What the package of a result holds of findings; empty where nothing was published."""
    if result.package is None:
        return Findings()
    with opened(Path(result.package)) as package:
        return read_findings(package)


def examine(path: Path, bench: Path | None = None, report: Path | None = None) -> Inspection:
    """What the package says of itself, and what a device measured of it.

    Args:
        path: Its directory or archive.
        bench: What `edge-run bench PACKAGE --json` wrote.
        report: Where the HTML report is written.

    Raises:
        PackageError: no package, or a damaged one.
        OptionInvalid: the bench file can't be read, or is of another package or version; the report can't be a file.
    """
    if report is not None and report.is_dir():
        raise OptionInvalid(f"report: {report}: a directory, where a file is to be written")
    with opened(path) as package:
        found = _told(of_package(package, path), read_findings(package))
        if package.signed is not None:
            by = f"with the key {key}" if (key := key_named(package.signed)) else "by a damaged signature"
            said = f"Signed {by}, which nobody has verified here: verify --key does."
            found = msgspec.structs.replace(found, notes=(*found.notes, said))
        if bench is not None:
            found = with_bench(found, package, read_bench(bench), bench)
        findings, manifest = read_findings(package), package.manifest
    if report is not None:
        text = render(found, findings, labels=manifest.labels, tools=manifest.tools)
        with written(text, report):
            found = msgspec.structs.replace(found, report=str(report))
    return Inspection(result=found, findings=findings, manifest=manifest)


def _told(result: PackageResult, findings: Findings) -> PackageResult:
    return msgspec.structs.replace(result, notes=(*result.notes, *findings.notes))


def read_findings(package: Package) -> Findings:
    """What was found out when the package was made; empty where it holds none.

    Raises:
        ManifestInvalid: the file is none of findings.
    """
    entry = package.manifest.files.get(FINDINGS_FILE)
    if entry is None:
        return Findings()
    if entry.size_bytes > MAX_FINDINGS_BYTES:
        raise ManifestInvalid(f"{package.path / FINDINGS_FILE}: at most {MAX_FINDINGS_BYTES} bytes are read")
    try:
        return findings_.decode(package.read(FINDINGS_FILE))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestInvalid(f"{package.path / FINDINGS_FILE}: can't be read as findings: {error}") from error


def read_bench(path: Path) -> Bench:
    """The bench file.

    Raises:
        OptionInvalid: it can't be read, or is none.
    """
    try:
        with path.open("rb") as file:
            return decode_bench(file.read(MAX_BENCH_BYTES + 1))
    except OSError as error:
        raise OptionInvalid(f"bench: {path}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise OptionInvalid(f"bench: {path} is nothing that `edge-run bench --json` wrote: {error}") from error


def with_bench(result: PackageResult, package: Package, bench: Bench, origin: Path) -> PackageResult:
    """The result with the device's times.

    Raises:
        OptionInvalid: they are of another package, version or build, or of variants that this one lacks.
    """
    manifest = package.manifest
    if (bench.package, bench.version) != (manifest.model, manifest.version):
        raise OptionInvalid(f"bench: {origin} is of {bench.package}/{bench.version}, the package is {package}")
    if bench.digest != package.digest:
        raise OptionInvalid(
            f"bench: {origin} is of another build of {package}: of {bench.digest}, the package is {package.digest}"
        )
    unknown = sorted({*bench.variants, *bench.failed} - {one.name for one in manifest.variants})
    if unknown:
        raise OptionInvalid(f"bench: {origin} has the variant {unknown[0]!r}, which {package} lacks")
    times = {
        name: tuple(msgspec.convert(msgspec.structs.asdict(one), Latency) for one in entries)
        for name, entries in bench.variants.items()
    }
    host = bench.host or "an unnamed device"
    return msgspec.structs.replace(
        result,
        variants=tuple(msgspec.structs.replace(one, bench=times.get(one.name, ())) for one in result.variants),
        bench_host=host,
        notes=(*result.notes, *(f"{name} could not be timed on {host}: {why}" for name, why in bench.failed.items())),
    )


def verify(path: Path, key: Path | None = None) -> PackageResult:
    """As `inspect`, after every variant was run once, on zeros; those that don't run have the status `failed`.

    A variant whose file has other tensors than the manifest says is a failure as well. What only an accelerator runs
    is looked at, and a note says that it was not run.

    Args:
        path: Its directory or archive.
        key: The file of a public key that it must be signed with; None for no such demand.

    Raises:
        PackageError: no package, or a damaged one: also one with files that its manifest does not list, or that is not
            signed as is demanded.
    """
    trusted = None if key is None else Trusted(keys={str(key): read_public_key(key)})
    with opened(path) as package:
        if trusted is not None:
            _check_signed(package, trusted, path)
        _refuse_unlisted(package)
        found = _told(of_package(package, path), read_findings(package))
        with ForkServer(("ai_edge_litert.interpreter",)) as server:
            variants = tuple(_try(server, package, one) for one in found.variants)
    notes = tuple(f"{one.name}: {NOT_RUN}" for one in variants if _foreign(package, one))
    return msgspec.structs.replace(found, variants=variants, notes=(*found.notes, *notes))


def _check_signed(package: Package, trusted: Trusted, path: Path) -> None:
    try:
        verify_signature(package.digest, package.signed, trusted)
    except SignatureRefused as error:
        raise SignatureRefused(f"{path}: {error}") from error


def _refuse_unlisted(package: Package) -> None:
    """As the installing of an archive does: no digest vouches for such a file."""
    listed = {*OWN_FILES, *package.manifest.files}
    paths = package.path.rglob("*")
    found = {one.relative_to(package.path).as_posix() for one in paths if one.is_symlink() or not one.is_dir()}
    if found - listed:
        raise DigestMismatch(f"{package.path}: holds {min(found - listed)!r}, which the manifest does not list")


def _foreign(package: Package, result: VariantResult) -> bool:
    return result.status == "ok" and package.manifest.variant(result.name).delegate != "cpu"


def _try(server: ForkServer, package: Package, result: VariantResult) -> VariantResult:
    variant = package.manifest.variant(result.name)
    try:
        if variant.delegate == "cpu":
            file, logical = package.file(variant), package.manifest.signatures
            check_declared(variant, server.run(check_and_measure, RUN_LIMIT_S, file, logical, None).signatures)
        else:
            files = [package.path / name for name in variant.segments or (variant.file,)]
            server.run(check_compiled, RUN_LIMIT_S, files)
    except ConverterError as error:
        return msgspec.structs.replace(result, status="failed", error=" ".join(str(error).split()))
    return result
