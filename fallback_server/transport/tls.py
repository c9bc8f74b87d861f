"""TLS as gRPC and REST speak it: what is shown to callers, and asked of them, and new files without a restart."""

from __future__ import annotations

import ssl
from typing import Any, Self

import grpc

from fallback_server.config import TlsFiles
from fallback_server.tls_files import NONE, check_tls, server_context


class TlsKeeper:
    """What TLS is spoken with at the moment. Connections that were made before go on with what they have. Thread-safe.

    Args:
        files: At the start. Whether gRPC's callers must show certificates stays as these say.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files

    @property
    def files(self) -> TlsFiles:
        """What is in force."""
        return self._files

    def take(self, files: TlsFiles, where: str) -> None:
        """From the next connection on these are in force.

        Args:
            files: Others.
            where: They come from, for messages.

        Raises:
            ConfigInvalid: TLS can't be spoken with them; what was, stays.
        """
        check_tls(files, where)
        self._files = files

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For one port of gRPC's server."""
        given = self._files

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """As gRPC asks before each handshake; None for no change."""
            nonlocal given
            if given is self._files:
                return None
            given = self._files
            return _grpc_configuration(given)

        # The stubs know nothing of None, which gRPC's documentation does.
        fetches: Any = fetch
        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(given), fetches, require_client_authentication=given.client_verify
        )

    def context(self) -> ssl.SSLContext:
        """For asyncio's servers, REST's."""
        return _Current(self)


class _Current(ssl.SSLContext):
    """The context of the moment, whenever a connection asks: asyncio asks by this one method."""

    _keeper: TlsKeeper
    _made_of: TlsFiles | None = None
    _made: ssl.SSLContext

    def __new__(cls, keeper: TlsKeeper) -> Self:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made._keeper = keeper
        return made

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """As asyncio calls it for each connection."""
        files = self._keeper.files
        if self._made_of is not files:
            self._made = server_context(files, files.rest_clients or NONE)
            self._made_of = files
        return self._made.wrap_bio(*arguments, **options)


def _grpc_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    ca = files.client_ca_pem if files.client_verify else None
    return grpc.ssl_server_certificate_configuration([(files.key_pem, files.certificate_pem)], ca)
