import grpc
import pytest

from fallback_server.protocol.status import Fault


def test_every_fault_has_its_own_code():
    """A code stands for one fault, so that the device reads back what the server meant."""
    assert len({fault.code for fault in Fault}) == len(Fault)
    assert all(Fault.of(fault.code) is fault for fault in Fault)


@pytest.mark.parametrize("code", [grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.ABORTED])
def test_other_codes_are_internal(code):
    """A code that is not in the table counts against the endpoint."""
    assert Fault.of(code) is Fault.INTERNAL
