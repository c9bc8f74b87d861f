"""Versions that hang, fail, grow or are damaged as they come, disks that are full or gone: others are served on."""

import os
import shutil
import time

import pytest
from support.fallback_archives import write
from support.fault_load import PATIENT_S, Load
from support.fault_servers import fault_server
from support.ledger import Answered
from support.limits import fill, little_memory, small_disk
from support.worker_servers import wait_for

pytestmark = pytest.mark.slow

MB = 2**20

TOLD = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND", "INTERNAL"}
"""By whom a model's process is lost: INTERNAL where its own run ended it."""


@pytest.fixture
def server(tmp_path):
    with fault_server(tmp_path, own=True) as running:
        yield running


def versions(load, since_s=0.0):
    """Which have answered."""
    return {one.version for _, one in load.ledger.since(since_s) if isinstance(one, Answered)}


def state(server, version, wanted, model="own"):
    """Waits until a version is in that state; what is said of it."""

    def said():
        found, error = server.states(model).get(version, ("", ""))
        return found == wanted and (error or found)

    return wait_for(said)


@pytest.mark.parametrize("fault", ["hang", "fail"])
def test_a_version_that_does_not_load_leaves_the_one_before_it(server, fault_seed, fault_s, fault):
    """The latest is version 1 until the fault is over, and version 2 within five seconds of that; no request fails."""
    (server.faults / f"{fault}-2").touch()
    with Load(server.ask("own"), fault_seed, deadlines_s=PATIENT_S) as load:
        load.await_answers()
        server.publish(2, "own")
        said = state(server, 2, "LOADING" if fault == "hang" else "END")
        assert "the test wants it so" in said or fault == "hang"
        time.sleep(fault_s)
        assert versions(load) == {1}
        (server.faults / f"{fault}-2").unlink()
        ended_s = time.monotonic()
        load.back(lambda: 2 in versions(load, ended_s))
        assert not load.stop().refused


def test_a_version_that_hangs_as_it_loads_keeps_no_other_model_from_loading(server, fault_seed):
    """Another one's new version is there, and the server ends in time though it hangs."""
    (server.faults / "hang-2").touch()
    with Load(server.ask("lite"), fault_seed, deadlines_s=PATIENT_S) as load:
        server.publish(2, "own")
        state(server, 2, "LOADING")
        server.publish(2)
        began_s = time.monotonic()
        load.back(lambda: 2 in versions(load, began_s))
        assert not load.stop().refused
    server.server.terminate()
    assert server.server.wait() == 0


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "folder", "link"])
def test_a_damaged_version_leaves_the_one_before_it(server, fault_seed, draw, damage):
    """It is told by its state with a reason; mended, it is served within five seconds."""
    with Load(server.ask("lite"), fault_seed, deadlines_s=PATIENT_S) as load:
        load.await_answers()
        server.publish(7, "aside")
        whole = (server.repository / "aside" / "7" / "model.tflite").read_bytes()
        shutil.rmtree(server.repository / "aside")
        made = server.repository / ".made"
        made.mkdir()
        file = made / "model.tflite"
        if damage == "cut":
            file.write_bytes(whole[: draw.randrange(1, len(whole) - 8)])
        elif damage == "noise":
            file.write_bytes(draw.randbytes(len(whole)))
        elif damage == "empty":
            file.touch()
        elif damage == "folder":
            file.mkdir()
        else:
            file.symlink_to(server.repository / "nowhere")
        made.rename(server.repository / "lite" / "7")
        time.sleep(0.5)
        seen = server.states("lite").get(7)
        assert seen is None or seen[0] in {"START", "LOADING", "END"}
        load.await_answers()
        assert versions(load) == {1}
        file = server.repository / "lite" / "7" / "model.tflite"
        shutil.rmtree(file) if damage == "folder" else file.unlink()
        (server.repository / "lite" / "7" / ".model").write_bytes(whole)
        mended_s = time.monotonic()
        (server.repository / "lite" / "7" / ".model").rename(file)
        load.back(lambda: 7 in versions(load, mended_s))
        assert not load.stop().refused


