"""The OpenAPI document, made from the table of routes that is dispatched by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fallback_server.transport.rest.routes import Route

_TITLE = "edge fallback server"

_FAULTS = {
    400: "The request is at fault: a name, dtype, shape, value or label",
    401: "Who asks is not known, and everybody may not",
    403: "The operator of this server doesn't allow it to who asks",
    404: "No such model or version",
    408: "The body stalled",
    413: "The body is larger than allowed",
    415: "The body's encoding is unknown",
    429: "More is waiting than is allowed",
    500: "The model failed on its own",
    501: "The server has no such thing",
    503: "The version is loading or unloading, or the server is stopping",
    504: "The answer took longer than allowed",
}

_PARAMETERS: dict[str, dict[str, Any]] = {
    "model": {"type": "string"},
    "version": {"type": "string", "description": "A number; under /v2 a label too"},
    "label": {"type": "string"},
}

_ANY: dict[str, Any] = {}
_STRING = {"type": "string"}
_BOOL = {"type": "boolean"}


def _object(properties: Mapping[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required), **more}


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": dict(items)}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_EXAMPLES = _object(
    {"signature_name": _STRING, "context": _ref("Example"), "examples": _list(_ref("Example"))}, "examples"
)
_NAMED = {"name": _STRING, "datatype": _STRING, "shape": _list({"type": "integer"})}
_PARAMETERS_SCHEMA = {"type": "object", "additionalProperties": True}
_TENSOR = _object({**_NAMED, "parameters": _PARAMETERS_SCHEMA, "data": _ref("Value")}, *_NAMED)
_READY = {"ready": _BOOL}
_COUNT = {"type": "integer", "minimum": 0}
_DURATION = _object({"count": _COUNT, "ns": _COUNT}, "count", "ns")
_CONFIG_TENSOR = _object({"name": _STRING, "data_type": _STRING, "dims": _list({"type": "integer"})}, "name", "dims")

SCHEMAS: dict[str, dict[str, Any]] = {
    "Any": {},
    "Error": _object({"error": _STRING}, "error"),
    "Value": {"description": 'A scalar, or nested lists; bytes are {"b64": "..."}; NaN and Infinity are tokens'},
    "Example": {"type": "object", "additionalProperties": _ANY, "description": "Feature -> value, or list of values"},
    "PredictRequest": _object(
        {"signature_name": _STRING, "instances": _list(_ref("Value")), "inputs": _ref("Value")},
        oneOf=[{"required": ["instances"]}, {"required": ["inputs"]}],
    ),
    "PredictAnswer": _object(
        {"predictions": _list(_ref("Value")), "outputs": _ref("Value")},
        oneOf=[{"required": ["predictions"]}, {"required": ["outputs"]}],
    ),
    "ClassifyRequest": _EXAMPLES,
    "ClassifyAnswer": _object(
        {"results": _list(_list({"type": "array", "prefixItems": [_STRING, {"type": "number"}]}))}, "results"
    ),
    "RegressRequest": _EXAMPLES,
    "RegressAnswer": _object({"results": _list({"type": "number"})}, "results"),
    "Status": _object(
        {
            "model_version_status": _list(
                _object(
                    {
                        "version": _STRING,
                        "state": {"enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                        "status": _object({"error_code": _STRING, "error_message": _STRING}),
                    },
                    "version",
                    "state",
                    "status",
                )
            )
        },
        "model_version_status",
    ),
    "Metadata": _object({"model_spec": _ANY, "metadata": _ANY}, "model_spec", "metadata"),
    "Root": _object({"name": _STRING, "version": _STRING, "links": {"type": "object"}}, "name", "version", "links"),
    "ServerMetadata": _object({"name": _STRING, "version": _STRING, "extensions": _list(_STRING)}, "name", "version"),
    "Live": _object({"live": _BOOL}, "live"),
    "Ready": _object(_READY, "ready"),
    "ModelReady": _object({"name": _STRING, **_READY}, "name", "ready"),
    "ModelMetadata": _object(
        {
            "name": _STRING,
            "versions": _list(_STRING),
            "platform": _STRING,
            "inputs": _list(_object(_NAMED)),
            "outputs": _list(_object(_NAMED)),
        },
        "name",
        "platform",
        "inputs",
        "outputs",
    ),
    "ModelConfig": _object(
        {
            "name": _STRING,
            "platform": _STRING,
            "backend": _STRING,
            "max_batch_size": _COUNT,
            "input": _list(_CONFIG_TENSOR),
            "output": _list(_CONFIG_TENSOR),
            "dynamic_batching": {"type": "object"},
        },
        "name",
        "max_batch_size",
        "input",
        "output",
    ),
    "Statistics": _object(
        {
            "model_stats": _list(
                _object(
                    {
                        "name": _STRING,
                        "version": _STRING,
                        "last_inference": _COUNT,
                        "inference_count": _COUNT,
                        "execution_count": _COUNT,
                        "inference_stats": {"type": "object", "additionalProperties": _DURATION},
                        "batch_stats": _list({"type": "object"}),
                    },
                    "name",
                    "version",
                )
            )
        },
        "model_stats",
    ),
    "InferRequest": _object(
        {
            "id": _STRING,
            "parameters": _PARAMETERS_SCHEMA,
            "inputs": _list(_TENSOR),
            "outputs": _list(_object({"name": _STRING, "parameters": _PARAMETERS_SCHEMA}, "name")),
        },
        "inputs",
    ),
    "InferAnswer": _object(
        {"id": _STRING, "model_name": _STRING, "model_version": _STRING, "outputs": _list(_TENSOR)},
        "model_name",
        "outputs",
    ),
    "Index": _list(_object({"name": _STRING, "version": _STRING, "state": _STRING, "reason": _STRING}, "name")),
}


def document(routes: Sequence[Route], *, version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document of the routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "version": version},
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }


def _operation(route: Route) -> dict[str, Any]:
    words = re.findall(r"\w+", route.path)
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *words]),
        "summary": route.summary,
        "responses": {"200": _answer(route)},
    }
    names = re.findall(r"\{(\w+)\}", route.path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _PARAMETERS[name]} for name in names
        ]
    if route.request:
        content = {"application/json": {"schema": _ref(route.request)}}
        operation["requestBody"] = {"required": True, "content": content}
    for code in sorted(route.faults):
        operation["responses"][str(code)] = {
            "description": _FAULTS[code],
            "content": {"application/json": {"schema": _ref("Error")}},
        }
    return operation


def _answer(route: Route) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": route.summary}
    if route.answer:
        answer["content"] = {"application/json": {"schema": _ref(route.answer)}}
    return answer
