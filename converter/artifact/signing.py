"""Who vouches for a package: an Ed25519 signature over its manifest's digest, in `manifest.sig` beside the manifest.

The manifest holds every file's digest, so that a signature over its own is one over the whole package. No manifest
lists `manifest.sig`: a package is the same package with a signature, without one, and with another.

A signature is called by its key's id: the first 16 hexadecimal digits of the SHA-256 of the 32 bytes of the public key.
Public keys are read with the standard library; whoever signs or verifies needs `cryptography`, which is loaded then.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from converter.artifact.errors import KeyInvalid, SignatureRefused, SigningUnavailable
from converter.artifact.schema import MANIFEST_SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ALGORITHM = "ed25519"

MAX_SIGNATURE_BYTES = 4_096
"""A key's id and 88 characters."""

MAX_KEY_BYTES = 16_384
"""A PEM file of one key has some hundred."""

_CONTEXT = b"edge-package-v1\0"
"""Before what is signed, so that no signature that was made for something else is one of a package."""

_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410, section 4)."""

_PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, _PRIME)
"""Of the curve -x² + y² = 1 + d x² y² (RFC 8032, section 5.1)."""

_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_BEGIN, _END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
_SHOWN = 8


class PackageSignature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `manifest.sig` holds, as JSON.

    Attributes:
        algorithm: `ed25519`; there is no other.
        key: The id of the key.
        signature: The 64 bytes, in base64.
    """

    algorithm: str
    key: str
    signature: str


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key: its 32 bytes."""

    raw: bytes

    @property
    def id(self) -> str:
        """What it is called by: 16 hexadecimal digits."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def pem(self) -> bytes:
        """As a file."""
        return f"{_BEGIN}\n{base64.b64encode(_SPKI + self.raw).decode()}\n{_END}\n".encode()


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """Whose signatures are believed.

    Attributes:
        keys: By name.
        faults: What was to be a key and can't be read.
    """

    keys: Mapping[str, PublicKey]
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = [f"{name} ({key.id})" for name, key in sorted(self.keys.items())]
        more = [f"{len(named) - _SHOWN} more"] if len(named) > _SHOWN else []
        said = "trusted: " + (", ".join([*named[:_SHOWN], *more]) or "none")
        return "; ".join((said, *self.faults[:_SHOWN]))


