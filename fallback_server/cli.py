"""`fallback-server`: flags in, exit code out. Flags are named as TensorFlow Serving names them where it has them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from fallback_server.signals import Signals

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

PROGRAM = "fallback-server"


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
    with Signals(PROGRAM) as signals:
        # Only now, so that a signal which comes during these imports is heard.
        from fallback_server.serve_command import serve  # noqa: PLC0415

        return serve(words, signals, program=PROGRAM, commands=tuple(_COMMANDS))


def _check(words: Sequence[str]) -> int:
    """`check [FILE.toml] [FLAGS]`."""
    from fallback_server.check_command import check  # noqa: PLC0415  only who checks pays for it
    from fallback_server.flags import Parsed, help_text, parse  # noqa: PLC0415
    from fallback_server.settings import read  # noqa: PLC0415

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


def _pki(words: Sequence[str]) -> int:
    """`pki init|issue|revoke|list`."""
    from fallback_server.pki_command import pki  # noqa: PLC0415  only who asks for it pays for it

    return pki(words, program=PROGRAM)


def _token(words: Sequence[str]) -> int:
    """`token add|list|remove`."""
    from fallback_server.token_command import token  # noqa: PLC0415  likewise

    return token(words, program=PROGRAM)


_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "check": _check,
    "status": _operate,
    "reload": _operate,
    "label": _operate,
    "split": _operate,
    "rollback": _operate,
    "pki": _pki,
    "token": _token,
}
"""Subcommands; without one the server serves."""


def _refuse(faults: Sequence[str]) -> int:
    for fault in faults:
        print(f"{PROGRAM}: error: {fault}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
