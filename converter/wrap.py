"""An existing TFLite file, and the same compiled for the Edge TPU, -> a package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from converter import extras
from converter.artifact import (
    FORMAT_VERSION,
    Manifest,
    ManifestInvalid,
    Preprocess,
    Signature,
    Source,
    Variant,
    publish,
)
from converter.artifact.digest import file_entry
from converter.artifact.schema import check_name, check_version
from converter.artifact.signing import SigningKey
from converter.config import DEFAULT_TARGET
from converter.errors import ConverterError, NoVariantMade, OptionInvalid, SourceInvalid, TaskFailed
from converter.findings import FINDINGS_FILE, Findings, VariantFindings, encode
from converter.interrupts import holding_interrupts
from converter.isolation import ForkServer
from converter.places import check_output
from converter.process_memory import first_run_bytes
from converter.progress import Counter, Progress, silent
from converter.report_writing import beside
from converter.result import PackageResult, VariantResult
from converter.tools import tool_versions
from converter.workspace import working_folder
from converter.wrapped import Wrapped, prepare, prepare_compiled, run_once
from devices.profile import load_profiles

FORMAT = "tflite"
COMPILED = "edgetpu"
"""The name of the compiled file's variant, and its delegate."""

COMPILED_FILE = "model_edgetpu.tflite"

PRELOAD = ("ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated")

DEFAULT_TIME_LIMIT_S = 300.0
"""For reading a file, and for running it once on zeros."""


@dataclass(frozen=True, kw_only=True)
class WrapOptions:
    """What to wrap.

    Attributes:
        model: The TFLite file.
        name: The model's name in the package.
        version: Its version, at least 1.
        output: The folder of packages.
        edgetpu_model: The same model as edgetpu_compiler left it; None for none.
        labels: A text file with one class name a line.
        preprocess: A TOML file with `[inputs.NAME]` tables.
        sign: The file with the key that signs the package; None for no signature.
        replace: Whether a version that is already there gives way.
        time_limit_s: For each step that runs in a child process.
    """

    model: Path
    name: str
    version: int
    output: Path
    edgetpu_model: Path | None = None
    labels: Path | None = None
    preprocess: Path | None = None
    sign: Path | None = None
    replace: bool = False
    time_limit_s: float = DEFAULT_TIME_LIMIT_S

    def __post_init__(self) -> None:
        try:
            check_name(self.name)
            check_version(self.version)
        except ManifestInvalid as error:
            raise OptionInvalid(str(error)) from error
        if not self.time_limit_s > 0:
            raise OptionInvalid(f"time limit: must be above 0 s, got {self.time_limit_s}")


def wrap(options: WrapOptions, progress: Progress = silent, server: ForkServer | None = None) -> PackageResult:
    """Makes `output/name/version/` and `output/name-version.tar.gz` of the file; all of it or nothing.

    Nothing is measured: there is no original to measure against.

    Args:
        options: What to wrap.
        progress: Called in this thread as steps begin and end.
        server: Runs the child processes; None starts one that has `PRELOAD` imported.

    Raises:
        BadInput: an option, a file, the labels or the preprocessing can't be worked with.
        PackageExists: the version is there, and `replace` is False.
        NoVariantMade: the file does not run.
        KeyInvalid, SigningUnavailable: it can't be signed.
        OSError: the disk is full, or `output` can't be written.
    """
    _check_places(options)
    key = SigningKey.read(options.sign) if options.sign else None
    counter = Counter(progress, total=3)
    with (
        working_folder() as folder,
        contextlib.nullcontext(server)
        if server
        else ForkServer(PRELOAD, memory_limit_bytes=first_run_bytes(_largest_bytes(options))) as running,
    ):
        wrapping = _Wrapping(options=options, server=running, folder=folder, key=key)
        counter.begin(f"reading {options.model}")
        found = wrapping.read()
        counter.end()
        counter.begin(f"{found.variant}: running")
        variants = wrapping.run(found)
        counter.end()
        counter.begin("writing the package")
        result = wrapping.pack(found, variants)
        counter.end()
        return result


def _check_places(options: WrapOptions) -> None:
    """What can be refused before LiteRT is loaded."""
    check_output(options.output, options.name, options.version, replace=options.replace)
    for path in (options.model, options.edgetpu_model, options.labels, options.preprocess):
        if path and not path.is_file():
            raise OptionInvalid(f"{path}: no such file")


def _largest_bytes(options: WrapOptions) -> int:
    return max(path.stat().st_size for path in (options.model, options.edgetpu_model) if path)


