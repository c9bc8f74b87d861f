"""What a call takes at least: something of its kind that its caller may do, with whichever model. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fallback_server.access.rules import Scope
from fallback_server.protocol import methods
from fallback_server.protocol.methods import Method

_RUNS: tuple[Method[Any, Any], ...] = (
    methods.PREDICT,
    methods.CLASSIFY,
    methods.REGRESS,
    methods.MULTI_INFERENCE,
    methods.MODEL_INFER,
    methods.MODEL_STREAM_INFER,
    methods.RUN_SEQUENCE,
)
_SEES: tuple[Method[Any, Any], ...] = (
    methods.GET_MODEL_METADATA,
    methods.GET_MODEL_STATUS,
    methods.MODEL_READY,
    methods.SERVER_METADATA,
    methods.MODEL_METADATA,
    methods.MODEL_CONFIG,
    methods.MODEL_STATISTICS,
    methods.REPOSITORY_INDEX,
    methods.CATALOG_GET,
    methods.CATALOG_WATCH,
)
_CHANGES: tuple[Method[Any, Any], ...] = (
    methods.RELOAD_CONFIG,
    methods.REPOSITORY_MODEL_LOAD,
    methods.REPOSITORY_MODEL_UNLOAD,
    methods.SET_LABEL,
    methods.SET_TRAFFIC,
    methods.ROLLBACK,
    methods.RELOAD,
)
_FETCHES: tuple[Method[Any, Any], ...] = (methods.DESCRIBE_PACKAGE, methods.FETCH_PACKAGE)
_EVERYBODYS = (
    methods.SERVER_LIVE.path,
    methods.SERVER_READY.path,
    "/grpc.health.v1.Health/Check",  # Of models it asks by itself.
    "/grpc.health.v1.Health/Watch",
)

SCOPES: Mapping[str, tuple[Scope, ...]] = {
    **{method.path: (Scope.PREDICT,) for method in _RUNS},
    **{method.path: (Scope.STATUS,) for method in _SEES},
    **{method.path: (Scope.ADMIN,) for method in _CHANGES},
    **{method.path: (Scope.STATUS, Scope.PREDICT) for method in _FETCHES},
    **dict.fromkeys(_EVERYBODYS, ()),
}
"""By the method's path; a method that is not here is served by none."""
