"""`fallback-server`, without a command: serves until a signal. What it imports takes a moment."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from fallback_server.config import ConfigInvalid, ServerOptions
from fallback_server.flags import help_text, parse
from fallback_server.settings import Reading, read
from fallback_server.signals import Signals

EXIT_OK, EXIT_USAGE = 0, 2

_DISTRIBUTION = "edge-runtime"
_EXTRA = (
    "cryptography",
    "grpc_health",
    "grpc_reflection",
    "orjson",
    "prometheus_client",
    "starlette",
    "tensorflow",
    "uvicorn",
    "zstandard",
)
"""What the extra `server` brings."""

_LOG_FORMAT = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"


def serve(words: Sequence[str], signals: Signals, *, program: str, commands: Sequence[str]) -> int:
    """Serves until SIGTERM or SIGINT; or prints help or version.

    Args:
        words: The flags.
        signals: Those of the process.
        program: The command's name, for messages.
        commands: What may stand in place of flags.

    Returns:
        0 after a stop by signal; 2 when a flag, a file, a directory or the address is at fault.
    """
    parsed = parse(words)
    if parsed.values.get("help"):
        print(help_text(program))  # noqa: T201  a command's output is its product
        return EXIT_OK
    if parsed.values.get("version"):
        print(f"{program} {_version()}")  # noqa: T201  likewise
        return EXIT_OK
    if words and not words[0].startswith("-"):
        return _refuse(program, [f"{words[0]!r} is no command; {', '.join(commands)} are"])
    reading = read(parsed)
    if reading.options is None:
        return _refuse(program, reading.faults)
    return _serve_until_stopped(reading, reading.options, signals, program)


def _serve_until_stopped(reading: Reading, options: ServerOptions, signals: Signals, program: str) -> int:
    if absent := [name for name in _EXTRA if find_spec(name) is None]:
        names, extra = ", ".join(absent), f"pip install '{_DISTRIBUTION}[server]'"
        return _refuse(program, [f"{names} is not installed; the server is an extra: {extra}"])
    # gRPC would write a line for each handshake that fails, as many as anybody likes.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from fallback_server.executors.worker.priority import wake_soon  # noqa: PLC0415  as the others, once it is sure
    from fallback_server.transport.grpc_server import PortUnavailable  # noqa: PLC0415  the extra must be there first
    from fallback_server.transport.serving_loop import ServingLoop  # noqa: PLC0415  likewise

    level = reading.settings.text("log_level").upper()
    logging.basicConfig(level=level, format=_LOG_FORMAT, stream=sys.stderr)
    wake_soon()
    try:
        with asyncio.Runner(loop_factory=ServingLoop) as runner:
            stopped_whole = runner.run(_serve(options, signals, program))
    except ConfigInvalid as error:
        return _refuse(program, error.faults)
    except PortUnavailable as error:
        return _refuse(program, [str(error)])
    if not stopped_whole:
        # A load or a batch outlasted the grace. Python would end under its thread's feet, which ends in an abort.
        logging.getLogger(__name__).warning("leaving what outlasted the grace")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(EXIT_OK)
    return EXIT_OK


async def _serve(options: ServerOptions, signals: Signals, program: str) -> bool:
    from fallback_server.app import Server  # noqa: PLC0415  the extra must be there first

    server = Server(options, signals)
    network = options.network
    try:
        ports = await server.start()
        if await server.wait_ready():
            host = f"[{network.host}]" if ":" in network.host else network.host
            rest = "" if ports.rest is None else f", REST on {host}:{ports.rest}"
            line = f"{program} listening on {host}:{ports.grpc} (id {network.server_id}){rest}"
            print(line, flush=True)  # noqa: T201  likewise
        return await server.run_until_stopped()
    finally:
        signals.pass_over()


def _refuse(program: str, faults: Sequence[str]) -> int:
    for fault in faults:
        print(f"{program}: error: {fault}", file=sys.stderr)  # noqa: T201  likewise
    return EXIT_USAGE


def _version() -> str:
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