def test_a_base_path_that_is_gone_for_a_while(server, fault_seed, fault_s):
    """What was served is served on, or its clients are told; within five seconds of its return it is served as ever."""
    aside = server.path / "aside"
    with Load(server.ask("lite"), fault_seed, deadlines_s=PATIENT_S) as load:
        load.await_answers()
        server.repository.rename(aside)
        time.sleep(max(fault_s, 0.5))
        aside.rename(server.repository)
        load.back()
        assert set(load.stop().refused) <= {"NOT_FOUND", "UNAVAILABLE"}


def test_a_disk_that_is_full_as_an_archive_is_unpacked(tmp_path, fault_seed, fault_s):
    """The version is told of it, the one before answers, nothing is left behind, and with room again it is served."""
    with (
        small_disk(tmp_path / "small", 80 * MB) as small,
        fault_server(tmp_path, f"--unpack_dir={small}") as server,
        Load(server.ask("lite"), fault_seed, deadlines_s=PATIENT_S) as load,
    ):
        load.await_answers()
        filler = fill(small)
        server.publish(2, "aside")
        whole = (server.repository / "aside" / "2" / "model.tflite").read_bytes()
        archive = write(tmp_path / "made.tar.gz", {"2/model.tflite": whole, "2/assets/large": os.urandom(MB)})
        archive.rename(server.repository / "lite" / "2.tar.gz")
        said = wait_for(lambda: server.states("lite").get(2, ("", ""))[1])
        assert "are needed for" in said, said
        time.sleep(fault_s)
        assert versions(load) == {1}
        filler.unlink()
        freed_s = time.monotonic()
        load.back(lambda: 2 in versions(load, freed_s))
        assert not load.stop().refused


def test_a_version_that_wants_more_memory_than_there_is_is_ended_alone(server, fault_seed):
    """The kernel ends its process as it loads: the version before it answers, and whoever runs in the server's own.

    The kernel may end another model's process too, before the memory of the first is free; never the server.
    """
    with (
        little_memory() as memory,
        Load(server.ask("own"), fault_seed, also=("INTERNAL",), deadlines_s=PATIENT_S) as load,
        Load(server.ask(), fault_seed, deadlines_s=PATIENT_S) as lite,
    ):
        for process in (server.server.process, *server.processes("")):
            memory.take(process.pid)
        load.await_answers()
        lite.await_answers()
        (server.faults / "grow-2").touch()
        memory.bound(300 * MB)
        server.publish(2, "own")
        said = state(server, 2, "END")
        assert "process ended" in said, said
        load.await_answers()
        assert versions(load) == {1}
        (server.faults / "grow-2").unlink()
        ended_s = time.monotonic()
        load.back(lambda: 2 in versions(load, ended_s))
        assert set(load.stop().refused) <= TOLD
        assert not lite.stop().refused


def test_a_model_that_leaks_is_ended_and_comes_back_alone(server, fault_seed):
    """The kernel ends its process in a request, which is told; another model's clients see nothing of it."""
    with (
        little_memory() as memory,
        Load(server.ask("own"), fault_seed, also=("INTERNAL",)) as load,
        Load(server.ask(), fault_seed, deadlines_s=PATIENT_S) as lite,
    ):
        for process in (server.server.process, *server.processes("")):
            memory.take(process.pid)
        load.await_answers()
        (first,) = (process.pid for process in server.processes("own/1"))
        memory.bound(300 * MB)
        (server.faults / "leak").touch()
        wait_for(lambda: first not in {process.pid for process in server.processes("own/1")})
        (server.faults / "leak").unlink()
        load.back()
        assert set(load.stop().refused) <= TOLD
        assert not lite.stop().refused
