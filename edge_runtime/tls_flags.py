"""The options of TLS on command lines that ask servers. Loads nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_runtime.tls_options import ROLE_NAME, TlsOptions

_FILES = {
    "ca": "trust servers whose certificate these authorities have signed; PEM, as fallback-server pki makes it",
    "crl": "but none that is on this list of revoked certificates; PEM",
    "certificate": "show servers this certificate; PEM",
    "key": "the certificate's key; PEM",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds them."""
    group = parser.add_argument_group("who is trusted (without, plain text is spoken, with this machine alone)")
    for name, said in _FILES.items():
        group.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=said)
    group.add_argument(
        "--tls-pin",
        action="append",
        default=[],
        metavar="SHA256",
        help="trust the server with this certificate, whoever has signed it; may be repeated",
    )
    group.add_argument(
        "--tls-server-name",
        metavar="NAME",
        help=f"what a certificate must be for, '' for the address's host (default: {ROLE_NAME})",
    )
    group.add_argument("--token-file", type=Path, metavar="FILE", help="show servers this token")
    group.add_argument("--insecure", action="store_true", help="speak plain text with anybody")


def tls_of(arguments: argparse.Namespace) -> TlsOptions | None:
    """What they say of TLS; None for nothing.

    Raises:
        InvalidConfig: they don't go together.
    """
    given: dict[str, Any] = {name: getattr(arguments, f"tls_{name}") for name in _FILES}
    given |= {"token_file": arguments.token_file, "server_name": arguments.tls_server_name}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.tls_pin:
        given["pins"] = tuple(arguments.tls_pin)
    return TlsOptions(**given) if given else None


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `RuntimeOptions` that they set.

    Raises:
        InvalidConfig: they don't go together.
    """
    tls = tls_of(arguments)
    found: dict[str, Any] = {} if tls is None else {"tls": tls}
    return {**found, "insecure": True} if arguments.insecure else found
