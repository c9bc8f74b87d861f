"""A device whose accelerator, disk and descriptors fail under load: every request is answered right or told in time."""

import contextlib
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest
from support import edge_delegates
from support.edge_models import publish_scale
from support.fault_load import PATIENT_S, Load
from support.fault_scenes import device, places
from support.limits import fill, small_disk

from converter.artifact import Package
from edge_runtime.installing.install import install

pytestmark = pytest.mark.slow

TOLD = {"DeadlineExceeded", "EngineFailed", "EngineLost", "Overloaded"}

ACCELERATOR = {
    "fails": {"fail_every": 2},
    "fails for good": {"fail_every": 1},
    "slow": {"delay_ms": 300},
    "stalls": {"stall_every": 3, "stall_ms": 600},
    "hangs": {"hang_at": 3},
    "aborts": {"abort_every": 5},
    "crashes": {"segfault_at": 2},
}


class Accelerator:
    """A library whose faults begin and end with a file, and what answers with it."""

    def __init__(self, path, *standing_by, **faults):
        self.armed = path / "armed"
        self.stick = path / "stick"
        self.stick.touch()
        library = edge_delegates.device(
            edge_delegates.build(path), when_file=self.armed, vanish_file=self.stick, **faults
        )
        self.runtime = device(
            path, None, 1, delegates=(library, *standing_by), policy="prefer_device", watchdog_min_s=0.5
        )
        self.seen = []
        self.ask = places(self.runtime.model("lite", version=1), self.seen)

    def answers(self, since_s):
        """Whether the library has answered since an instant."""
        return any(place != "device:cpu" for came_s, place in list(self.seen) if came_s >= since_s)


@pytest.fixture
def accelerator(tmp_path):
    """Makes one, and closes it."""
    with contextlib.ExitStack() as ends:

        def make(*standing_by, **faults):
            made = Accelerator(tmp_path, *standing_by, **faults)
            ends.enter_context(made.runtime)
            return made

        yield make


def fails_for(fault_s, made, begin, end, seed, *, alone):
    """Asks before a fault, while it lasts, and until the accelerator answers again."""
    deadlines_s = (0.2, 2.0) if alone else PATIENT_S
    with Load(made.ask, seed, version=1, deadlines_s=deadlines_s) as load:
        load.await_answers(20, place=lambda: made.answers(0))
        begin()
        time.sleep(fault_s)
        end()
        over_s = time.monotonic()
        load.back(lambda: made.answers(over_s))
        assert set(load.stop().refused) <= (TOLD if alone else set())


@pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler")
@pytest.mark.parametrize("faults", ACCELERATOR.values(), ids=ACCELERATOR)
@pytest.mark.parametrize("standing_by", [("cpu",), ()], ids=["beside the CPU", "alone"])
def test_an_accelerator_that_fails_for_a_while(accelerator, fault_seed, fault_s, faults, standing_by):
    """With a CPU beside it no request is told of it; alone each is by name. It answers again within five seconds."""
    made = accelerator(*standing_by, **faults)
    fails_for(fault_s, made, made.armed.touch, made.armed.unlink, fault_seed, alone=not standing_by)


@pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler")
@pytest.mark.parametrize("standing_by", [("cpu",), ()], ids=["beside the CPU", "alone"])
def test_an_accelerator_that_vanishes_and_returns(accelerator, fault_seed, fault_s, standing_by):
    """No run and no new worker finds it; plugged in again it answers within five seconds."""
    made = accelerator(*standing_by)
    fails_for(fault_s, made, made.stick.unlink, made.stick.touch, fault_seed, alone=not standing_by)


@pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler")
def test_an_accelerator_that_refuses_leaves_the_cpu_to_answer_all(accelerator, fault_seed):
    """From the first request on."""
    made = accelerator("cpu", refuse=1)
    with Load(made.ask, fault_seed, version=1, deadlines_s=PATIENT_S) as load:
        load.await_answers()
        assert not made.answers(0)
        assert not load.stop().refused


def package(path, version):
    """What is to be installed."""
    publish_scale(path / "packages", version, float(version), model="lite")
    return path / "packages" / "lite" / str(version)


def versions(load, since_s=0.0):
    return {getattr(one, "version", None) for _, one in load.ledger.since(since_s)}


def test_a_store_on_a_disk_that_is_full(tmp_path, fault_seed, fault_s):
    """The installed version answers, an install is refused in words; with room it succeeds, and is answered by."""
    with small_disk(tmp_path / "store", 80 * 2**20) as store, device(tmp_path, None, 1) as runtime:
        with Load(places(runtime.model("lite"), []), fault_seed, deadlines_s=PATIENT_S) as load:
            load.await_answers()
            filler = fill(store)
            with pytest.raises((OSError, ValueError, RuntimeError), match=r"room|space|free"):
                install(package(tmp_path, 2), store)
            time.sleep(fault_s)
            assert versions(load) == {1}
            filler.unlink()
            install(
                package(tmp_path, 2) if not (tmp_path / "packages").exists() else tmp_path / "packages/lite/2", store
            )
            freed_s = time.monotonic()
            load.back(lambda: 2 in versions(load, freed_s))
            assert not load.stop().refused
        assert Package.open(store / "lite" / "2").manifest.version == 2


def test_a_store_that_can_only_be_read(tmp_path, fault_seed, fault_s):
    """A runtime opens it and answers; an install is refused in words; writable again, it succeeds."""
    with small_disk(tmp_path / "store", 80 * 2**20) as store:
        device(tmp_path, None, 1).close()
        made = package(tmp_path, 2)
        remount(store, "ro")
        with (
            device(tmp_path, None) as runtime,
            Load(places(runtime.model("lite"), []), fault_seed, deadlines_s=PATIENT_S) as load,
        ):
            load.await_answers()
            with pytest.raises(OSError, match="Read-only"):
                install(made, store)
            time.sleep(fault_s)
            remount(store, "rw")
            install(made, store)
            there_s = time.monotonic()
            load.back(lambda: 2 in versions(load, there_s))
            assert not load.stop().refused


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def exhausted():
    """Takes all descriptors that this process may have, until what it gives is called."""
    limits, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    used = max(int(one.name) for one in Path("/proc/self/fd").iterdir()) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, limits[1]))
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))

    def end():
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        while held:
            os.close(held.pop())

    return end


def test_no_descriptor_is_left(tmp_path, fault_seed, fault_s):
    """Requests are answered on; a version that comes meanwhile is passed over, and taken when there are some again."""
    with (
        device(tmp_path, None, 1) as runtime,
        Load(places(runtime.model("lite"), []), fault_seed, deadlines_s=PATIENT_S) as load,
        contextlib.ExitStack() as ends,
    ):
        load.await_answers()
        made = package(tmp_path, 2)
        ends.callback(end := exhausted())
        made.rename(tmp_path / "store" / "lite" / "2")
        time.sleep(max(fault_s, 1.5))
        load.await_answers()
        assert versions(load) == {1}
        end()
        over_s = time.monotonic()
        # One that could not be loaded is looked at again a minute later.
        load.await_answers(10, 70.0, lambda: 2 in versions(load, over_s))
        assert not load.stop().refused
