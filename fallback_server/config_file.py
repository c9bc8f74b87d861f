"""Reads configuration files: TensorFlow Serving's, which are messages as text, and our own TOML."""

from __future__ import annotations

import dataclasses
import logging
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from fallback_server.batching.options import BatchingOptions
from fallback_server.config import ConfigInvalid, TlsFiles
from fallback_server.config_proto import read_configs
from fallback_server.core.errors import ConfigRefused
from fallback_server.core.model_config import ModelConfig, PolicyKind, Shadow, VersionPolicy, check_configs
from fallback_server.flag_table import DEFAULT_METRICS_PATH, FLAGS, Value
from fallback_server.flags import check_value, unknown
from fallback_server.protocol.proto import model_config_pb2 as pb

_log = logging.getLogger(__name__)

MAX_FILE_BYTES = 2**24
"""16 MiB: a list of ten thousand models is smaller."""

BATCHING_PARAMS = "batching_params.pbtxt"
"""TensorFlow Serving's name for a version's own batching parameters, in its folder."""

_BATCHING_FIELDS = {
    "max_batch_size": "max_batch_size_rows",
    "batch_timeout_micros": "batch_timeout_us",
    "max_enqueued_batches": "max_enqueued_batches",
    "num_batch_threads": "num_batch_threads",
    "thread_pool_name": "thread_pool_name",
}
"""BatchingParameters' names -> those of `BatchingOptions`."""

M = TypeVar("M", bound=Message)

_LATEST = re.compile(r"latest(?:\(\s*([0-9]{1,9})\s*\))?")
_VERSIONS = re.compile(r"[0-9]{1,19}(?:\s*,\s*[0-9]{1,19})*")


def read_text_proto(path: Path, message: M) -> M:
    """Fills a message from its text in a file, and returns it.

    Raises:
        ConfigInvalid: the file can't be read or holds another text; says file, line and column.
    """
    try:
        return text_format.Parse(_read(path), message)
    except text_format.ParseError as error:
        # The parser's text begins with line and column, and may repeat the line itself.
        text = re.sub(r"^[0-9]+:[0-9]+ : (?:'.*': )?", "", str(error), flags=re.DOTALL).replace("edge.wire.", "")
        where = "" if error.GetLine() is None else f":{error.GetLine()}:{error.GetColumn()}"
        raise ConfigInvalid(f"{path}{where}: {text}") from error


def read_model_configs(path: Path) -> tuple[ModelConfig, ...]:
    """The models that a file lists: a ModelServerConfig as text, or the tables `[models.NAME]` of a TOML file.

    Raises:
        ConfigInvalid: the file is at fault.
    """
    if path.suffix == ".toml":
        return read_toml(path)[1] or ()
    message = read_text_proto(path, pb.ModelServerConfig())
    try:
        return tuple(read_configs(message))
    except ConfigRefused as error:
        raise ConfigInvalid(f"{path}: {error}") from error


def read_batching(path: Path) -> dict[str, Any]:
    """The fields of `BatchingOptions` that a BatchingParameters file sets.

    Raises:
        ConfigInvalid: the file is at fault, or sets what the scheduler doesn't do.
    """
    parameters = read_text_proto(path, pb.BatchingParameters())
    refused = {
        "pad_variable_length_inputs": parameters.pad_variable_length_inputs,
        "enable_large_batch_splitting": parameters.enable_large_batch_splitting.value,
        "max_execution_batch_size": parameters.HasField("max_execution_batch_size"),
    }
    reasons = {
        "pad_variable_length_inputs": "requests of different inner shapes run in batches of their own",
        "enable_large_batch_splitting": "a request that is larger than a batch runs alone, in one piece",
        "max_execution_batch_size": "it bounds the pieces of what is split, and nothing is split",
    }
    faults = [f"{path}: {name} is not supported: {reasons[name]}" for name, on in refused.items() if on]
    if faults:
        raise ConfigInvalid(*faults)
    fields = {
        ours: getattr(parameters, name).value for name, ours in _BATCHING_FIELDS.items() if parameters.HasField(name)
    }
    if parameters.allowed_batch_sizes:
        fields["allowed_batch_sizes"] = tuple(parameters.allowed_batch_sizes)
    return fields


