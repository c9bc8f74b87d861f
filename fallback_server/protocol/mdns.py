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

_ID = re.compile(r"[A-Za-z0-9-]{1,63}")
_MAX_VALUE_BYTES = 200


class AnnouncementInvalid(ValueError):
    """A TXT record that no server of ours writes; whoever browses passes over it."""


@dataclass(frozen=True)
class Announcement:
    """What the TXT record says. It is a hint and no proof: anybody on the network can write one.

    Attributes:
        server_id: 1 to 63 letters, digits and hyphens; the same over the server's life, another for each server.
        apis: What is spoken on the port.
        tls: Whether the port speaks TLS.
        protocol_version: See `PROTOCOL_VERSION`.
    """

    server_id: str
    apis: tuple[str, ...] = (API_TFS_GRPC,)
    tls: bool = False
    protocol_version: int = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.server_id):
            raise AnnouncementInvalid(f"server id {self.server_id!r}: 1 to 63 letters, digits and hyphens are allowed")

    def to_txt(self) -> dict[str, str]:
        """The TXT record's keys and values."""
        return {
            "proto": str(self.protocol_version),
            "id": self.server_id,
            "tls": "1" if self.tls else "0",
            "apis": ",".join(self.apis),
        }

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
        return cls(server_id=_text(txt, "id"), apis=apis, tls=tls == "1", protocol_version=int(version))

    @property
    def instance_name(self) -> str:
        """The full mDNS name of this server's service."""
        return f"{self.server_id}.{SERVICE_TYPE}"


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