def public_key(data: bytes) -> PublicKey:
    """The key of a PEM file.

    Raises:
        KeyInvalid: it holds no Ed25519 public key, or one that anybody could sign with.
    """
    try:
        text = data.decode("ascii").strip()
        if "PRIVATE KEY-----" in text:
            raise KeyInvalid("a private key, where its .pub is expected")
        if not (text.startswith(_BEGIN) and text.endswith(_END)):
            raise KeyInvalid(f"no PEM file of a public key: {_BEGIN!r} is missing")
        der = base64.b64decode("".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
    except (UnicodeDecodeError, binascii.Error) as error:
        raise KeyInvalid(f"no PEM file of a public key: {error}") from error
    if not der.startswith(_SPKI) or len(der) != len(_SPKI) + _KEY_BYTES:
        raise KeyInvalid("a key of another kind than Ed25519")
    key = PublicKey(der[len(_SPKI) :])
    if _is_weak(key.raw):
        raise KeyInvalid("a key of small order, for which anybody can make signatures")
    return key


def _is_weak(raw: bytes) -> bool:
    """Whether 8 times the point is neutral: then a signature is valid that was made without a private key.

    The point (x, y) has x² = (y² - 1) / (d y² + 1). Its order is 1 or 2 where y² = 1, 4 where y = 0, and 8 where its
    double has y = 0, which is where y² = -x²: d y⁴ + 2 y² - 1 = 0. The highest bit is the sign of x.
    """
    y = int.from_bytes(raw, "little") & ~(1 << 255)
    square = y * y % _PRIME
    return y * (square - 1) * (_D * square * square + 2 * square - 1) % _PRIME == 0


def read_public_key(path: Path) -> PublicKey:
    """The key of a PEM file; KeyInvalid if it can't be read, or holds no Ed25519 public key."""
    try:
        return public_key(read_key_file(path))
    except KeyInvalid as error:
        said = str(error)
        raise KeyInvalid(said if said.startswith(str(path)) else f"{path}: {said}") from error.__cause__


class SigningKey:
    """An Ed25519 private key. Its text never says it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"<SigningKey {self.public.id}>"

    @classmethod
    def make(cls) -> SigningKey:
        """A new one.

        Raises:
            SigningUnavailable: `cryptography` is not installed.
        """
        _check_library()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  optional

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """The key of a PEM file.

        Raises:
            KeyInvalid: it can't be read, or holds no Ed25519 private key, or one behind a password.
            SigningUnavailable: `cryptography` is not installed.
        """
        _check_library()
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  optional
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  likewise
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415  likewise

        data = read_key_file(path)
        try:
            key = load_pem_private_key(data, password=None)
        except TypeError as error:
            raise KeyInvalid(f"{path}: the key is behind a password, which nobody is asked for") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyInvalid(f"{path}: no PEM file of a private key: {' '.join(str(error).split())}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyInvalid(f"{path}: a key of another kind than Ed25519")
        return cls(key)

    @property
    def pem(self) -> bytes:
        """As a file, which nobody else is to read."""
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  optional

        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, digest: str) -> bytes:
        """What `manifest.sig` holds for a package of this digest, `sha256:...`. The same again for the same."""
        signature = self._key.sign(_message(digest))
        return _encode(
            PackageSignature(
                algorithm=ALGORITHM, key=self.public.id, signature=base64.b64encode(signature).decode("ascii")
            )
        )


def read_key_file(path: Path) -> bytes:
    """The bytes of a key's file.

    Raises:
        KeyInvalid: it can't be read, is no file, or larger than a key's can be.
    """
    try:
        if not path.is_file():  # Neither a folder nor a pipe, which would be waited for.
            raise KeyInvalid(f"{path}: {'no file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            data = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise KeyInvalid(f"{path}: can't be read: {error.strerror or error}") from error
    if len(data) > MAX_KEY_BYTES:
        raise KeyInvalid(f"{path}: at most {MAX_KEY_BYTES} bytes are read of a key")
    return data


def key_named(signed: bytes) -> str:
    """The id of the key that a `manifest.sig` says it was made with, which nobody has verified; empty if damaged."""
    try:
        return _decode(signed).key
    except SignatureRefused:
        return ""


def verify(digest: str, signed: bytes | None, trusted: Trusted) -> str:
    """The name of the key that vouches for a package.

    Args:
        digest: The package's, `sha256:...`.
        signed: What its `manifest.sig` holds; None where it has none.
        trusted: Whose signatures are believed.

    Raises:
        SignatureRefused: there is none, it is damaged, of a key that is not trusted, or not one of this manifest. The
            text names the key, and what is trusted.
        SigningUnavailable: `cryptography` is not installed.
    """
    if signed is None:
        raise SignatureRefused(f"it has no signature ({MANIFEST_SIGNATURE}), and one is demanded; {trusted}")
    try:
        found = _decode(signed)
    except SignatureRefused as error:
        raise SignatureRefused(f"{error}; {trusted}") from error.__cause__
    name = next((name for name, key in sorted(trusted.keys.items()) if key.id == found.key), None)
    if name is None:
        raise SignatureRefused(f"it is signed with the key {found.key}, which is not trusted; {trusted}")
    _check_library()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  optional
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415  likewise

    key = Ed25519PublicKey.from_public_bytes(trusted.keys[name].raw)
    try:
        key.verify(base64.b64decode(found.signature), _message(digest))
    except InvalidSignature as error:
        raise SignatureRefused(
            f"its signature with the key {found.key} ({name}) is damaged, or of another manifest than {digest}; "
            f"{trusted}"
        ) from error
    return name


def _message(digest: str) -> bytes:
    return _CONTEXT + bytes.fromhex(digest.removeprefix("sha256:"))


def _encode(signature: PackageSignature) -> bytes:
    return msgspec.json.encode(signature) + b"\n"


def _decode(signed: bytes) -> PackageSignature:
    """What a file says, to the letter: of packages that are held to be the same every byte is.

    Raises:
        SignatureRefused: it can't be one.
    """
    try:
        found = msgspec.json.decode(signed, type=PackageSignature)
        raw = base64.b64decode(found.signature, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SignatureRefused(f"its {MANIFEST_SIGNATURE} is damaged: {error}") from error
    if found.algorithm != ALGORITHM:
        raise SignatureRefused(
            f"its {MANIFEST_SIGNATURE} is of the algorithm {found.algorithm[:40]!r}; {ALGORITHM} is known"
        )
    plain = len(found.key) == 16 and set(found.key) <= set("0123456789abcdef")
    # base64 has bits that mean nothing, too.
    exact = base64.b64encode(raw).decode("ascii") == found.signature and _encode(found) == signed
    if len(raw) != _SIGNATURE_BYTES or not plain or not exact:
        raise SignatureRefused(f"its {MANIFEST_SIGNATURE} is damaged: it is not what is written by whoever signs")
    return found


def _check_library() -> None:
    """Whether signatures can be made and verified here.

    Raises:
        SigningUnavailable: they can't.
    """
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: PLC0415  optional
    except ImportError as error:
        raise SigningUnavailable(
            f"signatures can't be made or verified here: cryptography can't be loaded ({error}); "
            "pip install 'edge-runtime[signed]'"
        ) from error
    del cryptography
