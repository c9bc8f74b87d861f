"""The table of flags: what can be set, what it is by default, and which of TensorFlow Serving's are not had."""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.manager import ManagerOptions
from fallback_server.core.model_config import EXECUTORS
from fallback_server.sequences.options import SequenceOptions

Value = bool | int | float | str | None

DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"
"""TensorFlow Serving's."""

MAX_MESSAGE_BYTES = 2**31 - 1
"""gRPC frames a message with 32 bits, and its bound is a signed number."""


class Group(enum.Enum):
    """Where a flag stands in the help."""

    MODELS = "Models"
    LOADING = "Loading"
    NETWORK = "Network"
    REST = "REST and metrics"
    BATCHING = "Batching"
    SEQUENCES = "Sequences"
    TENSORFLOW = "TensorFlow"
    PROCESS = "Process"


class Kind(enum.Enum):
    """What a flag's value is; in words."""

    BOOL = "true or false"
    INT = "a whole number"
    FLOAT = "a number"
    TEXT = "a text"
    PATH = "a path"
    LIST = "a list with commas"

    @property
    def type(self) -> type[bool | int | float | str]:
        """The type of its values."""
        return {Kind.BOOL: bool, Kind.INT: int, Kind.FLOAT: float}.get(self, str)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One flag.

    Attributes:
        name: With underscores.
        kind: What its value is.
        default: Its value where it isn't given; None for none, or for one that depends on others.
        help: What it does.
        group: Where it stands in the help.
        metavar: What stands for the value in the help.
        choices: All values that there are; empty for any.
        only: The one value that this server can do, and why; for what TensorFlow Serving can turn off.
        serving: Whether TensorFlow Serving has it, with this meaning.
        in_file: Whether `--config` may give it.
    """

    name: str
    kind: Kind
    default: Value = None
    help: str
    group: Group
    metavar: str = ""
    choices: tuple[str, ...] = ()
    only: tuple[Value, str] | None = None
    serving: bool = False
    in_file: bool = True

    @property
    def shape(self) -> str:
        """What stands for the value in the help."""
        shapes = {Kind.INT: "N", Kind.FLOAT: "X", Kind.TEXT: "TEXT", Kind.PATH: "PATH", Kind.LIST: "A,B"}
        return self.metavar or "|".join(self.choices) or shapes.get(self.kind, "true|false")


_BATCHING = BatchingOptions()
_MANAGER = ManagerOptions()
_SEQUENCES = SequenceOptions()
_CPUS = len(os.sched_getaffinity(0))

_BOOL, _INT, _FLOAT, _TEXT, _PATH, _LIST = Kind

_Row = tuple[str, Kind, Value, str, str]
"""Name, kind, default, what stands for the value in the help, help. A name with a star is TensorFlow Serving's too."""


def _flags(group: Group, *rows: _Row) -> list[Flag]:
    return [
        Flag(
            name=name.lstrip("*"),
            kind=kind,
            default=default,
            metavar=metavar,
            help=text,
            group=group,
            serving=name.startswith("*"),
        )
        for name, kind, default, metavar, text in rows
    ]


_MODELS = _flags(
    Group.MODELS,
    (
        "model_repository",
        _PATH,
        None,
        "DIR",
        "holds NAME/VERSION/ with saved_model.pb, model.tflite, a package, model.py or model.onnx: all are served",
    ),
    ("*model_base_path", _PATH, None, "DIR", "holds VERSION/ with such files of one model"),
    ("*model_name", _TEXT, None, "NAME", "of --model_base_path; 'default' if left out"),
    ("model_version_policy", _TEXT, None, "latest(N)|all|N,N", "which versions of --model_base_path; latest(1)"),
    ("*model_config_file", _PATH, None, "FILE", "the models that are served: a ModelServerConfig as text"),
    (
        "*model_config_file_poll_wait_seconds",
        _FLOAT,
        0.0,
        "",
        "between looks at the file that lists the models; 0: it is read at the start, at SIGHUP and when asked to",
    ),
    ("*file_system_poll_wait_seconds", _FLOAT, 1.0, "", "between looks at the disk for versions; 0: look once"),
    (
        "*allow_version_labels_for_unavailable_models",
        _BOOL,
        False,
        "",
        "lets a label that is new point to a version that is not available yet",
    ),
    ("max_start_wait_s", _FLOAT, 300.0, "", "the server is ready though loads hang, when none has ended for so long"),
    ("unpack_dir", _PATH, None, "DIR", "where archives of versions are unpacked; beside them if left out"),
    ("max_unpacked_bytes", _INT, 2**34, "", "the most that one archive may hold"),
    ("package_repository", _PATH, None, "DIR", "holds NAME/VERSION/manifest.json: packages that devices may fetch"),
)

