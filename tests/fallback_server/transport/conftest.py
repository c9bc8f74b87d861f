"""For tests of both transports: `pytestmark = pytest.mark.usefixtures("transport")` runs a module over each of them."""

import pytest
from support import grpc_stand

from fallback_server.transport.native.choice import installed


@pytest.fixture(params=["grpcio", "native"])
def transport(request, monkeypatch):
    """What speaks gRPC at the stands of this test."""
    native = request.param == "native"
    if native and not installed():
        pytest.skip("the extra `fast` is not installed")
    monkeypatch.setattr(grpc_stand, "NATIVE", native)
    return request.param
