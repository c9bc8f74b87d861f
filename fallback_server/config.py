"""The server's options: checked once, then never changed."""

from __future__ import annotations

import hashlib
import re
import ssl
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fallback_server.access.rules import EVERYBODY, AccessRules
from fallback_server.batching.options import MAX_THREADS, BatchingOptions
from fallback_server.core.errors import ConfigRefused
from fallback_server.core.manager import ManagerOptions
from fallback_server.core.model_config import EXECUTORS, ModelConfig, check_configs
from fallback_server.executors.saved_model import SavedModelOptions
from fallback_server.flag_table import DEFAULT_METRICS_PATH, MAX_MESSAGE_BYTES
from fallback_server.loopback import is_loopback
from fallback_server.sequences.options import SequenceOptions

DEFAULT_MODEL_NAME = "default"
"""TensorFlow Serving's name for the model of a base path that is given without one."""

MAX_WAIT_S = 86_400.0
"""A day: the longest that is waited between two looks at the disk, or for what is in flight."""

MIN_MESSAGE_BYTES = 1024
"""Less holds not even a status."""

MAX_WORKERS = 64
"""Each has Python's memory and interpreters of its own."""

MAX_FAULTS = 50
"""That are told of one list: who has more mends these first."""

_OTHERS_PATHS = re.compile(r"/(v1|v2|openapi\.json)?(/.*)?", re.IGNORECASE)
"""What REST answers itself, in any case of letters."""

_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?")


