"""`fallback-server token add|list|remove`: bearer tokens in a file of access rules. Synchronous."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from fallback_server.access.file import add_token, read_access, remove_token
from fallback_server.access.rules import EVERYTHING, Grants, Scope
from fallback_server.access.tokens import digest_of, new_token
from fallback_server.config import ConfigInvalid

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_EPILOG = """\
examples:
  {prog} add --file access.toml line-3 --predict 'press-*' --status
  {prog} add --file access.toml release --admin
  {prog} list --file access.toml
  {prog} remove --file access.toml line-3

A scope without a pattern is for all models. The token itself is printed once: the file holds its SHA-256.
exit code: 0 done; 1 the file can't be written; 2 the command line or the file is at fault"""


def token(words: Sequence[str], *, program: str) -> int:
    """Runs one command; prints its result, or one line of why not.

    Args:
        words: `token`, the command, and what follows it.
        program: How it is called.

    Returns:
        0; 1 when the file can't be written; 2 when the command line or the file is at fault.
    """
    try:
        parsed = _parser(f"{program} token").parse_args(list(words[1:]))
    except SystemExit as end:  # argparse has told why.
        return EXIT_USAGE if end.code else EXIT_OK
    try:
        for line in _done(parsed):
            print(line)  # noqa: T201  a command's output is its product
    except ConfigInvalid as error:
        for fault in error.faults:
            print(f"{program}: error: {fault}", file=sys.stderr)  # noqa: T201  likewise
        return EXIT_USAGE
    except OSError as error:
        print(f"{program}: error: {error}", file=sys.stderr)  # noqa: T201  likewise
        return EXIT_FAILED
    return EXIT_OK


def _done(parsed: argparse.Namespace) -> Iterator[str]:
    if parsed.command == "add":
        grants = Grants(**{scope.value: _patterns(getattr(parsed, scope.value)) for scope in Scope})
        if grants == Grants():
            raise ConfigInvalid("a token that allows nothing is of no use: give --predict, --status or --admin")
        made = new_token()
        add_token(parsed.file, parsed.name, digest_of(made), grants)
        yield made
    elif parsed.command == "remove":
        remove_token(parsed.file, parsed.name)
        yield f"{parsed.name} is removed; servers refuse it within two seconds or so"
    else:
        for each in sorted(read_access(parsed.file).tokens.values(), key=lambda each: each.name):
            scopes = (f"{scope.value}={','.join(each.grants.patterns(scope))}" for scope in Scope)
            yield "  ".join([each.name, *(text for text in scopes if not text.endswith("="))])


def _patterns(given: list[str | None] | None) -> tuple[str, ...]:
    """What follows a scope's flag, which may be repeated, and stand alone for all models."""
    if given is None:
        return ()
    return EVERYTHING if None in given else tuple(each for each in given if each is not None)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Bearer tokens of clients that have no certificate.",
        epilog=_EPILOG.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="add|list|remove")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.add_argument("--file", type=Path, required=True, metavar="FILE", help="the access rules, TOML")
        return made

    add = command("add", "makes a token, prints it, and writes its digest into the file")
    add.add_argument("name", metavar="NAME")
    for scope, text in (("predict", "may run"), ("status", "may see"), ("admin", "may change")):
        add.add_argument(
            f"--{scope}",
            action="append",
            nargs="?",
            metavar="MODELS",
            help=f"{text} these models, of which a star stands for any; may be repeated; without a value: all",
        )
    command("list", "shows whose tokens there are, and what each allows")
    command("remove", "takes a token out of the file").add_argument("name", metavar="NAME")
    return parser