def batching_for(path: Path, default: BatchingOptions) -> BatchingOptions:
    """How the requests of one version are merged: as its folder says where that is read, else as the server's.

    As in TensorFlow Serving a version's own file replaces the server's parameters whole, but for the threads, which
    all models share. A version without a file has the server's.

    Args:
        path: The version's folder.
        default: The server's.

    Raises:
        ConfigInvalid: the version's file is at fault.
    """
    file = path / BATCHING_PARAMS
    if not (default.enabled and default.per_model and file.is_file()):
        return default
    fields = read_batching(file)
    shared = [name for name in ("num_batch_threads", "thread_pool_name") if fields.pop(name, None) is not None]
    if shared:
        _log.warning("%s: %s can't be set for one model: all share the threads", file, " and ".join(shared))
    own = ("max_batch_size_rows", "batch_timeout_us", "max_enqueued_batches", "allowed_batch_sizes")
    plain = BatchingOptions()
    try:
        return dataclasses.replace(default, **{name: getattr(plain, name) for name in own} | with_largest(fields))
    except ValueError as error:
        text = str(error)
        for name, ours in _BATCHING_FIELDS.items():
            text = re.sub(rf"^{ours}\b", name, text)
        raise ConfigInvalid(f"{file}: {text}") from error


def read_metrics_path(path: Path) -> str | None:
    """Where a MonitoringConfig file wants Prometheus' metrics; None where it wants none.

    Raises:
        ConfigInvalid: the file is at fault.
    """
    prometheus = read_text_proto(path, pb.MonitoringConfig()).prometheus_config
    if not prometheus.enable:
        return None
    if prometheus.path and not prometheus.path.startswith("/"):
        raise ConfigInvalid(f"{path}: prometheus_config.path must begin with a slash, got {prometheus.path!r}")
    return prometheus.path or DEFAULT_METRICS_PATH


def read_tls(path: Path) -> TlsFiles:
    """What an SSLConfig file holds.

    Raises:
        ConfigInvalid: the file is at fault.
    """
    config = read_text_proto(path, pb.SSLConfig())
    try:
        return TlsFiles(
            key_pem=config.server_key.encode(),
            certificate_pem=config.server_cert.encode(),
            client_ca_pem=config.custom_ca.encode(),
            client_verify=config.client_verify,
        )
    except ConfigInvalid as error:
        raise ConfigInvalid(*(f"{path}: {fault}" for fault in error.faults)) from error


def read_toml(path: Path) -> tuple[Mapping[str, Value], tuple[ModelConfig, ...] | None]:
    """Flags by name, and the models of `[models.NAME]`, None without such a table.

    Raises:
        ConfigInvalid: with all that is wrong, each with the path of its key.
    """
    try:
        document = tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{path}: {error}") from error
    faults: list[str] = []
    values: dict[str, Value] = {}
    tables = document.pop("models", None)
    for key, given in document.items():
        name = key.replace("-", "_")
        try:
            values[name] = _flag_value(name, given)
        except ValueError as error:
            faults.append(f"{path}: {error}")
    configs = None if tables is None else _models(tables, path, faults)
    if faults:
        raise ConfigInvalid(*faults)
    return values, configs


def version_policy(given: Any) -> VersionPolicy:
    """`latest(2)`, `latest`, `all`, `1,3` or a list of numbers, as a policy.

    Raises:
        ConfigInvalid: it is none of these.
    """
    text = ",".join(map(str, given)) if _is_list_of(given, int) else given
    if isinstance(text, str):
        text = text.strip()
        if text == "all":
            return VersionPolicy(kind=PolicyKind.ALL)
        if found := _LATEST.fullmatch(text):
            return VersionPolicy(num_versions=int(found[1] or 1))
        if _VERSIONS.fullmatch(text):
            return VersionPolicy(kind=PolicyKind.SPECIFIC, versions=tuple(map(int, text.split(","))))
    raise ConfigInvalid(f"must be latest(N), all, or versions such as 1,3, got {given!r}")


def with_largest(fields: Mapping[str, Any]) -> dict[str, Any]:
    """With the largest allowed size as the largest batch, where that isn't said."""
    sizes = fields.get("allowed_batch_sizes")
    return {"max_batch_size_rows": sizes[-1], **fields} if sizes else dict(fields)


