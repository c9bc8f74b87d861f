"""What flags and files say, as the server's options. All that is wrong is found, not the first fault alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from fallback_server.access import known_lists
from fallback_server.access.file import read_access
from fallback_server.access.guard import rules_without_file, with_control
from fallback_server.access.rules import AccessRules
from fallback_server.batching.options import BULK_ROWS, BatchingOptions
from fallback_server.config import (
    DEFAULT_MODEL_NAME,
    ConfigInvalid,
    NetworkOptions,
    ServerOptions,
    SourceOptions,
    TlsFiles,
    bounded,
)
from fallback_server.config_file import list_models, read_batching, read_metrics_path, read_tls, with_largest
from fallback_server.core.errors import ConfigRefused
from fallback_server.core.manager import ManagerOptions
from fallback_server.core.model_config import ModelConfig, VersionPolicy
from fallback_server.executors.saved_model import SavedModelOptions
from fallback_server.flag_table import DEFAULT_METRICS_PATH, FLAGS, Kind
from fallback_server.flags import Parsed, Settings
from fallback_server.protocol.mdns import Announcement, AnnouncementInvalid
from fallback_server.sequences.options import SequenceOptions
from fallback_server.tls_files import read_tls_dir
from fallback_server.toml_file import Listed, TomlFile, read_toml, version_policy
from fallback_server.transport.native.choice import choose, installed

DEFAULT_REST_PORT = 8501
"""TensorFlow Serving's, in its container."""

T = TypeVar("T")

_FLAG_NAMES = {
    "max_batch_size_rows": "max_batch_size",
    "batch_timeout_us": "batch_timeout_micros",
    "load_retry_interval_s": "load_retry_interval_micros / 1000000",
    "intra_op_parallelism": "tensorflow_intra_op_parallelism",
    "inter_op_parallelism": "tensorflow_inter_op_parallelism",
}
"""Options whose flags have another name; the others have the same."""

DRAIN_SHARE = 0.9
"""Of the time for which the runs of a version that is unloaded may go on, that of its sequences."""

_SOURCES = ("model_repository", "model_base_path", "model_config_file")
"""Flags that say what is served."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a command line and its files come to.

    Attributes:
        settings: The value of every flag.
        options: None where there are faults.
        faults: All that is wrong, a line each.
        configs: The models that are listed, so far as they could be read.
    """

    settings: Settings
    options: ServerOptions | None
    faults: tuple[str, ...]
    configs: tuple[ModelConfig, ...] = ()


def read(parsed: Parsed) -> Reading:
    """Reads the files that the command line names, and makes the options. Never raises for what they say."""
    faults = _Faults(parsed.faults)
    file = Settings(parsed.values).path("config")
    toml = None if file is None else faults.collect(lambda: read_toml(file))
    faults.lines += () if toml is None else toml.faults
    faults.lines += [f"{argument!r} is no flag; flags begin with --" for argument in parsed.arguments]
    settings = Settings({} if toml is None else toml.values, parsed.values)
    # What is served may well be said where that couldn't be read: no fault of its own then.
    unread = file is not None and toml is None
    unread |= any(line.partition(f"--{name}")[1] for line in faults.lines for name in _SOURCES)
    builder = _Builder(settings, faults, toml=toml, file=file, unread=unread)
    options = builder.options()
    return Reading(builder.settings, None if faults.lines else options, tuple(faults.lines), builder.configs)


def options_of(parsed: Parsed) -> ServerOptions:
    """The options that a command line and its files come to.

    Raises:
        ConfigInvalid: with all that is wrong.
    """
    reading = read(parsed)
    if reading.options is None:
        raise ConfigInvalid(*reading.faults)
    return reading.options


