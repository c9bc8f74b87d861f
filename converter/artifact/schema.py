"""The manifest: the typed description of a package."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from converter.artifact.errors import FormatTooNew, ManifestInvalid
from converter.artifact.preprocess import Preprocess
from converter.artifact.signature import Signature

FORMAT_VERSION = 2
"""The format that this program writes, and the latest that it reads; it reads all earlier ones too.

1: as in release 0.1. 2: preprocessing decodes and resizes, variants may be for an accelerator or in segments, inputs
may have their preprocessing folded in, classifiers have a cascade threshold.
"""

MAX_VERSION = 2**63 - 1
"""Versions are int64 on the wire."""

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.sha256"
MANIFEST_SIGNATURE = "manifest.sig"

OWN_FILES = (MANIFEST, MANIFEST_DIGEST, MANIFEST_SIGNATURE)
"""The files of a package that no manifest lists; the last one may be missing."""

MAX_MANIFEST_BYTES = 16 * 2**20
"""A manifest holds names and numbers; a larger one is no manifest."""

MAX_VALUES = 2**19
"""Values of a manifest, counted by its commas and brackets: each takes up to some hundred bytes once it is read, so
that a file of 16 MiB took 370 MiB, and takes a third of that. Nearly all values are labels; none has so many."""

Metrics = dict[str, dict[str, float]]
"""By output name, then by metric: {"probabilities": {"accuracy": 0.98}}. Shares are in 0..1."""

MAX_FILES = 1_000
"""Files that a package may list, and the folders that they lie in: each one is made on a disk, however small it is. A
package has a handful."""

MAX_VARIANTS = 256
MAX_SIGNATURES = 1_000
MAX_TARGETS = 10_000
"""Of a manifest: each is held against the others."""

MAX_PATH_BYTES = 1_024
_MAX_NAME_BYTES = 255
"""Of a file's path, and of each name in it: as much as file systems take."""

_MAX_TEXT = 2_000
_SHOWN = 80
"""Characters of a refusal, and of a path in it: what is refused may have written them."""

MAX_PATH_PARTS = 32
"""Folders on the way to a file of a package, and the file: each one is made on a disk."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the package: its size and the SHA-256 of its bytes, in hexadecimal."""

    size_bytes: int
    sha256: str