def _flag_value(name: str, given: Any) -> Value:
    flag = FLAGS.get(name)
    if flag is None:
        raise ValueError(unknown(name))
    if not flag.in_file:
        raise ValueError(f"--{name} belongs on the command line")
    return check_value(flag, given)


def _models(tables: Any, path: Path, faults: list[str]) -> tuple[ModelConfig, ...]:
    if not isinstance(tables, dict):
        faults.append(f"{path}: models must be tables [models.NAME], got {tables!r}")
        return ()
    configs = []
    for name, table in tables.items():
        try:
            configs.append(_ModelTable(f"models.{name}", table, path.parent).read(name))
        except ConfigInvalid as error:
            faults += [f"{path}: {fault}" for fault in error.faults]
        except ConfigRefused as error:
            faults.append(f"{path}: models.{name}: {error}")
    try:
        check_configs(configs)
    except ConfigRefused as error:
        faults.append(f"{path}: {error}")
    return tuple(configs)


class _ModelTable:
    """One `[models.NAME]`."""

    def __init__(self, where: str, table: Any, folder: Path) -> None:
        self._where = where
        self._table = table
        self._folder = folder

    def read(self, name: str) -> ModelConfig:
        keys = ("base_path", "platform", "version_policy", "labels", "traffic", "shadow")
        table = _table_of(self._where, self._table, keys)
        if "base_path" not in table:
            raise ConfigInvalid(f"{self._where}.base_path is missing")
        try:
            policy = version_policy(table.get("version_policy", "latest"))
        except ConfigRefused as error:
            raise ConfigInvalid(f"{self._where}.version_policy {error}") from error
        labels = _table_of(f"{self._where}.labels", table.get("labels", {}))
        traffic = _table_of(f"{self._where}.traffic", table.get("traffic", {}))
        return ModelConfig(
            name=name,
            base_path=self._folder.absolute() / _of(f"{self._where}.base_path", table["base_path"], str),
            platform=_of(f"{self._where}.platform", table.get("platform", "tensorflow"), str),
            version_policy=policy,
            labels={key: _of(f"{self._where}.labels.{key}", value, int) for key, value in labels.items()},
            traffic={
                self._version(f"{self._where}.traffic", key): _number(f"{self._where}.traffic.{key}", value)
                for key, value in traffic.items()
            },
            shadow=self._shadow(table.get("shadow")),
        )

    def _shadow(self, given: Any) -> Shadow | None:
        if given is None:
            return None
        where = f"{self._where}.shadow"
        table = _table_of(where, given, ("version", "share"))
        if missing := [key for key in ("version", "share") if key not in table]:
            raise ConfigInvalid(f"{where}.{missing[0]} is missing")
        version = _of(f"{where}.version", table["version"], int)
        return Shadow(version=version, share=_number(f"{where}.share", table["share"]))

    def _version(self, where: str, key: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", key):
            raise ConfigInvalid(f"{where}: a version's number is expected before the =, got {key!r}")
        return int(key)


def _table_of(where: str, given: Any, keys: Sequence[str] | None = None) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ConfigInvalid(f"{where} must be a table, got {given!r}")
    if keys is not None and (others := [key for key in given if key not in keys]):
        raise ConfigInvalid(*(f"{where}.{key} is not known; {', '.join(keys)} are" for key in others))
    return given


T = TypeVar("T", int, str)

_WORDS = {int: "a whole number", str: "a text"}


def _of(where: str, given: Any, kind: type[T]) -> T:
    if type(given) is not kind:
        raise ConfigInvalid(f"{where} must be {_WORDS[kind]}, got {given!r}")
    return given


def _number(where: str, given: Any) -> float:
    if type(given) not in (int, float):
        raise ConfigInvalid(f"{where} must be a number, got {given!r}")
    return float(given)


def _is_list_of(given: Any, kind: type) -> bool:
    return isinstance(given, (list, tuple)) and bool(given) and all(type(item) is kind for item in given)


def _read(path: Path) -> str:
    """A file's text.

    Raises:
        ConfigInvalid: it can't be read, is too large or is no UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigInvalid(f"{path}: larger than {MAX_FILE_BYTES} bytes, the most that is read")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror or error}") from error