class ConfigInvalid(ConfigRefused, ValueError):
    """An option is out of its bounds, or names what isn't there. The text is for whoever runs the server.

    Attributes:
        faults: What is wrong, a line each: all, or of very many the first `MAX_FAULTS` and the number of the others.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = bounded(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """What TLS is spoken with; the content of PEM files, and not their paths.

    Attributes:
        key_pem: The server's private key.
        certificate_pem: Its certificate, and those between it and the root.
        client_ca_pem: Who signs clients' certificates; empty for none.
        client_verify: Whether a client must show one to gRPC.
        crl_pem: Which of those are revoked, as who signs them says; empty for none.
        rest_clients: Of REST's clients' certificates, `require`, `allow` or `none`, see `tls_files`; None where REST is
            plain text, as TensorFlow Serving's is.
    """

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes = field(repr=False)
    client_ca_pem: bytes = field(default=b"", repr=False)
    client_verify: bool = False
    crl_pem: bytes = field(default=b"", repr=False)
    rest_clients: str | None = None

    def __post_init__(self) -> None:
        for name, pem in (("server_key", self.key_pem), ("server_cert", self.certificate_pem)):
            if b"-----BEGIN " not in pem:
                raise ConfigInvalid(f"{name} must be PEM text")
        if self.client_ca_pem and b"-----BEGIN CERTIFICATE-----" not in self.client_ca_pem:
            raise ConfigInvalid("custom_ca must be PEM text")
        if self.client_verify and not self.client_ca_pem:
            raise ConfigInvalid("client_verify needs custom_ca, by which clients are verified")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the server's own certificate in DER, in hex; empty where it is no certificate."""
        first = self.certificate_pem.partition(b"-----END CERTIFICATE-----")[0] + b"-----END CERTIFICATE-----\n"
        begin = first.find(b"-----BEGIN CERTIFICATE-----")
        try:
            return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first[max(begin, 0) :].decode("ascii"))).hexdigest()
        except ValueError:
            return ""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Where the server listens, and how it is found.

    Attributes:
        host: Name or address; 0.0.0.0 for all.
        port: Of gRPC; 0 picks a free one.
        socket_path: A UNIX socket for gRPC beside the port; None for none.
        rest_port: Of REST; 0 picks a free one, None is for none.
        mdns: Whether it is announced.
        mdns_interfaces: Where: `default`, `all`, or names and addresses of interfaces.
        server_id: In the announcement, the catalog and the log; made up at each start unless given.
        tls: What gRPC, and REST where it says so, are spoken with; None for plain text.
        tls_path: The folder or the SSLConfig file that says it, to be read again; None for neither.
        tls_clients: What was said of clients' certificates, see `tls_files`; empty for nothing.
        tls_state_file: Where it is kept which lists of revoked certificates were in force; None for nowhere.
        access_file: Says who may do what; None for none.
        rules: What it says, and what holds without it.
        insecure: Whether plain text may be spoken beyond this machine.
        max_message_bytes: The largest message that is taken or sent.
        cors: Whether pages of other origins may call REST.
        rest_timeout_s: After which a call of REST is given up.
        rest_threads: Threads that read and write REST's large messages.
        grpc_threads: Threads that read and write gRPC's large messages.
        channel_arguments: Given to gRPC as they are.
        allow_remote_control: Whether callers who show nothing may change what is served.
        transport: What speaks gRPC: `grpcio`, `native`, or `auto`; see `transport.native.choice`.
        tensor_content: Whether answers to Predict hold `tensor_content` even if nobody asks for it.
        allow_package_delivery: Whether devices may fetch packages.
        workers: How many processes share the port of gRPC, this one among them.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    socket_path: Path | None = None
    rest_port: int | None = None
    mdns: bool = True
    mdns_interfaces: tuple[str, ...] = ("default",)
    server_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    tls: TlsFiles | None = None
    tls_path: Path | None = None
    tls_clients: str = ""
    tls_state_file: Path | None = None
    access_file: Path | None = None
    rules: AccessRules = field(default_factory=lambda: AccessRules(anonymous=EVERYBODY))
    insecure: bool = False
    max_message_bytes: int = MAX_MESSAGE_BYTES
    cors: bool = False
    rest_timeout_s: float = 30.0
    rest_threads: int = 2
    grpc_threads: int = 2
    channel_arguments: tuple[tuple[str, int | str], ...] = ()
    allow_remote_control: bool = False
    transport: str = "grpcio"
    tensor_content: bool = False
    allow_package_delivery: bool = True
    workers: int = 1

    def __post_init__(self) -> None:
        faults = [
            *_beyond("--port", self.port, 0, 65535),
            *_beyond("--max_message_bytes", self.max_message_bytes, MIN_MESSAGE_BYTES, MAX_MESSAGE_BYTES),
            *_beyond("--rest_api_num_threads", self.rest_threads, 1, MAX_THREADS),
            *_beyond("--grpc_max_threads", self.grpc_threads, 1, MAX_THREADS),
            *_beyond("--workers", self.workers, 1, MAX_WORKERS),
        ]
        if self.rest_port is not None:
            faults += _beyond("--rest_api_port", self.rest_port, 0, 65535)
            if self.rest_port > 0 and self.rest_port == self.port:
                faults.append(f"--rest_api_port must be another than --port, both are {self.port}")
        if not self.host:
            faults.append("--host must not be empty")
        elif not self.insecure:
            faults += self._open_faults()
        if not 0 < self.rest_timeout_s <= MAX_WAIT_S:
            faults.append(
                f"--rest_api_timeout_in_ms must be over 0 and at most {MAX_WAIT_S * 1e3:.0f}, "
                f"got {self.rest_timeout_s * 1e3:.0f}"
            )
        if {"default", "all"}.intersection(self.mdns_interfaces) and len(self.mdns_interfaces) > 1:
            names = ",".join(self.mdns_interfaces)
            faults.append(f"--mdns_interfaces must be default, all, or names and addresses, got {names}")
        _refuse(faults)

    @property
    def rest_tls(self) -> bool:
        """Whether REST speaks TLS."""
        return self.tls is not None and self.tls.rest_clients is not None

    def plain_beyond(self) -> tuple[str, ...]:
        """What speaks plain text where others than this machine hear it."""
        if is_loopback(self.host):
            return ()
        plain = [("gRPC", self.tls is None), ("REST", self.rest_port is not None and not self.rest_tls)]
        return tuple(name for name, is_plain in plain if is_plain)

    def _open_faults(self) -> list[str]:
        names = self.plain_beyond()
        if not names:
            return []
        if names == ("REST",):
            way = "give --tls_dir in place of --ssl_config_file, or --rest_api_port=0 for no REST"
        else:
            way = "give --tls_dir (fallback-server pki issue makes one)"
        who = f"--host={self.host}: {' and '.join(names)} would speak plain text beyond this machine"
        risk = "everybody on the way could read and change it"
        return [f"{who}, and {risk}: {way}, or --insecure where the network is trusted"]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Which models are served.

    Attributes:
        repository: Holds NAME/VERSION/ with what an executor runs; None for none.
        configs: The models that are listed.
        config_file: Where they are listed, to be read again; None where they are not in a file.
        config_digest: Of that file as it was read; see `digest_of`. Empty: not known, and then the first look reads it.
        config_poll_s: Time between two looks at that file; 0 for none.
        poll_wait_s: Time between two looks at the disk; 0 looks at the start alone.
        allow_labels_for_unavailable: Whether a new label may point to a version that is not available yet.
        max_start_wait_s: How long the start waits for loads of which none ends.
        unpack_dir: Where archives are unpacked; None for beside them.
        max_unpacked_bytes: The most that one archive may hold.
        package_repository: Holds NAME/VERSION/ of packages that devices may fetch, beside those in versions' folders;
            None for none.
    """

    repository: Path | None = None
    configs: tuple[ModelConfig, ...] = ()
    config_file: Path | None = None
    config_digest: bytes = b""
    config_poll_s: float = 0.0
    poll_wait_s: float = 1.0
    allow_labels_for_unavailable: bool = False
    max_start_wait_s: float = 300.0
    unpack_dir: Path | None = None
    max_unpacked_bytes: int = 2**34
    package_repository: Path | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{flag}={path} is no directory"
            for flag, path in (
                ("--model_repository", self.repository),
                ("--unpack_dir", self.unpack_dir),
                ("--package_repository", self.package_repository),
            )
            if path is not None and not path.is_dir()
        ]
        if self.repository is None and not self.configs and self.config_file is None:
            faults.append(
                "nothing to serve: give --model_repository=DIR or --model_base_path=DIR, "
                "or list models in --model_config_file=FILE or --config=FILE"
            )
        faults += _beyond("--file_system_poll_wait_seconds", self.poll_wait_s, 0, MAX_WAIT_S)
        faults += _beyond("--max_start_wait_s", self.max_start_wait_s, 0, MAX_WAIT_S)
        faults += _beyond("--model_config_file_poll_wait_seconds", self.config_poll_s, 0, MAX_WAIT_S)
        if self.max_unpacked_bytes < 1:
            faults.append(f"--max_unpacked_bytes must be at least 1, got {self.max_unpacked_bytes}")
        _refuse(faults)
        check_configs(self.configs)

    @property
    def models(self) -> Mapping[str, Path]:
        """Model name -> base path, of those that are listed."""
        return {config.name: config.base_path for config in self.configs}


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Everything that a server is started with.

    Attributes:
        network: Where it listens.
        source: What it serves.
        manager: How versions are loaded.
        batching: How requests are merged.
        sequences: How many sequences there may be.
        saved_model: How TensorFlow runs.
        executor: What runs models that say nothing of it themselves, one of `EXECUTORS`.
        warm_up: Whether versions are run before they serve.
        check_method_names: Whether Classify and Regress look at a signature's method name.
        metrics_path: Where REST gives the metrics out; None for nowhere.
        grace_s: How long requests in flight have when it stops.
    """

    network: NetworkOptions
    source: SourceOptions
    manager: ManagerOptions = field(default_factory=ManagerOptions)
    batching: BatchingOptions = field(default_factory=BatchingOptions)
    sequences: SequenceOptions = field(default_factory=SequenceOptions)
    saved_model: SavedModelOptions = field(default_factory=SavedModelOptions)
    executor: str = EXECUTORS[0]
    warm_up: bool = True
    check_method_names: bool = False
    metrics_path: str | None = DEFAULT_METRICS_PATH
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        faults = _beyond("--grace_s", self.grace_s, 0, MAX_WAIT_S)
        if self.metrics_path is not None and (fault := metrics_path_fault(self.metrics_path)):
            faults.append(f"--monitoring_config_file: path {fault}")
        _refuse(faults)


def bounded(faults: Sequence[str]) -> tuple[str, ...]:
    """The first `MAX_FAULTS`, and the number of the others; all where it is one more, which takes no more room."""
    if len(faults) <= MAX_FAULTS + 1:
        return tuple(faults)
    return (*faults[:MAX_FAULTS], f"and {len(faults) - MAX_FAULTS} more")


def metrics_path_fault(path: str) -> str:
    """Why REST can't give metrics out at a path; empty if it can."""
    if not path.startswith("/"):
        return f"must begin with a slash, got {path!r}"
    if _OTHERS_PATHS.fullmatch(path):
        return f"must be another than what REST answers itself: /, /openapi.json, and all below /v1 and /v2; got {path}"
    if not _PLAIN_PATH.fullmatch(path):
        return f"must be parts of letters, digits and .-_~ after slashes, got {path!r}"
    return ""


def _beyond(flag: str, value: float, least: int, most: float) -> list[str]:
    """A fault where a value is out of its bounds."""
    if not value >= least:
        return [f"{flag} must be at least {least}, got {value}"]
    return [f"{flag} must be at most {most:.0f}, got {value}"] if value > most else []


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        raise ConfigInvalid(*faults)
