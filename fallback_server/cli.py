"""`fallback-server`: flags in, exit code out. Flags are named as TensorFlow Serving names them where it has them."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fallback_server.batching.options import BatchingOptions
from fallback_server.config import DEFAULT_MODEL_NAME, ConfigInvalid, NetworkOptions, ServerOptions, SourceOptions
from fallback_server.core.manager import ManagerOptions
from fallback_server.executors.saved_model import SavedModelOptions
from fallback_server.protocol.mdns import Announcement, AnnouncementInvalid

EXIT_OK, EXIT_USAGE = 0, 2

_DISTRIBUTION = "edge-runtime"
_EXTRA = ("grpc_health", "tensorflow")
"""What the extra `server` brings."""

_LOG_LEVELS = ("debug", "info", "warning", "error")
_LOG_FORMAT = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"
_MICROSECONDS = 1_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT.

    Args:
        argv: The flags; those of the process when None.

    Returns:
        0 after a stop by signal; 2 when a flag, a directory or the address is at fault.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if absent := [name for name in _EXTRA if find_spec(name) is None]:
        print(
            f"{parser.prog}: error: {', '.join(absent)} is not installed; "
            f"the server is an extra: pip install '{_DISTRIBUTION}[server]'",
            file=sys.stderr,
        )
        return EXIT_USAGE
    from fallback_server.transport.grpc_server import PortUnavailable  # noqa: PLC0415  the extra must be there first

    logging.basicConfig(level=arguments.log_level.upper(), format=_LOG_FORMAT, stream=sys.stderr)
    try:
        options = _options(arguments)
        stopped_whole = asyncio.run(_serve(options))
    except (ConfigInvalid, PortUnavailable) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_OK  # It came before the server listened for signals: there was nothing to finish.
    if not stopped_whole:
        # A load or a batch outlasted the grace. Python would end under its thread's feet, which ends in an abort.
        logging.getLogger(__name__).warning("leaving what outlasted the grace")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(EXIT_OK)
    return EXIT_OK


async def _serve(options: ServerOptions) -> bool:
    from fallback_server.app import Server  # noqa: PLC0415  the extra must be there first

    server = Server(options)
    network = options.network
    port = await server.start()
    if await server.wait_ready():
        host = f"[{network.host}]" if ":" in network.host else network.host
        print(f"fallback-server listening on {host}:{port} (id {network.server_id})", flush=True)
    return await server.run_until_stopped()


def _options(arguments: argparse.Namespace) -> ServerOptions:
    """The flags as options; what the option classes refuse is said by the flag's name."""
    if arguments.model_name is not None and arguments.model_base_path is None:
        raise ConfigInvalid("--model_name needs --model_base_path=DIR")
    models = {}
    if arguments.model_base_path is not None:
        name = DEFAULT_MODEL_NAME if arguments.model_name is None else arguments.model_name
        models[name] = arguments.model_base_path
    server_id = {} if arguments.server_id is None else {"server_id": arguments.server_id}
    try:
        if arguments.server_id is not None:
            Announcement(server_id=arguments.server_id)
        return ServerOptions(
            network=NetworkOptions(host=arguments.host, port=arguments.port, mdns=arguments.mdns, **server_id),
            source=SourceOptions(
                repository=arguments.model_repository,
                models=models,
                poll_wait_s=arguments.file_system_poll_wait_seconds,
            ),
            manager=ManagerOptions(
                num_load_threads=arguments.num_load_threads,
                num_unload_threads=arguments.num_unload_threads,
                max_num_load_retries=arguments.max_num_load_retries,
                load_retry_interval_s=arguments.load_retry_interval_micros / _MICROSECONDS,
            ),
            batching=BatchingOptions(
                enabled=arguments.enable_batching,
                max_batch_size_rows=arguments.max_batch_size,
                batch_timeout_us=arguments.batch_timeout_micros,
                max_enqueued_batches=arguments.max_enqueued_batches,
                max_enqueued_bytes=arguments.max_enqueued_bytes,
                num_batch_threads=arguments.num_batch_threads,
            ),
            saved_model=SavedModelOptions(
                intra_op_parallelism=arguments.tensorflow_intra_op_parallelism,
                inter_op_parallelism=arguments.tensorflow_inter_op_parallelism,
            ),
            grace_s=arguments.grace_s,
        )
    except AnnouncementInvalid as error:
        raise ConfigInvalid(f"--server_id: {error}") from error
    except ConfigInvalid:
        raise
    except ValueError as error:
        raise ConfigInvalid(_as_flag(str(error))) from error


