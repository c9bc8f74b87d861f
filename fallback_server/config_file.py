"""Reads configuration files: TensorFlow Serving's, which are messages as text; lists of models in our own as well."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from fallback_server import config_proto
from fallback_server.batching.options import BatchingOptions
from fallback_server.config import ConfigInvalid, TlsFiles, metrics_path_fault
from fallback_server.core.model_config import ModelConfig
from fallback_server.flag_table import DEFAULT_METRICS_PATH
from fallback_server.protocol.proto import model_config_pb2 as pb
from fallback_server.text_file import digest_of, read_text
from fallback_server.toml_file import Listed, read_toml

_log = logging.getLogger(__name__)

BATCHING_PARAMS = "batching_params.pbtxt"
"""TensorFlow Serving's name for a version's own batching parameters, in its folder."""

_BATCHING_FIELDS = {
    "max_batch_size": "max_batch_size_rows",
    "batch_timeout_micros": "batch_timeout_us",
    "max_enqueued_batches": "max_enqueued_batches",
    "num_batch_threads": "num_batch_threads",
    "thread_pool_name": "thread_pool_name",
    "enable_large_batch_splitting": "enable_large_batch_splitting",
}
"""BatchingParameters' names -> those of `BatchingOptions`."""

M = TypeVar("M", bound=Message)


def read_text_proto(path: Path, message: M) -> M:
    """Fills a message from its text in a file, and returns it.

    Raises:
        ConfigInvalid: the file can't be read or holds another text; says file, line and column.
    """
    return _parsed(path, read_text(path), message)


def _parsed(path: Path, content: str, message: M) -> M:
    try:
        return text_format.Parse(content, message)
    except text_format.ParseError as error:
        # The parser's text begins with line and column, and may repeat the line itself.
        text = re.sub(r"^[0-9]+:[0-9]+ : (?:'.*': )?", "", str(error), flags=re.DOTALL).replace("edge.wire.", "")
        where = "" if error.GetLine() is None else f":{error.GetLine()}:{error.GetColumn()}"
        raise ConfigInvalid(f"{path}{where}: {text}") from error


def read_model_configs(path: Path) -> tuple[ModelConfig, ...]:
    """The models that a file lists: a ModelServerConfig as text, or the tables `[models.NAME]` of a TOML file.

    Raises:
        ConfigInvalid: with all that is wrong with the file.
    """
    found = list_models(path)
    if found.faults:
        raise ConfigInvalid(*found.faults)
    return found.configs


def list_models(path: Path) -> Listed:
    """What a file lists, and what is wrong with it. See `read_model_configs`.

    Raises:
        ConfigInvalid: the file can't be read at all.
    """
    if path.suffix == ".toml":
        return read_toml(path).models
    text = read_text(path)
    models = config_proto.list_models(_parsed(path, text, pb.ModelServerConfig()))
    return dataclasses.replace(Listed.of(models, path), digest=digest_of(text))


class ConfigFile:
    """A file that lists models, and what of it was taken last. Thread-safe.

    Args:
        path: The file.
        digest: Of what was taken at the start.

    Attributes:
        path: See above.
    """

    def __init__(self, path: Path, digest: bytes) -> None:
        self.path = path
        self._digest = digest

    def read(self) -> tuple[ModelConfig, ...]:
        """The models that it lists; see `read_model_configs`."""
        found = list_models(self.path)
        if found.faults:
            raise ConfigInvalid(*found.faults)
        self._digest = found.digest
        return found.configs

    def has_changed(self) -> bool:
        """Whether it holds something else than what was taken, or can't be read."""
        try:
            return digest_of(read_text(self.path)) != self._digest
        except ConfigInvalid:
            return True


def read_batching(path: Path) -> dict[str, Any]:
    """The fields of `BatchingOptions` that a BatchingParameters file sets.

    Raises:
        ConfigInvalid: the file is at fault.
    """
    parameters = read_text_proto(path, pb.BatchingParameters())
    fields: dict[str, Any] = {
        ours: getattr(parameters, name).value for name, ours in _BATCHING_FIELDS.items() if parameters.HasField(name)
    }
    if parameters.allowed_batch_sizes:
        fields["allowed_batch_sizes"] = tuple(parameters.allowed_batch_sizes)
    if parameters.pad_variable_length_inputs:
        fields["pad_variable_length_inputs"] = True
    if parameters.HasField("max_execution_batch_size"):
        fields["max_batch_size_rows"] = _execution_rows(path, parameters)
    return fields


def _execution_rows(path: Path, parameters: pb.BatchingParameters) -> int:
    """The largest batch, where that is said beside the largest request. Requests of any size are taken here.

    Raises:
        ConfigInvalid: it bounds nothing, or is larger than the largest request.
    """
    rows = parameters.max_execution_batch_size.value
    if not parameters.enable_large_batch_splitting.value:
        raise ConfigInvalid(f"{path}: max_execution_batch_size needs enable_large_batch_splitting {{ value: true }}")
    if parameters.HasField("max_batch_size") and rows > parameters.max_batch_size.value:
        most = parameters.max_batch_size.value
        raise ConfigInvalid(f"{path}: max_execution_batch_size must be at most max_batch_size = {most}, got {rows}")
    return rows


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
    own = (
        "max_batch_size_rows",
        "batch_timeout_us",
        "max_enqueued_batches",
        "allowed_batch_sizes",
        "enable_large_batch_splitting",
        "bulk_rows",
        "pad_variable_length_inputs",
        "allowed_lengths",
    )
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
    if prometheus.path and (fault := metrics_path_fault(prometheus.path)):
        raise ConfigInvalid(f"{path}: prometheus_config.path {fault}")
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
        raise ConfigInvalid(*(f"{path}: --ssl_config_file: {fault}" for fault in error.faults)) from error


def with_largest(fields: Mapping[str, Any]) -> dict[str, Any]:
    """With the largest allowed size as the largest batch, where that isn't said."""
    sizes = fields.get("allowed_batch_sizes")
    return {"max_batch_size_rows": sizes[-1], **fields} if sizes else dict(fields)
