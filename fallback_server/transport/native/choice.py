"""Which of the two speaks gRPC. Pure, but for the question whether the extra is there."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fallback_server.config import ConfigInvalid
from fallback_server.flag_table import MAX_MESSAGE_BYTES
from fallback_server.transport.client_bounds import fault_of

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
_NOT_ZERO = ("keepalive_time_ms", "keepalive_timeout_ms")

_LARGEST = 2**31 - 1
"""The largest number that gRPC takes in an option; the least is one further below zero."""

_TOO_LATE = "messages over --max_message_bytes, unpacked ones too, are refused only when they are in memory"

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


def choose(
    transport: str,
    *,
    tls: bool,
    present: bool,
    arguments: Arguments = (),
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    socket_lack: str = "",
) -> Choice:
    """What is to speak gRPC.

    Args:
        transport: `grpcio`, `native`, or `auto`: native where it can, and keeps all that was asked for.
        tls: Whether the port speaks TLS.
        present: Whether the extra is there.
        arguments: Of gRPC, as the operator gave them.
        max_message_bytes: The largest message that is taken.
        socket_lack: Why there is no place for the socket behind it; empty where there is one, or nobody has looked.

    Raises:
        ConfigInvalid: native was asked for, and can't; or an argument is nothing that gRPC takes.
    """
    for key, value in arguments:
        _check(key, value)
    if transport == "grpcio":
        return Choice(native=False, reason="as --transport says")
    lack = _lack(tls=tls, present=present, arguments=arguments) or socket_lack
    bounded = max_message_bytes < MAX_MESSAGE_BYTES
    if transport == "native":
        if lack:
            raise ConfigInvalid(f"--transport=native can't be had: {lack}")
        return Choice(native=True, reason=f"as --transport says; {_TOO_LATE}" if bounded else "as --transport says")
    if lack or bounded:
        return Choice(native=False, reason=lack or f"by the native server {_TOO_LATE}")
    return Choice(native=True, reason="it is installed")


def front_arguments(arguments: Arguments) -> Mapping[str, int]:
    """The native server's names for gRPC's options; the first of two that are the same counts, as in gRPC."""
    made: dict[str, int] = {}
    for key, value in arguments:
        name = _ARGUMENTS[key]
        made.setdefault(name, bool(value) if name in _SWITCHES else int(value))
    return made


def _check(key: str, value: int | str) -> None:
    """Refuses what gRPC can't be given."""
    text = f"{key}={value}"
    if not text.isprintable():  # Bytes of the command line that are no text are such.
        raise ConfigInvalid(f"--grpc_channel_arguments={text!r} is no UTF-8, or has what can't be seen")
    if isinstance(value, int) and not -_LARGEST - 1 <= value <= _LARGEST:
        raise ConfigInvalid(f"--grpc_channel_arguments={key} must be from {-_LARGEST - 1} to {_LARGEST}, got {value}")
    if fault := fault_of(key, value):
        raise ConfigInvalid(fault)


def _lack(*, tls: bool, present: bool, arguments: Arguments) -> str:
    """Why there is no native server; empty where there may be one."""
    if tls:
        return "it speaks no TLS; use --transport=grpcio with --ssl_config_file, or a TLS proxy before a plain port"
    if not present:
        return "the extra `fast` is not installed: pip install 'edge-runtime[fast]'"
    for key, value in arguments:
        if key not in _ARGUMENTS:
            return f"it doesn't know --grpc_channel_arguments={key}; it knows {', '.join(_ARGUMENTS)}"
        least = 1 if _ARGUMENTS[key] in _NOT_ZERO else 0
        if not isinstance(value, int) or value < least:
            return f"--grpc_channel_arguments={key} must be a whole number from {least} for it, got {value!r}"
    return ""
