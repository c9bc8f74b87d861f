"""What the services of one port have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from fallback_server.protocol.methods import Method

Handlers = Mapping[Method[Any, Any], "grpc.RpcMethodHandler[bytes, bytes]"]
