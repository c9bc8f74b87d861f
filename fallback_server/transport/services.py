"""What the services of one port have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from fallback_server.core.errors import PermissionDenied
from fallback_server.protocol.methods import Method

Handlers = Mapping[Method[Any, Any], "grpc.RpcMethodHandler[bytes, bytes]"]


class RemoteControl:
    """Whether callers may change what is served.

    Args:
        allowed: As the operator of the server says.
    """

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed

    def check(self, what: str) -> None:
        """Refuses a change where callers may make none.

        Raises:
            PermissionDenied: they may not.
        """
        if not self._allowed:
            raise PermissionDenied(f"{what} is refused: this server was started with --allow_remote_control=false")


def generic_handlers(handlers: Handlers) -> list[grpc.GenericRpcHandler]:
    """As gRPC's server takes them: one a service."""
    services: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
    for method, handler in handlers.items():
        services.setdefault(method.service, {})[method.name] = handler
    return [grpc.method_handlers_generic_handler(service, named) for service, named in services.items()]