class Cascade(msgspec.Struct, frozen=True, kw_only=True):
    """From what confidence on a variant's answer can stand.

    So that device and server together are as accurate as the server alone.

    Attributes:
        output: The output with class scores.
        confidence: How it is read off that output: `max` is the largest value (of probabilities), `softmax` the
            largest value of their softmax (of logits).
        threshold: An answer with a lower confidence is for the server.
        escalation_rate: Share of the evaluation samples that go there, 0..1.
        accuracy: Of both together on the evaluation data, 0..1.
        source_accuracy: Of what servers answer with alone: the original, or the model that was named for them.
    """

    output: str
    confidence: Literal["max", "softmax"]
    threshold: float
    escalation_rate: float
    accuracy: float
    source_accuracy: float


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One executable form of the version.

    Attributes:
        name: `float32`, `dynamic`, `int8`...
        file: Its path in the package.
        size_bytes: The size of that file.
        signatures: The tensors as this file has them (an int8 variant: int8, with quantization). Names, order and
            batch axes are those of the manifest's signatures.
        metrics: Measured on the evaluation data. Where the manifest's `evaluation_samples` is 0: numeric error (no
            accuracy) on the calibration data, or empty.
        delegate: What runs it: `cpu`, or an accelerator's kind (`edgetpu`) without which it can't run.
        segments: Where the model was cut into several files that run one after another, their paths in that order,
            `file` the first; else empty.
        folded: The inputs whose preprocessing is in the input's quantization: their stored uint8 values are the raw
            ones, so that a camera's bytes go in as they are.
        cascade: From what confidence on its answers can stand; None where that was not found out.
    """

    name: str
    file: str
    size_bytes: int
    signatures: tuple[Signature, ...]
    metrics: Metrics = {}
    delegate: Literal["cpu", "edgetpu"] = "cpu"
    segments: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()
    cascade: Cascade | None = None


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What the package was made from.

    Attributes:
        format: `saved_model`, `keras`, `hdf5`, or `tflite` for a file that was wrapped.
        digest: `sha256:` and the digest over its files' names and bytes.
        metrics: The original's own, on the same evaluation data as the variants'.
    """

    format: str
    digest: str
    metrics: Metrics = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is said of a package.

    Attributes:
        format_version: See `FORMAT_VERSION`.
        model: The model's name.
        version: Its version, at least 1.
        signatures: The tensors that callers see: the original's dtypes, whatever a variant uses inside.
        variants: At least one.
        chosen: The variant to run, by target; `default` is always there.
        labels: The class names, in the order of the output's last axis; empty where there are none.
        preprocess: How raw values become inputs.
        preprocess_fingerprint: Its fingerprint, which goes with requests so that no server of another preprocessing
            answers them. Empty in format 1.
        source: What it was made from.
        evaluation_samples: How many samples the metrics were measured on; 0 means that nothing was measured.
        tools: The versions of the programs that made it.
        files: Every file but the manifest, its digest and its signature, by path.
    """

    format_version: int
    model: str
    version: int
    signatures: tuple[Signature, ...]
    variants: tuple[Variant, ...]
    chosen: dict[str, str]
    source: Source
    files: dict[str, FileEntry]
    labels: tuple[str, ...] = ()
    preprocess: Preprocess = Preprocess()
    preprocess_fingerprint: str = ""
    evaluation_samples: int = 0
    tools: dict[str, str] = {}

    def __post_init__(self) -> None:
        check_name(self.model)
        check_version(self.version)
        self._check_signatures()
        _check_most("variants", len(self.variants), MAX_VARIANTS)
        _check_most("targets", len(self.chosen), MAX_TARGETS)
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise ManifestInvalid(f"the manifest needs variants with different names, got {names}")
        if "default" not in self.chosen:
            raise ManifestInvalid("the manifest chooses no variant for `default`")
        for target, name in self.chosen.items():
            if name not in names:
                raise ManifestInvalid(f"the variant chosen for {target!r} is {name!r}; there are {names}")
        for variant in self.variants:
            self._check_variant(variant)
        self._check_files()

    def _check_files(self) -> None:
        check_count(len(self.files))
        folders: set[PurePosixPath] = set()
        seen: dict[str, str] = {}
        for path, entry in self.files.items():
            if check_path(path) in OWN_FILES:
                raise ManifestInvalid(f"file {path!r}: the manifest can't list itself, its digest or its signature")
            if entry.size_bytes < 0 or not _SHA256.fullmatch(entry.sha256):
                raise ManifestInvalid(f"file {path!r}: impossible size or digest")
            folders.update(list(PurePosixPath(path).parents)[:-1])
            if (other := seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)) != path:
                raise ManifestInvalid(
                    f"files {_shown(other)} and {_shown(path)} are one on a file system that knows no case"
                )
        check_count(len(self.files), len(folders))
        if both := sorted(path for path in self.files if PurePosixPath(path) in folders):
            raise ManifestInvalid(f"file {_shown(both[0])}: other files lie in it")

    def _check_signatures(self) -> None:
        _check_most("signatures", len(self.signatures), MAX_SIGNATURES)
        names = [signature.name for signature in self.signatures]
        if not names or len(set(names)) != len(names):
            raise ManifestInvalid(f"the manifest needs signatures with different names, got {names}")
        inputs = {spec.name for signature in self.signatures for spec in signature.inputs}
        unknown = sorted(set(self.preprocess.inputs) - inputs)
        if unknown:
            raise ManifestInvalid(f"preprocessing for {unknown[0]!r}, which is no input; there are {sorted(inputs)}")
        if self.preprocess_fingerprint not in ("", self.preprocess.fingerprint):
            raise ManifestInvalid(
                f"preprocessing has the fingerprint {self.preprocess.fingerprint}, "
                f"the manifest says {self.preprocess_fingerprint}"
            )

    def _check_variant(self, variant: Variant) -> None:
        entry = self.files.get(variant.file)
        if entry is None:
            raise ManifestInvalid(f"variant {variant.name!r}: {variant.file!r} is not among the files")
        if entry.size_bytes != variant.size_bytes:
            raise ManifestInvalid(f"variant {variant.name!r}: {variant.size_bytes} bytes, its file {entry.size_bytes}")
        if variant.segments and (variant.segments[0] != variant.file or set(variant.segments) - set(self.files)):
            raise ManifestInvalid(f"variant {variant.name!r}: its segments {list(variant.segments)} are not its files")
        unknown = sorted(set(variant.folded) - {spec.name for one in variant.signatures for spec in one.inputs})
        if unknown:
            raise ManifestInvalid(f"variant {variant.name!r}: {unknown[0]!r} is folded, which is no input")
        if [_names(signature) for signature in variant.signatures] != [_names(one) for one in self.signatures]:
            raise ManifestInvalid(f"variant {variant.name!r}: its signatures are not the manifest's")

    def signature(self, name: str) -> Signature:
        """The signature of that name; KeyError if there is none."""
        for signature in self.signatures:
            if signature.name == name:
                return signature
        raise KeyError(name)

    def variant(self, name: str) -> Variant:
        """The variant of that name; KeyError if there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)


