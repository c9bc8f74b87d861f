"""What a trial's child may hold, and that it is told as memory."""

import os

import pytest
from support.edge_models import publish_scale

from converter.process_memory import first_run_bytes
from edge_runtime import EngineFailed
from edge_runtime.installing.first_run import try_package
from edge_runtime.trial import ask_child
from edge_runtime.trial_memory import FIRST_RUN_BYTES, available_bytes, limit_bytes, own_bytes

MIB = 2**20


def test_what_a_machine_tells_of_its_memory(tmp_path):
    """Nine tenths of what is available; nothing where it says nothing, and of who is gone."""
    said = tmp_path / "meminfo"
    said.write_text("MemTotal: 4000 kB\nMemAvailable: 1000 kB\n")
    assert available_bytes(said) == 921_600
    assert available_bytes(tmp_path / "no") is None
    assert own_bytes(os.getpid()) > MIB
    assert own_bytes(2**30) == 0


def test_a_first_run_may_hold_what_suits_its_files(tmp_path):
    """A small file has 2 GiB, a large one eight times its size beside, none more than there is; as in wrapping."""
    said = tmp_path / "meminfo"
    said.write_text(f"MemAvailable: {100 * 2**20} kB\n")
    assert limit_bytes(2000, said) == FIRST_RUN_BYTES + 16_000
    assert limit_bytes(400 * MIB, said) == FIRST_RUN_BYTES + 3200 * MIB
    said.write_text("MemAvailable: 1000 kB\n")
    assert limit_bytes(2000, said) == 921_600
    assert limit_bytes(2000, tmp_path / "no") is None
    # The machine that runs this may have less than 2 GiB to give, and then the two look at different instants.
    if (available := available_bytes()) is not None and available > 2 * FIRST_RUN_BYTES:
        assert first_run_bytes(2000) == limit_bytes(2000)


@pytest.mark.slow
def test_a_child_that_takes_too_much_memory_is_ended(tmp_path):
    """It is nobody's crash, and the package is refused with the bound."""
    answer = ask_child("cpu", limit_bytes=MIB)
    assert (answer.failure, answer.from_outside) == ("refused", True)
    assert "needs more than 1 MiB to run" in answer.error
    assert not ask_child("cpu", limit_bytes=2048 * MIB).failure
    with pytest.raises(
        EngineFailed, match=r"is not installed: needs more than 2 MiB to run: it had .* suits its files"
    ):
        try_package(publish_scale(tmp_path, 1, 1.0), limit_bytes=2 * MIB)
