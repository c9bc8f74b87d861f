"""The runtime's options: frozen, checked once, from keywords or a TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.errors import InvalidConfig

MDNS = "mdns"
"""The fallback that stands for every server that announces itself."""

_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_MAX_THREADS = 256


def _default_threads() -> int:
    """Up to four: a Pi's cores. More rarely help networks of the size that runs on a device."""
    return min(4, os.cpu_count() or 1)


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that `Runtime.open` takes.

    Attributes:
        store: The folder of packages.
        fallback: `mdns`, `host:port`, several of them, or None for no server.
        engines: Interpreters a version, each serving one request or batch at a time.
        threads: Threads of one interpreter.
        batch_sizes: Sizes that are tried at load; those that make a row cheaper are used. 1 is always.
        variant: The variant to run instead of the one that the package chooses; every package must have it.
        max_queued_requests: Requests that may wait for a version's engines; beyond it, they go away or are refused.
        max_queued_bytes: The same, for the bytes of their inputs.
        server_timeout_s: The longest call to a server for requests without a deadline.
        poll_interval_s: How often the store is looked at for new versions.
    """

    store: Path
    fallback: str | tuple[str, ...] | None = None
    engines: int = 1
    threads: int = msgspec.field(default_factory=_default_threads)
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    variant: str | None = None
    max_queued_requests: int = 1024
    max_queued_bytes: int = 64 * 2**20
    server_timeout_s: float = 30.0
    poll_interval_s: float = 1.0

    def __post_init__(self) -> None:
        _bound("engines", self.engines, 1, _MAX_THREADS)
        _bound("threads", self.threads, 1, _MAX_THREADS)
        _bound("max_queued_requests", self.max_queued_requests, 1, 1_000_000)
        _bound("max_queued_bytes", self.max_queued_bytes, 1, 2**40)
        _bound("server_timeout_s", self.server_timeout_s, 0.001, 3600)
        _bound("poll_interval_s", self.poll_interval_s, 0.01, 3600)
        for size in self.batch_sizes:
            _bound("batch_sizes", size, 1, 1024)
        for one in self.fallbacks:
            if one != MDNS and not _is_address(one):
                raise InvalidConfig(
                    f"fallback: {MDNS!r} or 'host:port' with a port from 1 to 65535 is expected, got {one!r}"
                )

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The fallback as a tuple: empty for none."""
        if self.fallback is None:
            return ()
        return (self.fallback,) if isinstance(self.fallback, str) else self.fallback

    @property
    def addresses(self) -> tuple[str, ...]:
        """The servers that are given by address."""
        return tuple(one for one in self.fallbacks if one != MDNS)


def _bound(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidConfig(f"{name}: must be from {low} to {high}, got {value}")


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and 1 <= int(match[1]) <= 65535


def read_options(source: str | os.PathLike[str], given: Mapping[str, Any]) -> RuntimeOptions:
    """The options from a folder of packages or a TOML file, and keywords; a keyword wins over the file.

    In a TOML file, `store` is relative to the file.

    Raises:
        InvalidConfig: the file can't be read, or an option is unknown, of a wrong type or out of bounds.
    """
    path = Path(source)
    values: dict[str, Any] = {"store": path}
    if path.suffix == ".toml":
        values = _read_toml(path)
        if "store" not in values:
            raise InvalidConfig(f"{path}: `store`, the folder of packages, is missing")
        values["store"] = path.parent / _store(path, values["store"])
    values.update(given)
    values["store"] = os.fspath(_store(path, values["store"]))
    try:
        return msgspec.convert(values, RuntimeOptions, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"{path}: {error}") from error


def _store(source: Path, value: object) -> str | os.PathLike[str]:
    if value == "" or not isinstance(value, str | os.PathLike):
        raise InvalidConfig(f"{source}: `store` must be the path of a folder of packages, got {value!r}")
    return value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidConfig(f"{path}: can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidConfig(f"{path}: no valid TOML: {error}") from error


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