_LOADING = _flags(
    Group.LOADING,
    ("*num_load_threads", _INT, _MANAGER.num_load_threads, "", "versions that load at a time; 0 is as 1"),
    ("*num_unload_threads", _INT, _MANAGER.num_unload_threads, "", "versions that unload at a time; 0 is as 1"),
    (
        "max_unload_wait_s",
        _FLOAT,
        _MANAGER.max_unload_wait_s,
        "",
        "requests of a version that is to be unloaded are ended when they have run on for so long",
    ),
    ("*max_num_load_retries", _INT, _MANAGER.max_num_load_retries, "", "of a load that failed, while its files stay"),
    (
        "*load_retry_interval_micros",
        _INT,
        int(_MANAGER.load_retry_interval_s * 1e6),
        "",
        "between two attempts to load; below 0 is as 0",
    ),
    (
        "executor",
        _TEXT,
        EXECUTORS[0],
        "",
        "what runs models; auto: what their files say, and of several what is faster",
    ),
    ("*enable_model_warmup", _BOOL, True, "", "runs a version before it serves: on its recorded requests, or on zeros"),
)

_NETWORK = _flags(
    Group.NETWORK,
    ("host", _TEXT, "127.0.0.1", "ADDRESS", "to listen on; 0.0.0.0 for all"),
    ("*port", _INT, 8500, "", "of gRPC; 0 picks a free one"),
    ("*grpc_socket_path", _PATH, None, "PATH", "a UNIX socket for gRPC, beside the port"),
    (
        "transport",
        _TEXT,
        "grpcio",
        "",
        "what speaks gRPC; native: the extra `fast`, without TLS; auto: that where it can",
    ),
    (
        "workers",
        _INT,
        1,
        "",
        "processes that share the port; each answers the models that run in process, and passes other calls on",
    ),
    ("*grpc_max_threads", _INT, max(2, _CPUS), "", "that read and write large messages; one more takes all calls"),
    ("*grpc_channel_arguments", _LIST, None, "KEY=VALUE,...", "given to gRPC, such as grpc.max_connection_age_ms=2000"),
    ("max_message_bytes", _INT, MAX_MESSAGE_BYTES, "", "the largest message that is taken or sent"),
    ("*ssl_config_file", _PATH, None, "FILE", "key and certificate: an SSLConfig as text, with PEM in it"),
    (
        "tls_dir",
        _PATH,
        None,
        "DIR",
        "cert.pem and key.pem, ca.pem by which clients are known, crl.pem: gRPC and REST speak TLS; pki issue makes it",
    ),
    (
        "tls_clients",
        _TEXT,
        None,
        "",
        "whether clients show certificates; if left out, gRPC's must where there is a ca.pem and no token, REST's may",
    ),
    (
        "tls_state_file",
        _PATH,
        None,
        "FILE",
        "where it is kept which list of revoked certificates was in force last; beside crl.pem if left out",
    ),
    ("access_file", _PATH, None, "FILE", "TOML: tokens, names in certificates, and what each may do with which model"),
    ("insecure", _BOOL, False, "", "lets plain text be spoken beyond this machine: everybody may read and change it"),
    (
        "allow_remote_control",
        _BOOL,
        False,
        "",
        "lets callers who show nothing load, unload, label, roll back and configure models",
    ),
    ("allow_package_delivery", _BOOL, True, "", "lets devices fetch the packages of what is served"),
    ("mdns", _BOOL, True, "", "announces the server"),
    ("mdns_interfaces", _LIST, "default", "default|all|NAME,ADDRESS", "that it is announced on"),
    ("server_id", _TEXT, None, "ID", "in the announcement and the catalog; a random one if left out"),
    ("*enable_grpc_healthcheck_service", _BOOL, True, "", "the standard health service"),
    (
        "*enable_serialization_as_tensor_content",
        _BOOL,
        False,
        "",
        "answers to Predict hold their arrays as bytes, in place of typed values such as float_val",
    ),
)

