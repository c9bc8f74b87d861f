"""The runtime's options: frozen, checked once, from keywords or a TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from edge_runtime.errors import InvalidConfig
from edge_runtime.tls_options import TlsOptions, check_plain
from edge_runtime.types import Policy

Options = TypeVar("Options", bound=msgspec.Struct)

MDNS = "mdns"
"""The fallback that stands for every server that announces itself."""

_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
MAX_ENGINES = 256

_MAX_DOTS = 1000
"""In a line of TOML. The parser takes the square of a dotted key's parts; keys have a handful."""

Isolation = Literal["auto", "none", "process"]
"""Where an engine runs. `auto`: accelerators in a worker process, where their crash costs one retry, the CPU in the
application's own."""


Fetch = Literal["never", "on-demand", "follow"]
"""Whether packages are fetched from servers: `on-demand` those versions that are asked for and not installed, `follow`
also what the servers' label or latest version goes over to."""

Cascade = Literal["off", "on"] | float
"""Whether servers are asked where the device's answer is unsure: below the threshold in the package, or this one."""


def default_cache() -> Path | None:
    """`$XDG_CACHE_HOME/edge-runtime`, else `~/.cache/edge-runtime`; None where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"  # noqa: PTH117  "" is no Path
    except RuntimeError:
        return None
    return folder / "edge-runtime"


class ModelOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one model has otherwise than the runtime; None where it hasn't.

    Attributes:
        variant, delegates, isolation, engines, threads: As in `RuntimeOptions`.
        policy, hedge, cascade, fetch: Likewise.
        weight: Its share of a device that several models wait for, against the others' 1.
    """

    variant: str | None = None
    delegates: tuple[str, ...] | None = None
    isolation: Isolation | None = None
    engines: int | None = None
    threads: int | None = None
    policy: Policy | None = None
    hedge: bool | None = None
    cascade: Cascade | None = None
    fetch: Fetch | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check_engines(self)
        _check_cascade(self.cascade)
        _bound("weight", self.weight, 0.01, 100)


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that `Runtime.open` takes.

    Attributes:
        store: The folder of packages.
        fallback: `mdns`, `host:port`, several of them, or None for no server.
        tls: How servers are known; then each is spoken to over TLS. None for plain text, to this machine's own alone...
        insecure: ...unless this is set: then whoever answers is believed, and whoever listens hears.
        delegates: Where versions run, in order of preference: `cpu`, `gpu`, `npu`, `edgetpu` (all that are attached),
            `edgetpu:usb:0`, `external:/path/lib.so?option=value`. The first that works is used, those behind it stand
            by. None for the order of the device's profile.
        isolation: See `Isolation`; `process` and `none` are for all delegates alike.
        engines: Interpreters a version on the CPU, each serving one request or batch at a time. None for as many as
            help under load, made when they are needed.
        threads: Threads of one interpreter on the CPU. None for what the profile finds best.
        batch_sizes: Sizes that are tried at load; those that make a row cheaper are used. 1 is always.
        variant: The variant to run instead of the one that the package chooses; every package must have it.
        policy: Where requests may be answered, and where they are tried first; a request may say otherwise.
        hedge: Whether a request that takes longer than nearly all others is sent to a second place too; at most one in
            twenty is.
        cascade: See `Cascade`.
        fetch: See `Fetch`.
        fetch_bytes_s: How many bytes a second packages may come with, over all, so that requests have the rest of a
            narrow line; None for as many as come.
        require_signature: Whether a package is run and fetched only with a signature by a key that the store trusts
            (`edge-run trust`); else where the store demands it.
        models: By model name, what it has otherwise.
        edgetpu_library: The Edge TPU's library, by name or path, where it is not the usual.
        watchdog_factor: A run in a worker process that takes so many times what it should is stuck...
        watchdog_min_s: ...but not before so many seconds.
        max_streams: Streams of stateful models that may be open at once.
        metrics: Where Prometheus may scrape, as `127.0.0.1:9101`; None for nowhere.
        cache: Where what may be lost is kept: packed weights, results of probing. None for nowhere.
        max_queued_requests: Requests that may wait for a version's engines; beyond it, they go away or are refused.
        max_queued_bytes: The same, for the bytes of their inputs.
        server_timeout_s: The longest call to a server for requests without a deadline.
        poll_interval_s: How often the store is looked at for new versions.
    """

    store: Path
    fallback: str | tuple[str, ...] | None = None
    tls: TlsOptions | None = None
    insecure: bool = False
    delegates: tuple[str, ...] | None = None
    isolation: Isolation = "auto"
    engines: int | None = None
    threads: int | None = None
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    variant: str | None = None
    policy: Policy = "prefer_device"
    hedge: bool = True
    cascade: Cascade = "off"
    fetch: Fetch = "never"
    fetch_bytes_s: float | None = None
    require_signature: bool = False
    models: dict[str, ModelOptions] = {}
    edgetpu_library: str = ""
    watchdog_factor: float = 10.0
    watchdog_min_s: float = 1.0
    max_streams: int = 16
    metrics: str | None = None
    cache: Path | None = msgspec.field(default_factory=default_cache)
    max_queued_requests: int = 1024
    max_queued_bytes: int = 64 * 2**20
    server_timeout_s: float = 30.0
    poll_interval_s: float = 1.0

    def __post_init__(self) -> None:
        _check_engines(self)
        _check_cascade(self.cascade)
        _bound("watchdog_factor", self.watchdog_factor, 1, 1e6)
        _bound("watchdog_min_s", self.watchdog_min_s, 0.001, 3600)
        _bound("max_streams", self.max_streams, 1, 10_000)
        _bound("max_queued_requests", self.max_queued_requests, 1, 1_000_000)
        _bound("max_queued_bytes", self.max_queued_bytes, 1, 2**40)
        if self.fetch_bytes_s is not None:
            _bound("fetch_bytes_s", self.fetch_bytes_s, 1_000, 1e12)
        _bound("server_timeout_s", self.server_timeout_s, 0.001, 3600)
        _bound("poll_interval_s", self.poll_interval_s, 0.01, 3600)
        for size in self.batch_sizes:
            _bound("batch_sizes", size, 1, 1024)
        for one in self.fallbacks:
            if one != MDNS and not is_address(one):
                raise InvalidConfig(
                    f"fallback: {MDNS!r} or 'host:port' with a port from 1 to 65535 is expected, got {one!r}"
                )
        if self.tls is not None and self.insecure:
            raise InvalidConfig("insecure: excludes `tls`, by which servers are known")
        if self.tls is None and not self.insecure:
            check_plain(self.addresses)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The fallback as a tuple: empty for none."""
        if self.fallback is None:
            return ()
        return (self.fallback,) if isinstance(self.fallback, str) else self.fallback

    def of(self, model: str) -> ModelOptions:
        """What holds for a model: its own options, and the runtime's where it has none."""
        own = self.models.get(model, ModelOptions())
        return ModelOptions(
            variant=own.variant or self.variant,
            delegates=self.delegates if own.delegates is None else own.delegates,
            isolation=own.isolation or self.isolation,
            engines=own.engines or self.engines,
            threads=own.threads or self.threads,
            policy=own.policy or self.policy,
            hedge=self.hedge if own.hedge is None else own.hedge,
            cascade=self.cascade if own.cascade is None else own.cascade,
            fetch=own.fetch or self.fetch,
            weight=own.weight,
        )

    def anchored(self) -> RuntimeOptions:
        """The same with absolute paths, so that they mean the same wherever the application goes to (`os.chdir`).

        Libraries without a slash are names, which the system looks for, and stay.

        Raises:
            InvalidConfig: a path is relative, and the current directory is gone.
        """
        try:
            return msgspec.structs.replace(
                self,
                store=self.store.absolute(),
                cache=None if self.cache is None else self.cache.absolute(),
                tls=None if self.tls is None else self.tls.anchored(),
                edgetpu_library=_anchored_library(self.edgetpu_library),
                delegates=_anchored_devices(self.delegates),
                models={
                    name: msgspec.structs.replace(own, delegates=_anchored_devices(own.delegates))
                    for name, own in self.models.items()
                },
            )
        except OSError as error:
            raise InvalidConfig(f"store {self.store}: the current directory is gone: {error.strerror}") from error

    @property
    def addresses(self) -> tuple[str, ...]:
        """The servers that are given by address."""
        return tuple(one for one in self.fallbacks if one != MDNS)


