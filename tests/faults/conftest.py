"""For the suite of faults."""

import random

import pytest
from support.bystanders import serve


@pytest.fixture
def draw(fault_seed):
    """What draws: when a fault begins, and the like."""
    return random.Random(fault_seed)


@pytest.fixture(scope="module", params=["grpcio", "native"])
def server(request, tmp_path_factory):
    """One that clients do harm to, by whichever transport speaks gRPC; REST is the same beside both."""
    served = serve(tmp_path_factory.mktemp("harmed"), f"--transport={request.param}")
    served.transport = request.param
    yield served
    served.close()


@pytest.fixture
def fault_s(request):
    """How long a fault lasts, in seconds, where that makes a difference."""
    return request.config.getoption("--fault-seconds")
