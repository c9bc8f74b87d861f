"""For tests of both transports: `pytestmark = pytest.mark.usefixtures("transport")` runs a module over each of them."""

import pytest
from support import grpc_stand
from support.complete import require

from fallback_server.transport.native.choice import installed
from fallback_server.transport.sequence_service import SequenceService


@pytest.fixture(params=["grpcio", "native"])
def transport(request, monkeypatch):
    """What speaks gRPC at the stands of this test."""
    native = request.param == "native"
    require(not native or installed(), "the extra `fast`")
    monkeypatch.setattr(grpc_stand, "NATIVE", native)
    return request.param


@pytest.fixture
def fast():
    """For tests that need the native server."""
    require(installed(), "the extra `fast`")


@pytest.fixture
def services(monkeypatch):
    """The services of sequences that were made, for their figures."""
    made = []
    before = SequenceService.__init__

    def remember(self, *arguments, **options):
        before(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(SequenceService, "__init__", remember)
    return made
