"""What the services of one port have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from fallback_server.protocol.methods import Method

Handlers = Mapping[Method[Any, Any], "grpc.RpcMethodHandler[bytes, bytes]"]


def generic_handlers(handlers: Handlers) -> list[grpc.GenericRpcHandler]:
    """As gRPC's server takes them: one a service."""
    services: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
    for method, handler in handlers.items():
        services.setdefault(method.service, {})[method.name] = handler
    return [grpc.method_handlers_generic_handler(service, named) for service, named in services.items()]
