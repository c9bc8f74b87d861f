"""TLS: what the server shows its callers, and what it asks of them."""

from __future__ import annotations

import grpc

from fallback_server.config import TlsFiles


def server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """GRPC's credentials. With `client_verify` callers must show a certificate that the client authority has signed."""
    return grpc.ssl_server_credentials(
        [(tls.key_pem, tls.certificate_pem)], tls.client_ca_pem or None, require_client_auth=tls.client_verify
    )
