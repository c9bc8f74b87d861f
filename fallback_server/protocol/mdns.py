"""How a server announces itself: the service type and the TXT record. Loads neither grpc nor zeroconf."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

SERVICE_TYPE = "_edge-fallback._tcp.local."
PROTOCOL_VERSION = 1
"""Raised when a device of today could no longer talk to the server."""

API_TFS_GRPC = "tfs-grpc"
"""TensorFlow Serving's gRPC API on the announced port."""

API_TFS_REST = "tfs-rest"
"""TensorFlow Serving's REST API, on a port of its own: `tfs-rest=8501`."""

API_OIP_GRPC = "oip-grpc"
"""The Open Inference Protocol over gRPC, on the announced port."""

API_OIP_REST = "oip-rest"
"""The Open Inference Protocol over REST, on REST's port: `oip-rest=8501`."""

API_EDGE = "edge-v1"
"""Our own services, on the announced port."""

_ID = re.compile(r"[A-Za-z0-9-]{1,63}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_MAX_VALUE_BYTES = 200


class AnnouncementInvalid(ValueError):
    """A TXT record that no server of ours writes; whoever browses passes over it."""


@dataclass(frozen=True)
class Announcement:
    """What the TXT record says. It is a hint and no proof: anybody on the network can write one.

    Attributes:
        server_id: 1 to 63 letters, digits and hyphens; the same over the server's life, another for each server.
        apis: What is spoken: a name for the announced port, `name=port` for another.
        tls: Whether the announced port speaks TLS.
        protocol_version: See `PROTOCOL_VERSION`.
        fingerprint: SHA-256 of the server's certificate in DER, in hex, where TLS is spoken; empty for not told.
    """

    server_id: str
    apis: tuple[str, ...] = (API_TFS_GRPC,)
    tls: bool = False
    protocol_version: int = PROTOCOL_VERSION
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.server_id):
            raise AnnouncementInvalid(f"server id {self.server_id!r}: 1 to 63 letters, digits and hyphens are allowed")
        if self.fingerprint and not (self.tls and _FINGERPRINT.fullmatch(self.fingerprint)):
            raise AnnouncementInvalid(f"fp={self.fingerprint!r}: 64 hexadecimal digits are expected, and tls=1")

    def to_txt(self) -> dict[str, str]:
        """The TXT record's keys and values."""
        txt = {
            "proto": str(self.protocol_version),
            "id": self.server_id,
            "tls": "1" if self.tls else "0",
            "apis": ",".join(self.apis),
        }
        return {**txt, "fp": self.fingerprint} if self.fingerprint else txt

    @classmethod
    def from_txt(cls, txt: Mapping[bytes, bytes | None]) -> Announcement:
        """Reads a TXT record; keys that are not known are passed over, so that later servers can add some.

        Raises:
            AnnouncementInvalid: a key is missing, or a value is none that `to_txt` writes.
        """
        version = _text(txt, "proto")
        if not version.isascii() or not version.isdigit():
            raise AnnouncementInvalid(f"TXT proto={version!r}: a number is expected")
        tls = _text(txt, "tls")
        if tls not in ("0", "1"):
            raise AnnouncementInvalid(f"TXT tls={tls!r}: 0 or 1 is expected")
        apis = tuple(name for name in _text(txt, "apis").split(",") if name)
        return cls(
            server_id=_text(txt, "id"),
            apis=apis,
            tls=tls == "1",
            protocol_version=int(version),
            fingerprint="" if txt.get(b"fp") is None else _text(txt, "fp"),
        )

    def port_of(self, api: str, port: int) -> int | None:
        """Where an API is spoken: on the announced port, or on one of its own; None where it isn't.

        Args:
            api: Its name.
            port: The announced one.
        """
        for entry in self.apis:
            name, equals, number = entry.partition("=")
            if name != api:
                continue
            if not equals:
                return port
            if _PORT.fullmatch(number) and int(number) <= 65535:
                return int(number)
        return None

    @property
    def instance_name(self) -> str:
        """The full mDNS name of this server's service."""
        return f"{self.server_id}.{SERVICE_TYPE}"


def apis_of(*, rest_port: int | None) -> tuple[str, ...]:
    """What a server of this release speaks.

    Args:
        rest_port: Of REST; None for none.
    """
    if rest_port is None:
        return (API_TFS_GRPC, API_OIP_GRPC, API_EDGE)
    return (API_TFS_GRPC, f"{API_TFS_REST}={rest_port}", API_OIP_GRPC, f"{API_OIP_REST}={rest_port}", API_EDGE)


def _text(txt: Mapping[bytes, bytes | None], key: str) -> str:
    value = txt.get(key.encode())
    if value is None:
        raise AnnouncementInvalid(f"TXT record has no {key}")
    if len(value) > _MAX_VALUE_BYTES:
        raise AnnouncementInvalid(f"TXT {key} has {len(value)} bytes, at most {_MAX_VALUE_BYTES} are read")
    try:
        return value.decode("ascii")
    except UnicodeDecodeError as error:
        raise AnnouncementInvalid(f"TXT {key} is not ASCII") from error
