"""What a trial's child may hold, and that it is told as memory."""

import os

import pytest
from support.edge_models import publish_scale

from edge_runtime import EngineFailed
from edge_runtime.installing.first_run import try_package
from edge_runtime.trial import ask_child
from edge_runtime.trial_memory import available_bytes, own_bytes

MIB = 2**20


def test_what_a_machine_tells_of_its_memory(tmp_path):
    """Nine tenths of what is available; nothing where it says nothing, and of who is gone."""
    said = tmp_path / "meminfo"
    said.write_text("MemTotal: 4000 kB\nMemAvailable: 1000 kB\n")
    assert available_bytes(said) == 921_600
    assert available_bytes(tmp_path / "no") is None
    assert own_bytes(os.getpid()) > MIB
    assert own_bytes(2**30) == 0


@pytest.mark.slow
def test_a_child_that_takes_too_much_memory_is_ended(tmp_path):
    """It is nobody's crash, and the package is refused with the bound."""
    answer = ask_child("cpu", limit_bytes=MIB)
    assert (answer.failure, answer.from_outside) == ("refused", True)
    assert "needs more than 1 MiB to run" in answer.error
    assert not ask_child("cpu", limit_bytes=2048 * MIB).failure
    with pytest.raises(EngineFailed, match="is not installed: needs more than 2 MiB to run"):
        try_package(publish_scale(tmp_path, 1, 1.0), limit_bytes=2 * MIB)