class _Faults:
    """Gathers what is wrong, so that one fault doesn't hide the others."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        self.lines = list(lines)

    def collect(self, make: Callable[[], T]) -> T | None:
        """What `make` gives; None where it raises, and its faults are gathered."""
        try:
            return make()
        except ConfigInvalid as error:
            self.lines += error.faults
        except ConfigRefused as error:
            self.lines.append(str(error))
        except AnnouncementInvalid as error:
            self.lines.append(f"--server_id: {error}")
        except ValueError as error:
            self.lines.append(_as_flag(str(error)))
        return None


class _Builder:
    """Makes the options, group by group."""

    def __init__(
        self,
        settings: Settings,
        faults: _Faults,
        *,
        toml: TomlFile | None,
        file: Path | None,
        unread: bool,
    ) -> None:
        self.settings = settings
        self.configs: tuple[ModelConfig, ...] = ()
        self._digest = b""
        self._faults = faults
        self._toml = toml
        self._file = file
        self._unread = unread

    def options(self) -> ServerOptions | None:
        """All groups; None where one of them is at fault."""
        collect, settings = self._faults.collect, self.settings
        network = collect(self._network)
        source = collect(self._source)
        manager = collect(self._manager)
        batching = collect(self._batching)
        sequences = collect(self._sequences)
        saved_model = collect(self._saved_model)
        metrics_path = collect(self._metrics_path)
        if network is None or source is None or manager is None or batching is None:
            return None
        if saved_model is None or sequences is None:
            return None
        return collect(
            lambda: ServerOptions(
                network=network,
                source=source,
                manager=manager,
                batching=batching,
                sequences=sequences,
                saved_model=saved_model,
                executor=settings.text("executor"),
                warm_up=settings.switch("enable_model_warmup"),
                check_method_names=settings.switch("enable_signature_method_name_check"),
                metrics_path=metrics_path,
                grace_s=settings.number("grace_s"),
            )
        )

    def _network(self) -> NetworkOptions:
        settings = self.settings
        server_id = settings.text("server_id")
        if settings.given("server_id"):
            Announcement(server_id=server_id)
        port = settings.integer("port")
        rules = self._rules()
        tls, channel_arguments = self._tls(tokens=bool(rules is not None and rules.tokens)), self._channel_arguments()
        control = settings.switch("allow_remote_control")
        if rules is None:
            certified = settings.given("tls_dir") and tls is not None and tls.client_verify
            rules = rules_without_file(certified=certified, control=control)
        choose(settings.text("transport"), tls=tls is not None, present=installed(), arguments=channel_arguments)
        return NetworkOptions(
            host=settings.text("host"),
            port=port,
            socket_path=settings.path("grpc_socket_path"),
            rest_port=self._rest_port(port),
            mdns=settings.switch("mdns"),
            mdns_interfaces=settings.texts("mdns_interfaces") or ("default",),
            tls=tls,
            tls_path=settings.path("tls_dir") or settings.path("ssl_config_file"),
            tls_clients=settings.text("tls_clients"),
            tls_state_file=self._tls_state_file(),
            access_file=settings.path("access_file"),
            rules=with_control(rules, control=control),
            insecure=settings.switch("insecure"),
            max_message_bytes=settings.integer("max_message_bytes"),
            cors=settings.switch("rest_api_enable_cors_support"),
            rest_timeout_s=settings.integer("rest_api_timeout_in_ms") / 1e3,
            rest_threads=settings.integer("rest_api_num_threads"),
            grpc_threads=settings.integer("grpc_max_threads"),
            channel_arguments=channel_arguments,
            allow_remote_control=control,
            transport=settings.text("transport"),
            tensor_content=settings.switch("enable_serialization_as_tensor_content"),
            allow_package_delivery=settings.switch("allow_package_delivery"),
            workers=settings.integer("workers"),
            **({"server_id": server_id} if server_id else {}),
        )

    def _rest_port(self, port: int) -> int | None:
        if not self.settings.given("rest_api_port"):
            return DEFAULT_REST_PORT if port else 0
        return self.settings.integer("rest_api_port") or None

    def _rules(self) -> AccessRules | None:
        path = self.settings.path("access_file")
        return None if path is None else read_access(path)

    def _tls(self, *, tokens: bool) -> TlsFiles | None:
        settings = self.settings
        path, folder = settings.path("ssl_config_file"), settings.path("tls_dir")
        if path is not None and folder is not None:
            raise ConfigInvalid("--ssl_config_file and --tls_dir both say what TLS is spoken with: give one of them")
        for flag in ("tls_clients", "tls_state_file"):
            if folder is None and settings.given(flag):
                raise ConfigInvalid(f"--{flag} needs --tls_dir=DIR")
        if folder is not None:
            return read_tls_dir(folder, clients=settings.text("tls_clients"), tokens=tokens)
        return None if path is None else read_tls(path)

    def _tls_state_file(self) -> Path | None:
        folder = self.settings.path("tls_dir")
        return None if folder is None else self.settings.path("tls_state_file") or folder / known_lists.NAME

    def _channel_arguments(self) -> tuple[tuple[str, int | str], ...]:
        arguments: list[tuple[str, int | str]] = []
        for text in self.settings.texts("grpc_channel_arguments"):
            key, equals, value = text.partition("=")
            if not (key and equals):
                raise ConfigInvalid(f"--grpc_channel_arguments must be KEY=VALUE with commas, got {text!r}")
            arguments.append((key, int(value) if value.removeprefix("-").isdecimal() else value))
        return tuple(arguments)

    def _source(self) -> SourceOptions | None:
        settings = self.settings
        file = settings.path("model_config_file")
        one = settings.path("model_base_path")
        tables = self._toml is not None and self._toml.listed
        sources = {
            "--model_base_path": one is not None,
            "--model_config_file": file is not None,
            f"[models] in {self._file}": tables,
        }
        given = [name for name, there in sources.items() if there]
        if len(given) > 1:
            raise ConfigInvalid(f"{' and '.join(given)} can't be used together: {self._too_many()}")
        if one is not None:
            self.configs = (self._single(one),)
        elif file is not None:
            self._list(list_models(file))
        elif tables and self._toml is not None:
            file = self._file
            self._list(self._toml.models)
        elif self._unread and settings.path("model_repository") is None:
            return None
        if self._of_one_model(given) and not given and settings.path("model_repository") is None:
            return None  # That it lacks is said already.
        return SourceOptions(
            repository=settings.path("model_repository"),
            configs=self.configs,
            config_file=file,
            config_digest=self._digest,
            config_poll_s=settings.number("model_config_file_poll_wait_seconds"),
            poll_wait_s=settings.number("file_system_poll_wait_seconds"),
            max_start_wait_s=settings.number("max_start_wait_s"),
            allow_labels_for_unavailable=settings.switch("allow_version_labels_for_unavailable_models"),
            unpack_dir=settings.path("unpack_dir"),
            max_unpacked_bytes=settings.integer("max_unpacked_bytes"),
            package_repository=settings.path("package_repository"),
        )

    def _too_many(self) -> str:
        """What to leave out where models are listed in two places."""
        text = "models are listed in one place"
        if not self.settings.given("model_config_file"):
            return text
        beside = [name for name in ("model_name", "model_base_path") if self.settings.given(name)]
        flags = " and ".join(f"--{name}" for name in beside)
        return f"{text}; TensorFlow Serving would pass over {flags}: leave out what is not meant" if beside else text

    def _of_one_model(self, lists: Sequence[str]) -> bool:
        """Whether something is said of the model of a base path, and there is none."""
        said = False
        if self._unread or self.settings.given("model_base_path"):
            return said
        for name in ("model_name", "model_version_policy"):
            if self.settings.given(name):
                other = f"; {lists[0]} says it of each of its models: leave --{name} out" if lists else ""
                said = True
                self._faults.lines.append(f"--{name} needs --model_base_path=DIR{other}")
        return said

    def _list(self, listed: Listed) -> None:
        self.configs, self._digest = listed.configs, listed.digest
        self._faults.lines += bounded(listed.faults)

    def _single(self, base_path: Path) -> ModelConfig:
        """The model of `--model_base_path`."""
        name = self.settings.text("model_name") if self.settings.given("model_name") else DEFAULT_MODEL_NAME
        if not base_path.is_dir():
            raise ConfigInvalid(f"--model_base_path={base_path} is no directory")
        if not name or "/" in name:
            raise ConfigInvalid(f"--model_name must be a name without slashes, got {name!r}")
        try:
            given = self.settings.given("model_version_policy")
            policy = version_policy(self.settings.text("model_version_policy")) if given else VersionPolicy()
        except ConfigRefused as error:
            raise ConfigInvalid(f"--model_version_policy {error}") from error
        return ModelConfig(name=name, base_path=base_path.absolute(), version_policy=policy)

    def _manager(self) -> ManagerOptions | None:
        settings = self.settings
        threads = {name: settings.integer(name) for name in ("num_load_threads", "num_unload_threads")}
        below = [f"--{name} must be at least 0, got {number}" for name, number in threads.items() if number < 0]
        self._faults.lines += below
        made = self._made(
            ManagerOptions,
            # TensorFlow Serving's 0 is "one after another", and a negative interval is none.
            **{name: max(1, number) for name, number in threads.items()},
            max_unload_wait_s=settings.number("max_unload_wait_s"),
            max_num_load_retries=settings.integer("max_num_load_retries"),
            load_retry_interval_s=max(0, settings.integer("load_retry_interval_micros")) / 1e6,
        )
        return None if below else made

    def _made(self, kind: Callable[..., T], **values: Any) -> T | None:
        """Options; where they are refused, what is said of each value alone is gathered as well."""
        found: dict[str, None] = {}
        for name, value in values.items():
            # Those are held against another option.
            if name not in ("allowed_batch_sizes", "allowed_lengths"):
                _refusal(functools.partial(kind, **{name: value}), found)
        made = _refusal(functools.partial(kind, **values), found)
        self._faults.lines += map(_as_flag, found)
        return None if found else made

    def _batching(self) -> BatchingOptions | None:
        settings = self.settings
        enabled = settings.switch("enable_batching")
        file = settings.path("batching_parameters_file")
        if file is not None and not enabled:
            raise ConfigInvalid("--batching_parameters_file is set without setting --enable_batching to true.")
        if settings.switch("enable_per_model_batching_parameters") and not enabled:
            raise ConfigInvalid("--enable_per_model_batching_parameters needs --enable_batching")
        values: dict[str, Any] = {"num_batch_threads": settings.integer("num_batch_threads")}
        values |= {} if file is None else read_batching(file)
        for name in (field.name for field in fields(BatchingOptions)):
            flag = _FLAG_NAMES.get(name, name)
            if settings.given(flag):
                values[name] = self._batching_value(flag)
        if not {"max_batch_size_rows", "allowed_batch_sizes"} & values.keys():
            values["bulk_rows"] = BULK_ROWS
        per_model = settings.switch("enable_per_model_batching_parameters")
        return self._made(BatchingOptions, enabled=enabled, per_model=per_model, **with_largest(values))

    def _sequences(self) -> SequenceOptions | None:
        settings = self.settings
        return self._made(
            SequenceOptions,
            max_sequences=settings.integer("max_sequences"),
            max_sequence_bytes=settings.integer("max_sequence_bytes"),
            sequence_idle_s=settings.number("sequence_idle_s"),
            # Before what still runs of such a version is ended, so that no step is cut off.
            drain_s=max(0.0, settings.number("max_unload_wait_s")) * DRAIN_SHARE,
        )

    def _batching_value(self, flag: str) -> bool | float | tuple[int, ...]:
        settings = self.settings
        readers: dict[Kind, Callable[[str], bool | float | tuple[int, ...]]] = {
            Kind.BOOL: settings.switch,
            Kind.INT: settings.integer,
            Kind.FLOAT: settings.number,
            Kind.LIST: self._sizes,
        }
        return readers[FLAGS[flag].kind](flag)

    def _sizes(self, flag: str) -> tuple[int, ...]:
        texts = self.settings.texts(flag)
        if not texts or not all(text.isdecimal() for text in texts):
            raise ConfigInvalid(f"--{flag} must be whole numbers with commas, got {','.join(texts)!r}")
        return tuple(map(int, texts))

    def _saved_model(self) -> SavedModelOptions | None:
        settings = self.settings
        both = settings.integer("tensorflow_session_parallelism")
        intra, inter = (settings.integer(f"tensorflow_{kind}_op_parallelism") for kind in ("intra", "inter"))
        if both and (intra or inter):
            raise ConfigInvalid(
                "--tensorflow_session_parallelism sets both --tensorflow_intra_op_parallelism and "
                "--tensorflow_inter_op_parallelism: give it, or these"
            )
        if both < 0:
            raise ConfigInvalid(f"--tensorflow_session_parallelism must be at least 0, got {both}")
        tags = settings.texts("saved_model_tags")
        if not tags:
            raise ConfigInvalid("--saved_model_tags must name a tag")
        return self._made(
            SavedModelOptions, intra_op_parallelism=intra or both, inter_op_parallelism=inter or both, tags=tags
        )

    def _metrics_path(self) -> str | None:
        path = self.settings.path("monitoring_config_file")
        return DEFAULT_METRICS_PATH if path is None else read_metrics_path(path)


def _refusal(make: Callable[[], T], found: dict[str, None]) -> T | None:
    try:
        return make()
    except ValueError as error:
        found[str(error)] = None
        return None


def _as_flag(message: str) -> str:
    """An option class's refusal begins with the option's name."""
    name, _, rest = message.partition(" ")
    return f"--{_FLAG_NAMES.get(name, name)} {rest}"
