"""What is read from files: packages, archives, models, labels and notes."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fuzz.places import emptied, from_file, place
from fuzz.target import Target
from support.fallback_archives import link, tar_bytes
from support.interpreter_models import net_model
from support.stateful_models import counting_model

from converter.artifact import FileEntry, Manifest, PackageError, Signature, Source, TensorSpec, Variant
from converter.artifact import archive as packages
from converter.artifact.bench import decode_bench
from converter.artifact.errors import SignatureRefused
from converter.artifact.schema import decode, encode
from converter.artifact.signing import SigningKey, Trusted, verify
from edge_runtime import snapshot
from edge_runtime.bare import _check_graphs
from edge_runtime.engine.state import is_stateful
from edge_runtime.errors import InvalidConfig, InvalidInput
from edge_runtime.installing.inventory import QUOTA, read_quota
from edge_runtime.store import following, trust
from edge_runtime.store import labels as store_labels
from edge_runtime.store.store import Store
from edge_runtime.tasks.labels import read_labels
from fallback_server.core.errors import ArchiveRefused
from fallback_server.core.notes import NOTES, read_note
from fallback_server.core.unpacking import UnpackOptions, try_unpacking, unpack
from fallback_server.executors.litert_graph import Unreadable, read_graphs
from fallback_server.package_info import IN_VERSION, STATEMENT, read_package
from fallback_server.warmup_records import RecordDamaged, crc32c, masked, read_records

_SPEC = TensorSpec(name="x", dtype="float32", shape=(-1, 224, 224, 3))
_SIGNATURE = Signature(
    name="serving_default",
    inputs=(_SPEC, TensorSpec(name="y", dtype="float32", shape=(-1, 2))),
    outputs=(TensorSpec(name="z", dtype="float32", shape=(-1, 3)),),
    batch_axis=0,
)


@functools.cache
def _manifest() -> Manifest:
    files = {"float32.tflite": FileEntry(size_bytes=3, sha256=hashlib.sha256(b"abc").hexdigest())}
    variant = Variant(name="float32", file="float32.tflite", size_bytes=3, signatures=(_SIGNATURE,))
    return Manifest(
        format_version=2,
        model="digits",
        version=1,
        signatures=(_SIGNATURE,),
        variants=(variant,),
        chosen={"default": "float32"},
        source=Source(format="saved_model", digest="sha256:" + "0" * 64),
        files=files,
        labels=("a", "b", "c"),
    )


def _manifest_seeds() -> list[bytes]:
    data = encode(_manifest())
    step = b'{"inputs": {"x": {"decode": "image", "resize": [224, 224], "mean": [0.5], "color": "rgb"}}}'
    return [data, data.replace(b'"preprocess": {}', b'"preprocess": ' + step), encode(_manifest()).replace(b" ", b"")]


def _read_manifest(data: bytes) -> None:
    found = decode(data)
    assert decode(encode(found)) == found
    assert found.preprocess.fingerprint


_JSON_WORDS = (
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"true", b"-1", b"1e400", b"9" * 30, b"0.5", b"\\u0000"),
    *(b'{"a":' * 3000, b"[" * 3000, b"\\ud800", b"\xff", b"../", b'"x":', b"NaN", b"Infinity"),
)


def package_members() -> list[tuple[str, bytes]]:
    manifest = encode(_manifest())
    digest = f"{hashlib.sha256(manifest).hexdigest()}  manifest.json\n".encode()
    files = {"manifest.json": manifest, "manifest.sha256": digest, "float32.tflite": b"abc"}
    return [(f"digits/1/{name}", content) for name, content in files.items()]


def _tar_seeds() -> list[bytes]:
    extended = io.BytesIO()
    with tarfile.open(fileobj=extended, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (*package_members(), ("digits/1/" + "é" * 120, b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = {"comment": "x", "mtime": "1.5"}
            tar.addfile(info, io.BytesIO(content))
    links = [("1/saved_model.pb", b"x"), ("1/link", link("saved_model.pb")), ("1/sub", None)]
    return [tar_bytes(package_members()), extended.getvalue(), tar_bytes(links)]


def read_package_archive(data: bytes) -> None:
    """The bytes are a tar: what lies in its compression is reached so, and damage of that by another target."""
    for packed in (gzip.compress(data, 1, mtime=0), data) if data[:2] == b"\x1f\x8b" else (gzip.compress(data, 1),):
        path = place() / "given.tar.gz"
        path.write_bytes(packed)
        with emptied() as folder:
            packages.unpack(path, folder, max_bytes=2**20)


def read_version_archive(data: bytes, *, most: int = 1000) -> None:
    """A byte says what kind it is of; so many files and folders are taken."""
    suffix = (".tar.gz", ".tar.zst", ".zip", ".tar.gz")[data[0] & 3] if data else ".zip"
    body = data[1:]
    if data[:1] == b"\0":
        body = gzip.compress(body, 1, mtime=0)
    elif data[:1] == b"\1":
        body = zstandard.compress(body)
    path = place() / f"given{suffix}"
    path.write_bytes(body)
    options = UnpackOptions(max_bytes=2**22, max_entries=most)
    with emptied() as folder:
        unpack(path, folder, options)
    with emptied() as folder:
        try_unpacking(path, folder, options, max_bytes=2**20)


def _version_archive_seeds() -> list[bytes]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in package_members():
            opened.writestr(name, content)
        opened.mkdir("digits/1/folder")
    tars = _tar_seeds()
    return [
        *(b"\0" + tar for tar in tars),
        b"\1" + tars[0],
        b"\2" + packed.getvalue(),
        b"\3" + gzip.compress(tars[0], 1, mtime=0),
        b"\5" + zstandard.compress(tars[0]),
    ]


# ---- models


def _tflite_seeds() -> list[bytes]:
    return [net_model(hidden=2, size=4), counting_model()]


def _read_graphs(data: bytes) -> None:
    read_graphs(data)


def _read_state(data: bytes) -> None:
    is_stateful(data)


# ---- labels and notes


def _read_small_files(data: bytes) -> None:
    """JSON files that a store or a repository has beside its versions; what is wrong is refused or passed over."""
    folder = place() / "store" / "digits"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (store_labels.LABELS, store_labels.HISTORY, following.FOLLOWED):
        (folder / name).write_bytes(data)
    taken = 0
    for read in (store_labels.read, store_labels.history, following.read):
        try:
            read(folder)
            taken += 1
        except InvalidConfig:
            pass
    quota = folder.parent / QUOTA
    quota.write_bytes(data)
    try:
        read_quota(Store(folder.parent))
        taken += 1
    except InvalidConfig:
        pass
    version = folder.parent / "7"
    (version / IN_VERSION).mkdir(parents=True, exist_ok=True)
    (folder.parent / NOTES).mkdir(exist_ok=True)
    (folder.parent / NOTES / "7.json").write_bytes(data)
    (version / STATEMENT).write_bytes(data)
    taken += read_note(version) is not None
    taken += read_package(version) is not None
    try:
        decode_bench(data)
        taken += 1
    except msgspec.DecodeError:
        pass
    try:
        snapshot.decode(data)
        taken += 1
    except ValueError:
        pass
    if not taken:
        raise InvalidConfig("no reader takes it")


def _record(content: bytes) -> bytes:
    size = struct.pack("<Q", len(content))
    checksums = [struct.pack("<I", masked(crc32c(part))) for part in (size, content)]
    return size + checksums[0] + content + checksums[1]


_KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
"""The same in every process: what is kept of signatures is to reach the verifying."""

_DIGEST = "sha256:" + "0" * 64


def _read_signature(data: bytes) -> None:
    """None but the one that was written vouches for the package."""
    verify(_DIGEST, data, Trusted(keys={"plant": _KEY.public}))
    assert data == _KEY.sign(_DIGEST), "forged"


def _read_trust(data: bytes) -> None:
    root = place() / "trusting"
    folder = root / trust.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / trust.POLICY).write_bytes(data)
    (folder / f"plant{trust.SUFFIX}").write_bytes(data)
    if not trust.keys(root).keys:
        trust.is_required(root)


def _read_records(path: Path) -> None:
    for record in read_records(path):
        assert isinstance(record, bytes)


_PACKAGE = ("converter.artifact", "tarfile")

TARGETS: Sequence[Target] = (
    Target(
        name="manifest",
        read=_read_manifest,
        refusals=(PackageError,),
        seeds=_manifest_seeds,
        words=_JSON_WORDS,
        modules=("converter.artifact",),
        max_bytes=2**15,
    ),
    Target(
        name="package_archive",
        read=read_package_archive,
        refusals=(PackageError,),
        seeds=_tar_seeds,
        words=(b"ustar\x0000", b"ustar  \0", b"././@PaxHeader", b"GNU.sparse.major=1\n", b"12 size=99\n", b"\xff" * 12),
        modules=_PACKAGE,
        max_bytes=2**15,
    ),
    Target(
        name="version_archive",
        read=read_version_archive,
        refusals=(ArchiveRefused,),
        seeds=_version_archive_seeds,
        words=(b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"ustar\x0000", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08"),
        modules=("fallback_server.core.members", "fallback_server.core.unpacking", "tarfile", "zipfile"),
        max_bytes=2**15,
    ),
    Target(
        name="tflite_server",
        read=_read_graphs,
        refusals=(Unreadable,),
        seeds=_tflite_seeds,
        modules=("fallback_server.executors.litert_graph",),
    ),
    Target(
        name="tflite_state",
        read=_read_state,
        refusals=(),
        seeds=_tflite_seeds,
        modules=("edge_runtime.engine.state",),
    ),
    Target(
        name="tflite_device",
        read=_check_graphs,
        refusals=(ValueError, struct.error),
        seeds=_tflite_seeds,
        modules=("edge_runtime.bare",),
    ),
    Target(
        name="class_labels",
        read=from_file(read_labels, ".txt"),
        refusals=(InvalidInput,),
        seeds=lambda: [b"0 cat\n1: dog\n\nbird\n"],
        words=(b"\n", b"\r", b":", b"999999999 ", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b" "),
        modules=("edge_runtime.tasks.labels",),
    ),
    Target(
        name="small_files",
        read=_read_small_files,
        refusals=(InvalidConfig,),
        seeds=lambda: [
            b'{"stable": 1}',
            b'{"stable": [1, 2]}',
            b'{"stable": "10.0.0.1:8500"}',
            b'{"bytes": 1000}',
            b'{"fingerprint": "sha256:0", "preprocessing_fingerprint": ""}',
            b'{"archive": "1.zip", "size_bytes": 1, "mtime_ns": 2, "tree": "x", "origin": "/a", "inode": 3}',
        ],
        words=_JSON_WORDS,
        modules=("edge_runtime.store", "fallback_server.core.notes", "fallback_server.package_info"),
        max_bytes=2**15,
    ),
    Target(
        name="signature",
        read=_read_signature,
        refusals=(SignatureRefused,),
        seeds=lambda: [_KEY.sign(_DIGEST)],
        words=_JSON_WORDS,
        modules=("converter.artifact.signing",),
        max_bytes=2**15,
    ),
    Target(
        name="trust",
        read=_read_trust,
        refusals=(InvalidConfig,),
        seeds=lambda: [b"require_signature = true\n", _KEY.public.pem],
        words=(b"=", b"[" * 3000, b"9" * 5000, b"0x", b"-----BEGIN PUBLIC KEY-----", b"\n", b"{a=" * 2000),
        modules=("edge_runtime.store.trust", "converter.artifact.signing"),
        max_bytes=2**14,
    ),
    Target(
        name="warmup_records",
        read=from_file(_read_records, ".records"),
        refusals=(RecordDamaged,),
        seeds=lambda: [_record(b"abc") + _record(b""), _record(b"x" * 300)],
        modules=("fallback_server.warmup_records",),
    ),
)
"""All of them."""