@dataclass(frozen=True, kw_only=True)
class _Wrapping:
    """One run's stages, and what they share."""

    options: WrapOptions
    server: ForkServer
    folder: Path
    key: SigningKey | None = None

    @property
    def _plain(self) -> Path:
        return self.folder / "model.tflite"

    @property
    def _compiled(self) -> Path:
        return self.folder / COMPILED_FILE

    def read(self) -> Wrapped:
        """What the file is; it lies in the folder afterwards, ready to be packed."""
        with _source_errors(self.options.model):
            return self.server.run(prepare, self.options.time_limit_s, self.options.model, self._plain)

    def run(self, found: Wrapped) -> dict[str, tuple[Signature, ...]]:
        """The signatures of each variant, as its file has them; the plain one has run."""
        limit_s = self.options.time_limit_s
        try:
            signatures = {found.variant: self.server.run(run_once, limit_s, self._plain, found.signatures)}
        except ConverterError as error:
            raise self._nothing(found, error) from error
        path = self.options.edgetpu_model
        if path:
            with _source_errors(path):
                signatures[COMPILED] = self.server.run(
                    prepare_compiled, limit_s, path, self._compiled, self._plain, found.signatures[0]
                )
        return signatures

    def pack(self, found: Wrapped, signatures: dict[str, tuple[Signature, ...]]) -> PackageResult:
        """Writes the manifest and publishes."""
        options, notes = self.options, _notes(found, compiled=COMPILED in signatures)
        files = {f"{found.variant}.tflite": self._plain}
        if COMPILED in signatures:
            files[COMPILED_FILE] = self._compiled
        findings = self.folder / FINDINGS_FILE
        findings.write_bytes(encode(_findings(found, notes)))
        files[FINDINGS_FILE] = findings
        entries = {path: file_entry(file) for path, file in files.items()}
        preprocess = (
            extras.read_preprocess(options.preprocess, found.signatures) if options.preprocess else Preprocess()
        )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            model=options.name,
            version=options.version,
            signatures=found.signatures,
            variants=tuple(
                Variant(
                    name=name,
                    file=path,
                    size_bytes=entries[path].size_bytes,
                    signatures=signatures[name],
                    delegate="edgetpu" if name == COMPILED else "cpu",
                )
                for name, path in zip(signatures, files, strict=False)
            ),
            chosen=_chosen(found.variant, compiled=COMPILED in signatures),
            labels=extras.read_labels(options.labels, found.signatures) if options.labels else (),
            preprocess=preprocess,
            preprocess_fingerprint=preprocess.fingerprint,
            source=Source(format=FORMAT, digest=f"sha256:{file_entry(options.model).sha256}"),
            tools={name: version for name, version in tool_versions("").items() if version},
            files=entries,
        )
        with holding_interrupts() as hold:
            package = publish(
                files,
                manifest,
                options.output,
                replace=options.replace,
                beside=beside(None, options.name, options.version, replace=options.replace),
                sign=self.key.sign if self.key else None,
                before_moving=hold,
            )
        return PackageResult(
            package=str(package.path),
            name=options.name,
            version=options.version,
            chosen=dict(manifest.chosen),
            variants=tuple(
                VariantResult(name=one.name, status="ok", size_bytes=one.size_bytes) for one in manifest.variants
            ),
            notes=notes,
        )

    def _nothing(self, found: Wrapped, error: ConverterError) -> NoVariantMade:
        text = " ".join(f"run: {error}".split())
        failed = VariantResult(name=found.variant, status="failed", error=text)
        result = PackageResult(
            package=None, name=self.options.name, version=self.options.version, chosen={}, variants=(failed,)
        )
        return NoVariantMade(f"{self.options.model} does not run, so nothing was published: {text}", result)


@contextlib.contextmanager
def _source_errors(path: Path) -> Iterator[None]:
    """A process that fails on reading a file says something about the file."""
    try:
        yield
    except TaskFailed as error:
        raise SourceInvalid(f"{path}: can't be read as a TFLite file: {error}") from error


def _chosen(plain: str, *, compiled: bool) -> dict[str, str]:
    """The plain variant; the compiled one where there is one, for every machine that brings an Edge TPU."""
    chosen = {DEFAULT_TARGET: plain}
    if compiled:
        for profile in load_profiles():
            if any(delegate.partition(":")[0] == COMPILED for delegate in profile.delegates):
                chosen[profile.name] = COMPILED
    return chosen


def _findings(found: Wrapped, notes: tuple[str, ...]) -> Findings:
    return Findings(variants={found.variant: VariantFindings(edge_tpu=found.edge_tpu)}, notes=notes)


def _notes(found: Wrapped, *, compiled: bool) -> tuple[str, ...]:
    notes = ["Nothing was measured: the file was wrapped as it is, and only run once, on zeros."]
    if compiled:
        notes.append("The variant for the Edge TPU was not run: its tensors were compared with the other file's.")
    if found.named_here:
        names = [spec.name for one in found.signatures for spec in (*one.inputs, *one.outputs)]
        notes.append(f"The file had no signature; it was given one, named after its tensors: {', '.join(names)}.")
    if found.stateful:
        notes.append("The model keeps a state from call to call: use one engine for each stream.")
    if found.risks:
        notes.append(
            f"The file has {' and '.join(found.risks)}: on other values than the zeros that it was run on it may never "
            "end, or crash. A device's isolation='process' makes that the loss of a request alone."
        )
    return tuple(notes)
