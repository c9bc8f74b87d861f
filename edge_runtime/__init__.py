"""Runs packages on the device: local engines, batching and deadlines, with servers to fall back to.

from edge_runtime import Runtime

with Runtime.open("packages/", fallback="mdns") as runtime:
    digits = runtime.model("digits")
    reply = digits.predict(image, deadline_ms=50)
"""

from edge_runtime.config import ModelOptions, RuntimeOptions
from edge_runtime.errors import (
    DeadlineExceeded,
    EdgeRuntimeError,
    EngineFailed,
    InvalidConfig,
    InvalidInput,
    Overloaded,
    PackageRefused,
    RuntimeClosed,
    ServerFailed,
    ServerRefused,
    StreamBusy,
    VersionNotAvailable,
)
from edge_runtime.model import Model
from edge_runtime.runtime import Runtime
from edge_runtime.stream import Stream
from edge_runtime.types import EngineReport, Reply

__all__ = [
    "DeadlineExceeded",
    "EdgeRuntimeError",
    "EngineFailed",
    "EngineReport",
    "InvalidConfig",
    "InvalidInput",
    "Model",
    "ModelOptions",
    "Overloaded",
    "PackageRefused",
    "Reply",
    "Runtime",
    "RuntimeClosed",
    "RuntimeOptions",
    "ServerFailed",
    "ServerRefused",
    "Stream",
    "StreamBusy",
    "VersionNotAvailable",
]
