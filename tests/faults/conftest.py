"""For the suite of faults."""

import random

import pytest


@pytest.fixture
def draw(fault_seed):
    """What draws: when a fault begins, and the like."""
    return random.Random(fault_seed)


@pytest.fixture
def fault_s(request):
    """How long a fault lasts, in seconds, where that makes a difference."""
    return request.config.getoption("--fault-seconds")