def _bound(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidConfig(f"{name}: must be from {low} to {high}, got {value}")


def _check_cascade(cascade: Cascade | None) -> None:
    if isinstance(cascade, float):
        _bound("cascade", cascade, 0.0, 1.0)


def _check_engines(options: ModelOptions | RuntimeOptions) -> None:
    for name in ("engines", "threads"):
        value = getattr(options, name)
        if value is not None:
            _bound(name, value, 1, MAX_ENGINES)
    if options.delegates is not None:
        from devices import UnknownDelegate, device_string  # noqa: PLC0415  only who names devices pays

        if not options.delegates:
            raise InvalidConfig("delegates: at least one is needed, as in ['edgetpu', 'cpu']; got none")
        for text in options.delegates:
            try:
                device_string(text)
            except UnknownDelegate as error:
                raise InvalidConfig(f"delegates: {error}") from error
        if len(set(options.delegates)) != len(options.delegates):
            raise InvalidConfig(f"delegates: each once, got {list(options.delegates)}")


def _anchored_library(library: str) -> str:
    return str(Path(library).absolute()) if "/" in library else library


def _anchored_devices(delegates: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if delegates is None else tuple(map(_anchored_device, delegates))


def _anchored_device(text: str) -> str:
    name, _, rest = text.partition(":")
    library, question_mark, query = rest.partition("?")
    anchored = _anchored_library(library)
    # A question mark ends the path: a folder that has one can be reached by a relative path only.
    return text if name != "external" or "?" in anchored else f"{name}:{anchored}{question_mark}{query}"


def is_address(text: str) -> bool:
    """Whether it is a server's `host:port`, IPv6 in brackets."""
    match = _ADDRESS.fullmatch(text)
    return match is not None and 1 <= int(match[1]) <= 65535


def read_options(source: str | os.PathLike[str], given: Mapping[str, Any]) -> RuntimeOptions:
    """The options from a folder of packages or a TOML file, and keywords; a keyword wins over the file.

    In a TOML file, `store` and the files of `[tls]` are relative to the file.

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
        if isinstance(values.get("tls"), dict):
            values["tls"] = _converted(path, values["tls"], TlsOptions).below(path.parent)
    values.update(given)
    values["store"] = os.fspath(_store(path, values["store"]))
    return _converted(path, values, RuntimeOptions)


def _converted(source: Path, values: object, kind: type[Options]) -> Options:
    try:
        return msgspec.convert(values, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"{source}: {error}") from error


def _store(source: Path, value: object) -> str | os.PathLike[str]:
    if value == "" or not isinstance(value, str | os.PathLike):
        try:
            shown = repr(value)
        except ValueError:  # Of a number that Python won't write out.
            shown = "a number that is too long"
        raise InvalidConfig(f"{source}: `store` must be the path of a folder of packages, got {shown}")
    return value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InvalidConfig(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path}: no valid TOML: {error}") from error
    if max(line.count(".") for line in text.split("\n")) > _MAX_DOTS:
        raise InvalidConfig(f"{path}: no valid TOML: a line with more than {_MAX_DOTS} dots")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # No TOML, or a number without end.
        raise InvalidConfig(f"{path}: no valid TOML: {error}") from error


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