def _names(signature: Signature) -> tuple[object, ...]:
    return (
        signature.name,
        signature.batch_axis,
        tuple(spec.name for spec in signature.inputs),
        tuple(spec.name for spec in signature.outputs),
    )


def check_name(name: str) -> str:
    """The model name, if it can be a folder's and a URL's part everywhere; ManifestInvalid if not."""
    if not _NAME.fullmatch(name):
        raise ManifestInvalid(
            f"model name {name!r}: 1 to 128 letters, digits, '.', '_' and '-' are allowed, a letter or digit first"
        )
    return name


def check_version(version: int) -> int:
    """The version, if it is in 1..2^63-1; ManifestInvalid if not."""
    if not 1 <= version <= MAX_VERSION:
        raise ManifestInvalid(f"version {version}: must be from 1 to {MAX_VERSION}")
    return version


def check_count(files: int, folders: int = 0) -> None:
    """Whether a package may have so many files, and folders that they lie in; ManifestInvalid if not."""
    if files + folders > MAX_FILES:
        raise ManifestInvalid(
            f"a package of {files} files in {folders} folders: at most {MAX_FILES} of both together are allowed"
            if folders
            else f"a package of {files} files: at most {MAX_FILES} are allowed"
        )


def check_path(path: str) -> str:
    """A file's path in the package, if it is relative, plain, not too deep and stays inside; else ManifestInvalid."""
    parts = PurePosixPath(path).parts
    if (
        not parts
        or path.startswith("/")
        or "\\" in path
        # Nor what ends a line, colours a terminal, writes from right to left, or is no text at all.
        or not path.isprintable()
        or ".." in parts
        or PurePosixPath(path).as_posix() != path
    ):
        raise ManifestInvalid(f"file path {_shown(path)} is not a plain path inside the package")
    if len(parts) > MAX_PATH_PARTS:
        raise ManifestInvalid(f"file path {_shown(path)}: {len(parts)} parts, at most {MAX_PATH_PARTS} are allowed")
    longest = max(len(part.encode()) for part in parts)
    if longest > _MAX_NAME_BYTES or len(path.encode()) > MAX_PATH_BYTES:
        raise ManifestInvalid(
            f"file path {_shown(path)}: at most {MAX_PATH_BYTES} bytes, and {_MAX_NAME_BYTES} of a name, are allowed"
        )
    return path


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


def _check_most(what: str, count: int, most: int) -> None:
    if count > most:
        raise ManifestInvalid(f"the manifest has {count} {what}: at most {most} are allowed")


class _Header(msgspec.Struct):
    format_version: int


def decode(data: bytes) -> Manifest:
    """The manifest in `data`, JSON.

    Raises:
        FormatTooNew: it says a later `format_version`; that is looked at before anything else.
        ManifestInvalid: it is no JSON, holds more than `MAX_VALUES`, or a field is missing, of a wrong type or
            impossible.
    """
    try:
        header = msgspec.json.decode(data, type=_Header)
        _check_format(header)
        _check_most("values", sum(map(data.count, (b",", b"[", b"{"))), MAX_VALUES)
        return msgspec.json.decode(data, type=Manifest)
    except ManifestInvalid as error:
        if len(said := str(error)) <= _MAX_TEXT:
            raise
        raise ManifestInvalid(f"{said[:_MAX_TEXT]}...") from error
    except msgspec.ValidationError as error:
        raise ManifestInvalid(f"manifest: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestInvalid(f"the manifest is no JSON: {error}") from error


def _check_format(header: _Header) -> None:
    if header.format_version > FORMAT_VERSION:
        raise FormatTooNew(
            f"the package has format {header.format_version}; this program reads up to {FORMAT_VERSION}: upgrade it"
        )
    if header.format_version < 1:
        raise ManifestInvalid(f"format_version {header.format_version}: must be at least 1")


def encode(manifest: Manifest) -> bytes:
    """The manifest as indented JSON with sorted keys: equal manifests give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1) + b"\n"
