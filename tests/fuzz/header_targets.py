"""Archives of many headers: longer than a fuzzer's inputs are, so it changes the recipe by which they are made."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence

from fuzz.file_targets import package_members, read_package_archive, read_version_archive
from fuzz.target import Target

from converter.artifact import PackageError
from fallback_server.core.errors import ArchiveRefused

MAX_TAR_BYTES = 2**19
"""Of a tar: a thousand headers, which readers take a tenth of their second for."""

_STEP = 5
"""Bytes of a recipe's step: kind (from 128 on with a file behind each), how often, two of size, and what its content
is made of."""

_TYPES = (
    *(tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME),
    *(tarfile.GNUTYPE_LONGLINK, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE, tarfile.FIFOTYPE),
    *(tarfile.SOLARIS_XHDTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, b"Z"),
)
_PLACES = ("digits/1/f{0}", "digits/1/a/b/c/{0}", "digits/1/" + "d/" * 30 + "{0}", "digits/1/" + "x" * 80 + "{0}")
_KEYS = ("path", "size", "linkpath", "comment", "mtime", "hdrcharset", "GNU.sparse.map", "GNU.sparse.major", "k{0}")
_VALUES = ("1", "é", "x" * 200, "9" * 80, "-1", "1.5", "0,1,2,3", "digits/1/other", "BINARY")


def _records(size: int, fill: int) -> bytes:
    """An extended header of about so many bytes: `LENGTH KEY=VALUE` and a new line, again and again."""
    key, value = _KEYS[fill % len(_KEYS)], _VALUES[(fill // len(_KEYS)) % len(_VALUES)]
    out = bytearray()
    while len(out) < size:
        text = f" {key.format(len(out))}={value}\n".encode()
        length = len(text) + len(str(len(text)))
        length = len(text) + len(str(length))
        out += str(length + (fill > 240)).encode() + text  # The last few are damaged.
    return bytes(out)


def _content(kind: bytes, size: int, fill: int) -> bytes:
    if kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
        return _records(size, fill)
    if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        return (b"digits/1/" + bytes([fill or 97]) * size)[:size] + b"\0"
    return bytes([fill]) * size if kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) else b""


def _parts(recipe: bytes) -> Iterator[bytes]:
    yield from (part for name, content in package_members() for part in _member(name, tarfile.REGTYPE, content))
    number = 0
    for at in range(0, len(recipe) - _STEP + 1, _STEP):
        what, times, high, low, fill = recipe[at : at + _STEP]
        kind = _TYPES[what % len(_TYPES)]
        content = _content(kind, high << 8 | low, fill)
        for _ in range(times):
            number += 1
            name = _PLACES[fill % len(_PLACES)].format(number)
            yield from _member(name, kind, content)
            if what >= 128:
                yield from _member(name, tarfile.REGTYPE, b"")


def _member(name: str, kind: bytes, content: bytes) -> tuple[bytes, ...]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(content), "f1"
    return info.tobuf(tarfile.GNU_FORMAT), content, bytes(-len(content) % tarfile.BLOCKSIZE)


def _tar(recipe: bytes) -> bytes:
    out = io.BytesIO()
    for part in _parts(recipe):
        if out.tell() + len(part) > MAX_TAR_BYTES:
            break
        out.write(part)
    return out.getvalue() + bytes(2 * tarfile.BLOCKSIZE)


def _seeds() -> list[bytes]:
    """A member of each kind, many of each, and such as stand before a file with one, or in a row without end."""
    each = b"".join(bytes((kind, 1, 0, 40, 3)) for kind in range(len(_TYPES)))
    many = [bytes((kind, 255, 2, 0, 3)) for kind in range(len(_TYPES))]
    large = [bytes((kind, 2, 255, 255, fill)) for kind in (2, 3, 4, 5) for fill in (8, 30)]
    before = [bytes((kind, 255, 0, 9, 3)) for kind in range(128, 128 + len(_TYPES))]
    return [b"", each, *many, *large, *before, many[2] * 2, many[4] * 2]


TARGETS: Sequence[Target] = (
    Target(
        name="package_headers",
        read=lambda data: read_package_archive(_tar(data)),
        refusals=(PackageError,),
        seeds=_seeds,
        modules=("converter.artifact", "tarfile"),
        max_bytes=200,
    ),
    Target(
        name="version_headers",
        read=lambda data: read_version_archive(b"\0" + _tar(data), most=20),  # Each is synced to the disk.
        refusals=(ArchiveRefused,),
        seeds=_seeds,
        modules=("fallback_server.core.members", "fallback_server.core.unpacking", "tarfile"),
        max_bytes=200,
    ),
)
"""All of them."""
