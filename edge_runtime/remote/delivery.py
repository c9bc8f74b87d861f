"""One server's packages: what it says of them, and their bytes, over a connection of its own.

Nothing that it says is believed: sizes are bounded before anything is read, and whoever takes the bytes holds them
against digests.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from converter.artifact import ManifestInvalid, check_name, check_version
from converter.artifact.schema import (
    MANIFEST,
    MANIFEST_SIGNATURE,
    MAX_MANIFEST_BYTES,
    OWN_FILES,
    FileEntry,
    check_count,
)
from converter.artifact.signing import MAX_SIGNATURE_BYTES
from edge_runtime.remote.faults import RemoteFault
from edge_runtime.remote.way import PLAIN, Way
from fallback_server.protocol.methods import DESCRIBE_PACKAGE, FETCH_PACKAGE, Method
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.protocol.status import Fault

MAX_MESSAGE_BYTES = 4 * 2**20
"""Of one piece, or one description: what is taken into memory of a server that nobody knows."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A connection of its own: what is fetched stands in no request's way there.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)

_HELD_BACK = (
    # What is not read is not sent: the window stays as small as this, however fast the line.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 * 1024),
)


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a server says that it has.

    Attributes:
        model: Whose package.
        version: Which.
        digest: `sha256:` and the manifest's digest, by which everything else is verified.
        manifest_bytes: The manifest's size.
        total_bytes: What all files have.
        signed: The `manifest.sig` that the server has beside the manifest; None where it has none.
    """

    model: str
    version: int
    digest: str
    manifest_bytes: int
    total_bytes: int
    signed: FileEntry | None = None

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


class Supplier:
    """Asks one server. For one thread, but for `close`."""

    def __init__(self, address: str, *, way: Way = PLAIN, held_back: bool = False) -> None:
        """Opens no connection yet: gRPC connects with the first call.

        Args:
            address: `host:port`.
            way: How it is spoken to.
            held_back: Whether the server is to send no more than a message beyond what is read.
        """
        self.address = address
        self._metadata = way.metadata
        self._channel = way.channel(address, (*_OPTIONS, *(_HELD_BACK if held_back else ())))

    def __repr__(self) -> str:
        return f"<Supplier {self.address}>"

    def describe(self, model: str, version: int | None, label: str | None, *, timeout_s: float) -> Described:
        """What the server has of a version, of a label's, or of what answers there if neither is given.

        Raises:
            RemoteFault: it has none, can't be asked, or describes something else.
        """
        request = pb.PackageRequest(model=model)
        if version is not None:
            request.version = version
        elif label is not None:
            request.label = label
        with self._named():
            answer = self._bind(DESCRIBE_PACKAGE)(request, timeout=timeout_s, metadata=self._metadata)
        try:
            return _checked(answer, model, version)
        except (ManifestInvalid, ValueError) as error:
            raise RemoteFault(Fault.INTERNAL, self.address, f"an impossible package is described: {error}") from error

    @contextlib.contextmanager
    def read(self, described: Described, path: str, offset: int, *, timeout_s: float) -> Iterator[Iterator[bytes]]:
        """The bytes of a file from an offset on, as they come; the call ends with the `with`.

        Raises:
            RemoteFault: here, or while they are read: they stop before the end.
        """
        request = pb.FetchRequest(
            model=described.model, version=described.version, digest=described.digest, path=path, offset=offset
        )
        with self._named():
            call = self._bind(FETCH_PACKAGE)(request, timeout=timeout_s, metadata=self._metadata)
        try:
            yield self._pieces(call)
        finally:
            call.cancel()

    def close(self) -> None:
        """Closes the connection; a call under way ends as failed. May be called by any thread, and again."""
        self._channel.close()

    def _pieces(self, call: Any) -> Iterator[bytes]:
        with self._named():
            for chunk in call:
                yield chunk.data

    def _bind(self, method: Method[Any, Any]) -> Any:
        bind = self._channel.unary_stream if method.streams_responses else self._channel.unary_unary
        return bind(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            # Every call's error is a call as well, which the stubs don't say.
            raise RemoteFault.of_status(error.code(), self.address, error.details()) from error
        except ValueError as error:
            raise RemoteFault(Fault.NOT_READY, self.address, f"not sent: {error}", unreachable=True) from error


def _checked(answer: pb.PackageDescription, model: str, version: int | None) -> Described:
    """The description, if it can be one of what was asked for.

    Raises:
        ManifestInvalid, ValueError: it can't.
    """
    check_name(answer.model)
    check_version(answer.version)
    if answer.model != model or (version is not None and answer.version != version):
        raise ValueError(f"{answer.model}/{answer.version} in place of {model}/{version or 'any'}")
    if not _DIGEST.fullmatch(answer.digest):
        raise ValueError("a digest that is none")
    check_count(len({file.path for file in answer.files} - {*OWN_FILES}))
    sizes = {file.path: file.bytes for file in answer.files}
    if min(sizes.values(), default=0) < 0 or not 0 < sizes.get(MANIFEST, 0) <= MAX_MANIFEST_BYTES:
        raise ValueError(f"impossible sizes, or a {MANIFEST} of {sizes.get(MANIFEST, 0)} bytes")
    signed = [file for file in answer.files if file.path == MANIFEST_SIGNATURE]
    if any(not (0 < one.bytes <= MAX_SIGNATURE_BYTES and _SHA256.fullmatch(one.sha256)) for one in signed):
        raise ValueError(f"an impossible {MANIFEST_SIGNATURE}")
    return Described(
        model=answer.model,
        version=answer.version,
        digest=answer.digest,
        manifest_bytes=sizes[MANIFEST],
        total_bytes=sum(sizes.values()),
        signed=FileEntry(size_bytes=signed[-1].bytes, sha256=signed[-1].sha256) if signed else None,
    )
