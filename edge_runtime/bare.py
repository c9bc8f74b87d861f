"""Sources of one model: a bare `.tflite` file, or one package's directory, where a store of packages does.

A bare file says nothing but its tensors. So callers see the file's own dtypes (a quantized file takes and gives its
stored integers; the signatures say their scale), there are no labels and no preprocessing, and requests are never
merged into batches: nothing says that the rows of a variable first dimension are independent of each other.
`edge-convert wrap` makes a package of such a file, and with it all that.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.artifact import (
    FORMAT_VERSION,
    FileEntry,
    Manifest,
    ManifestInvalid,
    Package,
    PackageError,
    Quantization,
    Signature,
    SignatureRefused,
    Source,
    TensorSpec,
    Variant,
)
from edge_runtime.engine.library import interpreter_module
from edge_runtime.errors import InvalidConfig, PackageRefused
from edge_runtime.store import trust
from edge_runtime.store.store import Store

SUFFIX = ".tflite"

MAX_FILE_BYTES = 2**31 - 1
"""A flatbuffer's offsets are signed 32-bit numbers: there are no larger files."""

_VERSION = 1
_IDENTIFIER = b"TFL3"
_SUBGRAPHS, _SIGNATURE_DEFS, _SUBGRAPH_INDEX = 2, 7, 4
"""Fields of the tables Model and SignatureDef, by their numbers in LiteRT's schema."""

_EDGETPU_OP = b"edgetpu-custom-op"
_MANIFEST = "manifest.json"
_NOWHERE = (0, 0, 0)


def open_store(path: Path, *, require_signature: bool = False) -> Store | OneStore:
    """What lies at the path, as a store: a `.tflite` file, a package's directory, or a folder of packages.

    Args:
        path: It.
        require_signature: Whether what is run from it needs a signature by a key that is trusted.

    Raises:
        InvalidConfig: it is none of them; or a bare file, which nobody can sign, where a signature is demanded.
    """
    if path.suffix == SUFFIX and not path.is_dir():
        if require_signature:
            raise InvalidConfig(f"require_signature: {path} is a bare file, which has none; edge-convert wrap --sign")
        return BareStore(path)
    if is_package(path):
        return PackageStore(path, require_signature=require_signature)
    return Store(path, require_signature=require_signature)


def is_package(path: Path) -> bool:
    """Whether it is the directory of one package; else it may be a folder of packages.

    Raises:
        InvalidConfig: it can be neither: its `manifest.json` is no file, or it holds the versions of one model.
    """
    try:
        if (path / _MANIFEST).is_file():
            return True
        if (path / _MANIFEST).exists():
            raise InvalidConfig(f"{path / _MANIFEST}: not a file")
        versions = sorted(int(one.name) for one in path.iterdir() if _is_version(one)) if path.is_dir() else []
    except OSError:  # Whoever opens it says what is wrong with it.
        return False
    if versions:
        raise InvalidConfig(
            f"{path} holds versions {', '.join(map(str, versions))} of one model: give the folder of packages, "
            f"{path.parent}, or one version, {path / str(versions[-1])}"
        )
    return False


