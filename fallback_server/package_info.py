"""Which package a version was published with: what the device's router compares before it trusts an answer."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import msgspec

from converter.artifact.errors import PackageError
from converter.artifact.schema import MANIFEST, MAX_MANIFEST_BYTES, decode
from fallback_server.core.errors import PreconditionFailed
from fallback_server.core.printable import printable

_log = logging.getLogger(__name__)

IN_VERSION = Path("assets.extra", "edge_package")
"""Where `edge-convert --into` lays a package in a SavedModel's folder."""

STATEMENT = "package.json"
"""Says the two fingerprints where the manifest itself is not there."""

MAX_FINGERPRINT = 256
"""Characters; ours have 71."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageInfo:
    """The package that a version belongs to.

    Attributes:
        fingerprint: `sha256:` and the digest of its manifest, which holds the digests of all its files.
        preprocessing_fingerprint: How raw values become inputs; empty where that is not said.
    """

    fingerprint: str
    preprocessing_fingerprint: str


def takes_preprocessing(made_by: str, package: PackageInfo | None) -> bool:
    """Whether `check_preprocessing` lets it pass."""
    return not made_by or package is None or package.preprocessing_fingerprint in ("", made_by)


def check_preprocessing(made_by: str, package: PackageInfo | None, subject: object) -> None:
    """Refuses a request whose inputs were made by another preprocessing than the version's; what is unknown passes.

    Args:
        made_by: The fingerprint that came with the request; empty for none.
        package: The version's; None where nothing is known.
        subject: The version, for the message.

    Raises:
        PreconditionFailed: the two differ; the text gives both.
    """
    if package is None or takes_preprocessing(made_by, package):
        return
    raise PreconditionFailed(
        f"{subject} has the preprocessing {package.preprocessing_fingerprint}, "
        f"the request's inputs were made by {printable(made_by, max_chars=MAX_FINGERPRINT)}"
    )


class _Statement(msgspec.Struct, frozen=True):
    fingerprint: str
    preprocessing_fingerprint: str = ""


def read_package(path: Path) -> PackageInfo | None:
    """Reads the manifest of the package in a version's folder, else its `package.json`; None where there is neither.

    The package is in `assets.extra/edge_package/`, or the folder is one as well. `package.json` is an object with
    `fingerprint` and `preprocessing_fingerprint`. One that can't be read is told in the log, and is as none: the model
    answers without.
    """
    try:
        manifest = _content(path / IN_VERSION / MANIFEST)
        if manifest is None:
            manifest = _content(path / MANIFEST)
        if manifest is not None:
            said = decode(manifest).preprocess.fingerprint
            return PackageInfo(
                fingerprint=f"sha256:{hashlib.sha256(manifest).hexdigest()}", preprocessing_fingerprint=said
            )
        if (statement := _content(path / STATEMENT)) is not None:
            found = msgspec.json.decode(statement, type=_Statement)
            if max(len(found.fingerprint), len(found.preprocessing_fingerprint)) > MAX_FINGERPRINT:
                raise ValueError(f"a fingerprint has at most {MAX_FINGERPRINT} characters")  # noqa: TRY301
            return PackageInfo(fingerprint=found.fingerprint, preprocessing_fingerprint=found.preprocessing_fingerprint)
    except (PackageError, ValueError, RecursionError, msgspec.MsgspecError, OSError) as error:
        _log.warning("%s: its package is not known: %s", path, error)
    return None


def _content(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_MANIFEST_BYTES} bytes")
    return content