_REST = _flags(
    Group.REST,
    ("*rest_api_port", _INT, None, "", "of REST; 0: none. 8501 if left out, or with --port=0 a free one"),
    ("*rest_api_num_threads", _INT, max(2, _CPUS), "", "that read and write large messages"),
    ("*rest_api_timeout_in_ms", _INT, 30_000, "", "after which a call of REST is given up"),
    ("*rest_api_enable_cors_support", _BOOL, False, "", "lets pages of other origins call"),
    ("*monitoring_config_file", _PATH, None, "FILE", f"MonitoringConfig as text; without, {DEFAULT_METRICS_PATH}"),
)

_BATCHES = _flags(
    Group.BATCHING,
    ("*enable_batching", _BOOL, _BATCHING.enabled, "", "runs waiting requests together"),
    ("*batching_parameters_file", _PATH, None, "FILE", "BatchingParameters as text; the flags below win over it"),
    (
        "*enable_per_model_batching_parameters",
        _BOOL,
        False,
        "",
        "reads batching_params.pbtxt of each version's folder; the threads stay one pool",
    ),
    ("max_batch_size", _INT, _BATCHING.max_batch_size_rows, "ROWS", "that are merged; a larger request runs in pieces"),
    ("allowed_batch_sizes", _LIST, None, "ROWS,ROWS", "batches are padded up to one of these; the last is the largest"),
    (
        "batch_timeout_micros",
        _INT,
        _BATCHING.batch_timeout_us,
        "",
        "how long a request waits for others; 0: while the model is busy",
    ),
    ("max_enqueued_batches", _INT, _BATCHING.max_enqueued_batches, "", "that wait for one signature"),
    ("max_enqueued_bytes", _INT, _BATCHING.max_enqueued_bytes, "", "of input that wait in all queues"),
    ("num_batch_threads", _INT, max(1, _CPUS), "", "batches that run at a time"),
    (
        "enable_large_batch_splitting",
        _BOOL,
        _BATCHING.enable_large_batch_splitting,
        "",
        "without, a request of more rows than a batch runs alone",
    ),
    (
        "pad_variable_length_inputs",
        _BOOL,
        _BATCHING.pad_variable_length_inputs,
        "",
        "merges requests whose variable dimensions differ: the shorter are filled up with their first element",
    ),
    ("allowed_lengths", _LIST, None, "N,N", "those dimensions are filled up to one of these; without, to the longest"),
    (
        "target_latency_ms",
        _FLOAT,
        _BATCHING.target_latency_ms,
        "",
        "that a request may take, from when it came: batches are as large as holds it; 0: as large as may be",
    ),
    (
        "max_gather_us",
        _INT,
        _BATCHING.max_gather_us,
        "",
        "after a batch that the next may begin later, where requests come fast and runs are short; 0: at once, always",
    ),
    (
        "max_inline_us",
        _INT,
        _BATCHING.max_inline_us,
        "",
        "that a run in this process may take for the thread that brings its request to run it; 0: none does",
    ),
    (
        "max_abandoned_run_s",
        _FLOAT,
        _BATCHING.max_abandoned_run_s,
        "",
        "after which a run that nobody waits for, of ten times the usual length, is ended with its process; 0: never",
    ),
)

_STREAMS = _flags(
    Group.SEQUENCES,
    ("max_sequences", _INT, _SEQUENCES.max_sequences, "", "streams of models with a state that may be open"),
    ("max_sequence_bytes", _INT, _SEQUENCES.max_sequence_bytes, "", "of all their states"),
    (
        "sequence_idle_s",
        _FLOAT,
        _SEQUENCES.sequence_idle_s,
        "",
        "after which a stream is ended that sends no step, or takes no answer",
    ),
)