def _is_version(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal() and (path / _MANIFEST).is_file()


class OneStore:
    """One model with one version, in the place of a store. Thread-safe.

    Attributes:
        path: What it is read from.
        model: The model's name.
        version: Its version.
    """

    def __init__(self, path: Path, model: str, version: int) -> None:
        """Takes what is known of it."""
        self.path = path
        self.model = model
        self.version = version

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    def installed(self) -> dict[str, list[int]]:
        """The version; nothing once the file has gone away."""
        return {self.model: [self.version]} if self.stamp(self.model, self.version) != _NOWHERE else {}

    def labels(self, model: str) -> dict[str, int]:  # noqa: ARG002  as a store
        """None: labels are a store's."""
        return {}

    def label(self, model: str, label: str, version: int) -> None:
        """Refused: labels are a store's.

        Raises:
            InvalidConfig: always.
        """
        raise InvalidConfig(
            f"label {label!r} for {model}/{version}: {self.path} is one model, and no store of packages"
        )

    def stamp(self, model: str, version: int) -> tuple[int, int, int]:
        """Inode, time and size of the file that stands for the version; zeros where there is none."""
        if (model, version) != (self.model, self.version):
            return _NOWHERE
        try:
            status = self._file().stat()
        except OSError:
            return _NOWHERE
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def open(self, model: str, version: int) -> Package:
        """The package.

        Raises:
            PackageRefused: another model or version is asked for; or it is damaged, or can't be read.
        """
        if (model, version) != (self.model, self.version):
            raise PackageRefused(f"{model}/{version}: {self.path} holds {self.model}/{self.version}")
        return self._open()

    def _file(self) -> Path:
        raise NotImplementedError

    def _open(self) -> Package:
        raise NotImplementedError


def _places(path: Path) -> tuple[Path, ...]:
    """Where it lies, by the path that was given and the real one; once, where they are the same."""
    return tuple(dict.fromkeys((path.absolute(), path.resolve())))


class PackageStore(OneStore):
    """The directory of one package, wherever it lies. What a store demands holds for the versions in it here too."""

    def __init__(self, path: str | os.PathLike[str], *, require_signature: bool = False) -> None:
        """Reads the package's name.

        Args:
            path: The directory.
            require_signature: Whether it needs a signature by a key that is trusted: by the store that it lies in.

        Raises:
            InvalidConfig: it can't be opened.
        """
        self.path = Path(path)
        try:
            manifest = Package.open(self.path, verify=False).manifest
        except PackageError as error:
            raise InvalidConfig(str(error)) from error
        super().__init__(self.path, manifest.model, manifest.version)
        self._require_signature = require_signature

    def _file(self) -> Path:
        return self.path / _MANIFEST

    def _check_signed(self, package: Package) -> None:
        """As the folder of packages demands that it lies in, by the path that was given or the real one.

        Where it lies is what the path says: whoever could put a package there has written what its manifest says.
        """
        name = (self.model, str(self.version))
        trusted = False
        for place in _places(self.path):
            named = place.parts[-2:] == name
            held = trust.read(place.parent.parent, demanded=self._require_signature and named)
            held.check(package)
            if held.required and not named and place.name.isdecimal():
                raise SignatureRefused(f"{place} holds {package}, in a folder of packages that demands signatures")
            trusted |= named
        if self._require_signature and not trusted:
            # Keys that came with it would vouch for anything.
            raise SignatureRefused(
                f"a signature is demanded, and {self.path} lies in no folder of packages with keys that are trusted"
            )

    def _open(self) -> Package:
        try:
            package = Package.open(self.path)
            self._check_signed(package)
        except PackageError as error:
            raise PackageRefused(f"{self.model}/{self.version}: {error}") from error
        found = package.manifest
        if (found.model, found.version) != (self.model, self.version):
            raise PackageRefused(
                f"{self.path} now holds {found.model}/{found.version}, and was opened as {self.model}/{self.version}"
            )
        return package


class BareStore(OneStore):
    """A bare `.tflite` file as version 1 of the model that its name says. A file that takes its place is followed.

    In a folder of packages that demands signatures there is no bare file: nobody can vouch for one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Takes the file; it is read when it is opened.

        Raises:
            InvalidConfig: there is no such file.
        """
        self.path = Path(path)
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise InvalidConfig(f"model {self.path}: not a file")
        except OSError as error:
            raise InvalidConfig(f"model {self.path}: {error.strerror or error}") from error
        super().__init__(self.path, model_name(self.path), _VERSION)

    def _file(self) -> Path:
        return self.path

    def _open(self) -> Package:
        for folder in dict.fromkeys(folder for place in _places(self.path) for folder in place.parents):
            if trust.is_required(folder):
                raise PackageRefused(f"{self.path}: a bare file, which nobody vouches for, and {folder} demands that")
        manifest, _ = bare_manifest(self.path)
        (entry,) = manifest.files.values()
        # A link is followed here, once: below a package's directory there must be none.
        return Package(path=self.path.resolve().parent, manifest=manifest, digest=f"sha256:{entry.sha256}")


def model_name(path: Path) -> str:
    """The file's stem, as a model may be called: `my model (2).tflite` is `my_model__2_`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", path.stem).lstrip("._-")[:128] or "model"


def bare_manifest(path: Path) -> tuple[Manifest, bytes]:
    """What a manifest would say of a bare file, read from the file alone; and the file.

    Its signatures are the file's, or, where it has none, one `serving_default` with the primary graph's tensors in
    their order, by their names. No delegate is needed, also for a file that was compiled for an Edge TPU.

    Returns:
        The manifest, whose only file is named as what `path` leads to; and the file's bytes, which were read once.

    Raises:
        PackageRefused: it can't be read, is too large or no TFLite file, is damaged, or has tensors without a place in
            a manifest.
    """
    content = _read(path)
    file = path.resolve().name
    try:
        _check_graphs(content)
        interpreter = _interpreter(content)
        signatures = _signatures(interpreter)
        entry = FileEntry(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        variant = Variant(
            name=path.stem,
            file=file,
            size_bytes=entry.size_bytes,
            signatures=signatures,
            metrics={},
            delegate="edgetpu" if _for_edgetpu(interpreter, content) else "cpu",
        )
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            model=model_name(path),
            version=_VERSION,
            signatures=signatures,
            variants=(variant,),
            chosen={"default": variant.name},
            source=Source(format="tflite", digest=f"sha256:{entry.sha256}"),
            files={file: entry},
        )
    except (ManifestInvalid, RuntimeError, ValueError, TypeError, KeyError, MemoryError, struct.error) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise PackageRefused(f"{path}: can't be used as a model: {said}") from error
    return manifest, content


def _read(path: Path) -> bytes:
    """The file, after a look at its kind and size: a pipe would be waited for, a disk read to its end."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise PackageRefused(f"{path}: not a file")
            if status.st_size > MAX_FILE_BYTES:
                raise PackageRefused(f"{path}: {status.st_size} bytes, a TFLite file has at most {MAX_FILE_BYTES}")
            content = file.read(status.st_size)
    except OSError as error:
        raise PackageRefused(f"{path}: can't be read: {error.strerror or error}") from error
    if content[4:8] != _IDENTIFIER:
        raise PackageRefused(f"{path}: no TFLite file: bytes 4 to 8 are {content[4:8]!r}, not {_IDENTIFIER!r}")
    return content


def _interpreter(content: bytes) -> Any:
    """An interpreter to read tensors from: LiteRT verifies the file first, and nothing is planned or delegated."""
    library = interpreter_module()
    resolver = library.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return library.Interpreter(model_content=content, experimental_op_resolver_type=resolver)


def _check_graphs(content: bytes) -> None:
    """Refuses a file without graphs, and a signature of one that is not there: LiteRT verifies much, but crashes there.

    Raises:
        ValueError, struct.error: it is such a file.
    """
    (model,) = struct.unpack_from("<I", content)
    graphs, signatures = (_vector(content, model, slot) for slot in (_SUBGRAPHS, _SIGNATURE_DEFS))
    if not graphs:
        raise ValueError("it holds no graph")
    for signature in signatures:
        place = _field(content, signature, _SUBGRAPH_INDEX)
        number = struct.unpack_from("<I", content, place)[0] if place else 0
        if number >= len(graphs):
            raise ValueError(f"a signature is of graph {number}; there are {len(graphs)}")


def _field(content: bytes, table: int, slot: int) -> int:
    """Where a table's field lies in a flatbuffer; 0 if the table has none."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    (size,) = struct.unpack_from("<H", content, vtable)
    at = 4 + 2 * slot
    offset = struct.unpack_from("<H", content, vtable + at)[0] if at < size else 0
    return table + offset if offset else 0


def _vector(content: bytes, table: int, slot: int) -> list[int]:
    """Where the tables of a field lie that is a vector of tables."""
    field = _field(content, table, slot)
    if not field:
        return []
    start = field + struct.unpack_from("<I", content, field)[0]
    (count,) = struct.unpack_from("<I", content, start)
    places = range(start + 4, start + 4 + 4 * count, 4)
    return [place + struct.unpack_from("<I", content, place)[0] for place in places]


def _signatures(interpreter: Any) -> tuple[Signature, ...]:
    found = []
    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        found.append(Signature(name=name, inputs=_named(inputs), outputs=_named(outputs)))
    if found:
        return tuple(found)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    return (Signature(name="serving_default", inputs=_ordered(inputs), outputs=_ordered(outputs)),)


def _named(details: Mapping[str, Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, detail) for name, detail in details.items())


def _ordered(details: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(detail["name"], detail) for detail in details)


def _spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    dtype = np.dtype(detail["dtype"])
    return TensorSpec(
        name=name,
        dtype="string" if dtype.kind in "OSU" else dtype.name,
        shape=tuple(int(size) for size in detail["shape_signature"]),
        quantization=_quantization(dtype, detail["quantization_parameters"]),
    )


def _quantization(dtype: np.dtype[Any], parameters: Mapping[str, Any]) -> Quantization | None:
    if dtype.kind not in "iu" or not len(parameters["scales"]):
        return None
    return Quantization(
        scales=tuple(float(scale) for scale in parameters["scales"]),
        zero_points=tuple(int(point) for point in parameters["zero_points"]),
        axis=int(parameters["quantized_dimension"]),
    )


def _for_edgetpu(interpreter: Any, content: bytes) -> bool:
    """Whether the file was compiled for an Edge TPU: the text alone may stand in a description, too."""
    if _EDGETPU_OP not in content:
        return False
    operators = interpreter._get_ops_details()  # noqa: SLF001  the public calls name no operator
    return any(one["op_name"] == _EDGETPU_OP.decode() for one in operators)
