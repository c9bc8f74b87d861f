"""Which of the two speaks gRPC. Pure, but for the question whether the extra is there."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fallback_server.config import ConfigInvalid

PACKAGE = "pygrpc_native"

_ARGUMENTS = {
    "grpc.keepalive_time_ms": "keepalive_time_ms",
    "grpc.keepalive_timeout_ms": "keepalive_timeout_ms",
    "grpc.keepalive_permit_without_calls": "keepalive_permit_without_calls",
    "grpc.max_concurrent_streams": "max_concurrent_streams",
    "grpc.absolute_max_metadata_size": "max_metadata_size",
    "grpc.so_reuseport": "reuse_port",
}
"""What grpcio calls an option, and what the native server does."""

_SWITCHES = ("keepalive_permit_without_calls", "reuse_port")

Arguments = Sequence[tuple[str, int | str]]


class Choice(NamedTuple):
    """What speaks gRPC.

    Attributes:
        native: Whether it is the native server; else grpcio.
        reason: Why, for the log.
    """

    native: bool
    reason: str


def installed() -> bool:
    """Whether the extra is there. Loads nothing."""
    return importlib.util.find_spec(PACKAGE) is not None


def load() -> Any:
    """The extra's module."""
    return importlib.import_module(PACKAGE)


def choose(transport: str, *, tls: bool, present: bool, arguments: Arguments = ()) -> Choice:
    """What is to speak gRPC.

    Args:
        transport: `grpcio`, `native`, or `auto`: native where it can.
        tls: Whether the port speaks TLS.
        present: Whether the extra is there.
        arguments: Of gRPC, as the operator gave them.

    Raises:
        ConfigInvalid: native was asked for, and can't.
    """
    if transport == "grpcio":
        return Choice(native=False, reason="as --transport says")
    lack = _lack(tls=tls, present=present, arguments=arguments)
    if not lack:
        return Choice(native=True, reason="as --transport says" if transport == "native" else "it is installed")
    if transport == "native":
        raise ConfigInvalid(f"--transport=native can't be had: {lack}")
    return Choice(native=False, reason=lack)


def front_arguments(arguments: Arguments) -> Mapping[str, int]:
    """The native server's names for gRPC's options; the first of two that are the same counts, as in gRPC."""
    made: dict[str, int] = {}
    for key, value in arguments:
        name = _ARGUMENTS[key]
        made.setdefault(name, bool(value) if name in _SWITCHES else int(value))
    return made


def _lack(*, tls: bool, present: bool, arguments: Arguments) -> str:
    """Why there is no native server; empty where there may be one."""
    if tls:
        return "it speaks no TLS; use --transport=grpcio with --ssl_config_file, or a TLS proxy before a plain port"
    if not present:
        return "the extra `fast` is not installed: pip install 'edge-runtime[fast]'"
    for key, value in arguments:
        if key not in _ARGUMENTS:
            return f"it doesn't know --grpc_channel_arguments={key}; it knows {', '.join(_ARGUMENTS)}"
        if not isinstance(value, int) or value < 0:
            return f"--grpc_channel_arguments={key} must be a whole number for it, got {value!r}"
    return ""