_TENSORFLOW = _flags(
    Group.TENSORFLOW,
    ("*saved_model_tags", _LIST, "serve", "TAG,TAG", "of the graph in a SavedModel that is served"),
    (
        "*enable_signature_method_name_check",
        _BOOL,
        False,
        "",
        "refuses Classify and Regress of signatures that don't say that they are for them",
    ),
    ("*tensorflow_session_parallelism", _INT, 0, "", "threads, for both flags below; 0: TensorFlow chooses"),
    ("*tensorflow_intra_op_parallelism", _INT, 0, "", "threads of one operation; 0: a trial at the load decides"),
    ("*tensorflow_inter_op_parallelism", _INT, 0, "", "operations that run at a time; 0: a trial at the load decides"),
)

_PROCESS = _flags(
    Group.PROCESS,
    ("config", _PATH, None, "FILE", "TOML with any of these flags, and [models.NAME]; the command line wins over it"),
    ("log_level", _TEXT, "info", "", "what is written to stderr"),
    ("grace_s", _FLOAT, 30.0, "", "for requests in flight when the server stops"),
    ("*version", _BOOL, False, "", "prints the version"),
    ("help", _BOOL, False, "", "prints this"),
)

_MORE: dict[str, dict[str, Any]] = {
    "executor": {"choices": EXECUTORS},
    "log_level": {"choices": ("debug", "info", "warning", "error")},
    "tls_clients": {"choices": ("require", "allow", "none")},
    "transport": {"choices": ("grpcio", "native", "auto")},
    "enable_grpc_healthcheck_service": {"only": (True, "health can always be asked for")},
    "config": {"in_file": False},
    "version": {"in_file": False},
    "help": {"in_file": False},
}

_ALL = (_MODELS, _LOADING, _NETWORK, _REST, _BATCHES, _STREAMS, _TENSORFLOW, _PROCESS)

FLAGS: Mapping[str, Flag] = {
    flag.name: dataclasses.replace(flag, **_MORE.get(flag.name, {})) for flags in _ALL for flag in flags
}
"""Every flag of the server, by name."""

_TFLITE = "the faster of SavedModel and model.tflite serves where both answer alike; --executor pins one"
_INTERPRETERS = "each size of a batch has interpreters of its own, as many as there are batch threads"
_GPU = "models run on CPUs here"
_TPU = "there is no TPU here"
_SESSION = "TensorFlow's threads are set by --tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism"

REFUSED: Mapping[str, str] = {
    "enable_profiler": "no profiler runs in the server; see its metrics",
    "flush_filesystem_caches": "models live in processes of their own, and the system drops its cache when it needs to",
    "force_allow_any_version_labels_for_unavailable_models": "a label that answers must not be moved to a version "
    "that doesn't; --allow_version_labels_for_unavailable_models lets new ones wait",
    "mixed_precision": "it changes a model's answers; export the model in the precision that is wanted",
    "num_request_iterations_for_warmup": "each recorded request is run once",
    "num_tflite_interpreters_per_pool": _INTERPRETERS,
    "num_tflite_pools": _INTERPRETERS,
    "per_process_gpu_memory_fraction": _GPU,
    "platform_config_file": "what runs a model follows from its files, and there are flags for what can be set of it",
    "prefer_tflite_model": _TFLITE,
    "remove_unused_fields_from_bundle_metagraph": "the server keeps no graph: its signatures alone",
    "skip_initialize_tpu": _TPU,
    "tensorflow_session_config_file": _SESSION,
    "thread_pool_factory_config_file": _SESSION,
    "use_alts_credentials": "ALTS works on Google's machines alone; --ssl_config_file and --tls_dir set up TLS",
    "use_tflite_model": _TFLITE,
    "xla_cpu_compilation_enabled": "graphs are run as they were exported",
    "xla_gpu_compilation_enabled": _GPU,
}
"""TensorFlow Serving's flags that this server doesn't have, and why."""