class _Switch(argparse.BooleanOptionalAction):
    """`--x`, `--no-x`, and as TensorFlow Serving writes it, `--x=true` and `--x=false`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.nargs = "?"
        self.metavar = "true|false"

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        if values is not None and (option_string.startswith("--no-") or values not in ("true", "false")):
            raise argparse.ArgumentError(self, f"expected true or false, or no value, got {values!r}")
        super().__call__(parser, namespace, [], option_string)
        if values == "false":
            setattr(namespace, self.dest, False)


_FLAGS = {
    "max_batch_size_rows": "max_batch_size",
    "batch_timeout_us": "batch_timeout_micros",
    "load_retry_interval_s": "load_retry_interval_micros / 1000000",
    "intra_op_parallelism": "tensorflow_intra_op_parallelism",
    "inter_op_parallelism": "tensorflow_inter_op_parallelism",
}
"""Options whose flags have another name; the others have the same."""


def _as_flag(message: str) -> str:
    """An option class's refusal begins with the option's name."""
    name, _, rest = message.partition(" ")
    return f"--{_FLAGS.get(name, name)} {rest}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fallback-server",
        description="Serves SavedModels over TensorFlow Serving's gRPC API, and announces itself by mDNS.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    parser.add_argument("--log_level", choices=_LOG_LEVELS, default="info", help="what is written to stderr")
    _add_models(parser.add_argument_group("models"))
    _add_network(parser.add_argument_group("network"))
    _add_batching(parser.add_argument_group("batching"))
    return parser


def _add_models(group: argparse._ArgumentGroup) -> None:
    defaults = ManagerOptions()
    group.add_argument("--model_repository", type=Path, metavar="DIR", help="holds NAME/VERSION/saved_model.pb")
    group.add_argument("--model_base_path", type=Path, metavar="DIR", help="holds VERSION/saved_model.pb of one model")
    group.add_argument("--model_name", metavar="NAME", help=f"of --model_base_path; {DEFAULT_MODEL_NAME!r} if left out")
    group.add_argument(
        "--file_system_poll_wait_seconds", type=float, default=1.0, help="between looks at the disk; 0: look once"
    )
    group.add_argument(
        "--num_load_threads", type=int, default=defaults.num_load_threads, help="versions that load at a time"
    )
    group.add_argument(
        "--num_unload_threads", type=int, default=defaults.num_unload_threads, help="versions that unload at a time"
    )
    group.add_argument(
        "--max_num_load_retries", type=int, default=defaults.max_num_load_retries, help="of a load that failed"
    )
    group.add_argument(
        "--load_retry_interval_micros",
        type=int,
        default=int(defaults.load_retry_interval_s * _MICROSECONDS),
        help="between two attempts to load",
    )
    group.add_argument("--tensorflow_intra_op_parallelism", type=int, default=0, help="threads; 0: TensorFlow chooses")
    group.add_argument("--tensorflow_inter_op_parallelism", type=int, default=0, help="threads; 0: TensorFlow chooses")


def _add_network(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    group.add_argument("--port", type=int, default=8500, help="0 picks a free one")
    group.add_argument("--mdns", action=_Switch, default=True, help="announce the server")
    group.add_argument("--server_id", help="in the announcement; a random one if left out")
    group.add_argument("--grace_s", type=float, default=30.0, help="for requests in flight when the server stops")


def _add_batching(group: argparse._ArgumentGroup) -> None:
    defaults = BatchingOptions()
    group.add_argument("--enable_batching", action=_Switch, default=True, help="run waiting requests together")
    group.add_argument(
        "--max_batch_size", type=int, default=defaults.max_batch_size_rows, help="rows; a larger request runs alone"
    )
    group.add_argument(
        "--batch_timeout_micros",
        type=int,
        default=defaults.batch_timeout_us,
        help="how long a request waits for others; 0: while all batch threads are busy",
    )
    group.add_argument(
        "--max_enqueued_batches", type=int, default=defaults.max_enqueued_batches, help="that wait for one signature"
    )
    group.add_argument(
        "--max_enqueued_bytes", type=int, default=defaults.max_enqueued_bytes, help="of input that wait in all queues"
    )
    group.add_argument(
        "--num_batch_threads", type=int, default=os.cpu_count() or defaults.num_batch_threads, help="batches at a time"
    )


def _version() -> str:
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
