"""`fallback-server pki init|issue|revoke|list`: a site's own certificates. Synchronous."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fallback_server.pki.folder import Issued, PkiFolder

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

_EPILOG = """\
examples:
  {prog} init --dir pki --name "Plant 4"
  {prog} issue --dir pki server edge-gpu-1 --host 10.0.0.5 --host edge-gpu-1.local
  {prog} issue --dir pki device press-7
  {prog} revoke --dir pki press-7
  {prog} list --dir pki

exit code: 0 done; 1 the folder can't be written; 2 the command line, or what it names, is at fault"""


def pki(words: Sequence[str], *, program: str) -> int:
    """Runs one command; prints its result, or one line of why not.

    Args:
        words: `pki`, the command, and what follows it.
        program: How it is called.

    Returns:
        0; 1 when files can't be read or written; 2 when the command line, or what it names, is at fault.
    """
    try:
        parsed = _parser(f"{program} pki").parse_args(list(words[1:]))
    except SystemExit as end:  # argparse has told why.
        return EXIT_USAGE if end.code else EXIT_OK
    if find_spec("cryptography") is None:
        return _complain(program, "cryptography is not installed; pip install 'edge-runtime[server]'", EXIT_USAGE)
    from fallback_server.pki.folder import PkiFolder, PkiRefused  # noqa: PLC0415  of the extra `server`

    try:
        for line in _done(PkiFolder(parsed.dir), parsed):
            print(line)  # noqa: T201  a command's output is its product
    except PkiRefused as error:
        return _complain(program, str(error), EXIT_USAGE)
    except OSError as error:
        return _complain(program, str(error), EXIT_FAILED)
    return EXIT_OK


def _done(folder: PkiFolder, parsed: argparse.Namespace) -> Iterator[str]:
    if parsed.command == "init":
        yield f"{folder.init(parsed.name, days=parsed.days)}: clients and servers trust what this has signed"
    elif parsed.command == "issue":
        made = folder.issue(parsed.kind, parsed.name, hosts=parsed.host, days=parsed.days)
        yield f"{made}: cert.pem, key.pem, ca.pem, crl.pem"
    elif parsed.command == "revoke":
        revoked = folder.revoke(parsed.name)
        if not revoked:
            yield f"{parsed.name}: nothing that holds is left to revoke"
        for each in revoked:
            yield f"{parsed.name}: {each.kind}, number {each.serial:x}, is revoked"
        yield "crl.pem is written anew everywhere below; copy it to servers and devices on other machines"
    else:
        yield from _table(folder.issued())


def _table(issued: Sequence[Issued]) -> Iterator[str]:
    rows = [("NAME", "KIND", "NUMBER", "UNTIL", "REVOKED")]
    rows += [
        (
            each.name,
            each.kind,
            f"{each.serial:x}",
            f"{each.until:%Y-%m-%d}",
            "-" if each.revoked is None else f"{each.revoked:%Y-%m-%d}",
        )
        for each in issued
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Makes a small certificate authority, and certificates for servers and devices.",
        epilog=_EPILOG.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="init|issue|revoke|list")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the authority's folder")
        return made

    init = command("init", "makes the authority; its key stays in the folder")
    init.add_argument("--name", required=True, help="of the site, as people read it")
    init.add_argument("--days", type=int, default=3650, help="how long it lasts (default: %(default)s)")
    issue = command("issue", "makes a key and a certificate, or new ones for a name that has some")
    issue.add_argument("kind", choices=("server", "device"))
    issue.add_argument("name", metavar="NAME")
    issue.add_argument(
        "--host", action="append", default=[], metavar="HOST", help="a name or address of the server; may be repeated"
    )
    issue.add_argument("--days", type=int, default=397, help="how long it lasts (default: %(default)s)")
    command(
        "revoke", "has who gets the new crl.pem, servers and devices, refuse every certificate of a name"
    ).add_argument("name", metavar="NAME")
    command("list", "shows what was issued")
    return parser


def _complain(program: str, text: str, code: int) -> int:
    print(f"{program}: error: {text}", file=sys.stderr)  # noqa: T201  likewise
    return code
