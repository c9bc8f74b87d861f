"""`fallback-server`: flags in, exit code out. Flags are named as TensorFlow Serving names them where it has them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from fallback_server.config import ConfigInvalid, ServerOptions
from fallback_server.flags import Parsed, help_text, parse
from fallback_server.settings import Reading, read

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

PROGRAM = "fallback-server"

_DISTRIBUTION = "edge-runtime"
_EXTRA = (
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


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; or what a subcommand does.

    Args:
        argv: The flags; those of the process when None.

    Returns:
        0 after a stop by signal, and when a subcommand has done its work; 1 when a server that was asked refuses or
        can't be reached; 2 when a flag, a file, a directory or the address is at fault.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = _COMMANDS.get(words[0]) if words else None
    if command is not None:
        return command(words)
    parsed = parse(words)
    if parsed.values.get("help"):
        print(help_text(PROGRAM))
        return EXIT_OK
    if parsed.values.get("version"):
        print(f"{PROGRAM} {_version()}")
        return EXIT_OK
    if words and not words[0].startswith("-"):
        print(f"{PROGRAM}: error: {words[0]!r} is no command; {', '.join(_COMMANDS)} are", file=sys.stderr)
        return EXIT_USAGE
    reading = read(parsed)
    if reading.options is None:
        return _refuse(reading.faults)
    return _serve_until_stopped(reading, reading.options)


def _serve_until_stopped(reading: Reading, options: ServerOptions) -> int:
    if absent := [name for name in _EXTRA if find_spec(name) is None]:
        names = ", ".join(absent)
        return _refuse([f"{names} is not installed; the server is an extra: pip install '{_DISTRIBUTION}[server]'"])
    from fallback_server.transport.grpc_server import PortUnavailable  # noqa: PLC0415  the extra must be there first

    level = reading.settings.text("log_level").upper()
    logging.basicConfig(level=level, format=_LOG_FORMAT, stream=sys.stderr)
    try:
        stopped_whole = asyncio.run(_serve(options))
    except ConfigInvalid as error:
        return _refuse(error.faults)
    except PortUnavailable as error:
        return _refuse([str(error)])
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
    ports = await server.start()
    if await server.wait_ready():
        host = f"[{network.host}]" if ":" in network.host else network.host
        rest = "" if ports.rest is None else f", REST on {host}:{ports.rest}"
        print(f"{PROGRAM} listening on {host}:{ports.grpc} (id {network.server_id}){rest}", flush=True)
    return await server.run_until_stopped()


def _check(words: Sequence[str]) -> int:
    """`check [FILE.toml] [FLAGS]`."""
    from fallback_server.check_command import check  # noqa: PLC0415  only who checks pays for it

    parsed = parse(words[1:])
    if parsed.values.get("help"):
        print(help_text(PROGRAM))
        return EXIT_OK
    if len(parsed.arguments) == 1 and "config" not in parsed.values:
        parsed = Parsed({**parsed.values, "config": parsed.arguments[0]}, (), parsed.faults)
    report = check(read(parsed))
    if report.lines:
        print("\n".join(report.lines))
    return _refuse(report.faults) if report.faults else EXIT_OK


def _operate(words: Sequence[str]) -> int:
    """`status`, `reload`, `label`, `split` and `rollback`."""
    from fallback_server.operator_command import operate  # noqa: PLC0415  gRPC is slow to load

    return operate(words, program=PROGRAM)


_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "check": _check,
    "status": _operate,
    "reload": _operate,
    "label": _operate,
    "split": _operate,
    "rollback": _operate,
}
"""Subcommands; without one the server serves."""


def _refuse(faults: Sequence[str]) -> int:
    for fault in faults:
        print(f"{PROGRAM}: error: {fault}", file=sys.stderr)
    return EXIT_USAGE


def _version() -> str:
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
