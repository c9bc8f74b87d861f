"""How a server is spoken to: in plain text, or over TLS with what, and which token goes with each call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc


@dataclass(frozen=True, kw_only=True)
class Way:
    """One server's. Made only of what has been proved: see `handshake`.

    Attributes:
        roots: By these its certificate is verified anew at each connection; PEM, empty for plain text.
        certificate: What is shown to it, with its key; PEM, empty for nothing.
        key: Of that.
        name: What its certificate must be for; empty for the host of the address.
        token: Goes with each call; empty for none.
    """

    roots: bytes = b""
    certificate: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    name: str = ""
    token: str = field(default="", repr=False)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call. gRPC sends it when the server has proved who it is, and not before."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def alike(self, other: Way) -> bool:
        """Whether a connection of the one will do for the other."""
        mine = (self.roots, self.certificate, self.key, self.name)
        return mine == (other.roots, other.certificate, other.key, other.name)

    def channel(self, address: str, options: tuple[tuple[str, Any], ...]) -> grpc.Channel:
        """A channel to `host:port`, which connects with its first call."""
        if not self.roots:
            return grpc.insecure_channel(address, options=options)
        credentials = grpc.ssl_channel_credentials(self.roots, self.key or None, self.certificate or None)
        if self.name:
            options = (*options, ("grpc.ssl_target_name_override", self.name))
        return grpc.secure_channel(address, credentials, options=options)


PLAIN = Way()
"""Plain text: to this machine itself, or where the configuration says that anybody is believed."""
