import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import edge_delegates
from support.devices_roots import FakeRoot
from support.edge_models import publish_scale, rows

from edge_runtime import DeadlineExceeded, EngineFailed, PackageRefused, Runtime
from edge_runtime.config import read_options
from edge_runtime.crew.device import cores
from edge_runtime.profiles import EngineProfile

QUIET = {"poll_interval_s": 3600.0}
LIMIT_S = 30.0


@pytest.fixture
def store(tmp_path):
    publish_scale(tmp_path / "store", 1, 2.0)
    return tmp_path / "store"


def until(holds):
    end_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end_s
        threading.Event().wait(0.01)


def crew_of(runtime):
    (loaded,) = runtime._versions.all()
    return loaded.crew


def test_interpreters_are_added_while_requests_wait_and_no_more_than_cores(store):
    """Under pressure the CPU gets one interpreter after another, up to one a core, and all of them answer."""
    with Runtime.open(store, **QUIET) as runtime:
        model = runtime.model("scale")
        crew = crew_of(runtime)
        assert len(crew.batcher.slots) == 1
        for _ in range(cores() + 2):
            crew._on_pressure()
            until(lambda: not any(station.growing for station in crew._roster.all()))
        assert len(crew.batcher.slots) == cores()
        for start in range(20):
            np.testing.assert_array_equal(model.predict(rows(1, start)).outputs["y"], rows(1, start) * 2)


def test_given_engines_are_made_at_once_and_stay(store):
    """`engines` is a number, not a limit: so many are there after loading, and pressure adds none."""
    with Runtime.open(store, engines=3, threads=1, **QUIET) as runtime:
        runtime.model("scale")
        crew = crew_of(runtime)
        crew._on_pressure()
        assert len(crew.batcher.slots) == 3
        assert not any(station.growing for station in crew._roster.all())


def test_what_was_measured_decides_threads_at_the_next_start(store):
    """Times that lie beside the package are believed: the number of threads that they favour is taken."""
    with Runtime.open(store, **QUIET) as runtime:
        runtime.model("scale")
        (loaded,) = runtime._versions.all()
        station = crew_of(runtime)._roster.all()[0]
        many = crew_of(runtime)._layout.threads[-1]
        for threads in crew_of(runtime)._layout.threads:
            key = loaded.opener.key(station.devices, station.variant, threads)
            seconds = 0.004 if threads == many else 0.008
            loaded.opener._book.write(key, EngineProfile(seconds={1: seconds}, tried=(1, 2, 4, 8)))
    with Runtime.open(store, **QUIET) as runtime:
        assert runtime.model("scale").engines[0].threads == many
        assert crew_of(runtime).batcher.costs.sizes == (1,)


def test_nothing_that_runs_is_an_error_that_says_all_reasons(store):
    """Where no device that was named can run a version, the error has each one's reason."""
    with (
        Runtime.open(store, delegates=["edgetpu", "external:/nowhere/lib.so"], **QUIET) as runtime,
        pytest.raises(EngineFailed, match=r"edgetpu: no variant for an Edge TPU.*external:/nowhere/lib\.so: "),
    ):
        runtime.model("scale")


def test_a_damaged_package_is_refused_as_such(store):
    """With one device only, its own error is raised: a damaged file is the package's fault."""
    publish_scale(store, 2, 3.0, content=b"no model")
    with Runtime.open(store, delegates=["cpu"], **QUIET) as runtime, pytest.raises(EngineFailed, match="scale/2"):
        runtime.model("scale", version=2)
    (file,) = (store / "scale" / "1" / "variants").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with Runtime.open(store, delegates=["cpu"], **QUIET) as runtime, pytest.raises(PackageRefused):
        runtime.model("scale", version=1)


@pytest.mark.slow
def test_isolated_cpu_that_is_killed_is_replaced(store):
    """With `isolation="process"` the CPU's worker may be killed: requests wait for the new one, within deadlines."""
    with Runtime.open(store, isolation="process", delegates=["cpu"], threads=1, **QUIET) as runtime:
        model = runtime.model("scale")
        assert model.predict(rows(1)).place == "device:cpu"
        (slot,) = crew_of(runtime).batcher.slots
        os.kill(slot.engine._session._worker.pid, 9)
        with pytest.raises(DeadlineExceeded):
            model.predict(rows(1), deadline_ms=20)
        with ThreadPoolExecutor(4) as threads:
            replies = list(threads.map(lambda start: model.predict(rows(1, start)), range(8)))
        for start, reply in enumerate(replies):
            np.testing.assert_array_equal(reply.outputs["y"], rows(1, start) * 2)
        assert model.engines[0].state == "ready"
        assert runtime.stats().models[0].engines[0].faults.crashed == 1


@pytest.mark.slow
def test_requests_end_when_the_only_device_does_not_come_back(store, tmp_path):
    """Requests that wait for a device are told when it is given up for now, and at closing."""
    stick = tmp_path / "stick"
    stick.touch()
    library = edge_delegates.build(tmp_path)
    device = edge_delegates.device(library, vanish_file=stick)
    options = read_options(store, {"delegates": [device], "threads": 1, **QUIET})
    with Runtime(options) as runtime:
        model = runtime.model("scale")
        assert model.predict(rows(1)).place == f"device:{device}"
        stick.unlink()
        for _ in range(3):
            with pytest.raises(EngineFailed):
                model.predict(rows(1))
        until(lambda: model.engines[0].state == "unhealthy")
        with ThreadPoolExecutor(4) as threads:
            waiting = [threads.submit(model.predict, rows(1)) for _ in range(4)]
            for one in waiting:
                with pytest.raises(EngineFailed):
                    one.result(LIMIT_S)
        stick.touch()
        until(lambda: model.engines[0].state == "ready")
        np.testing.assert_array_equal(model.predict(rows(1)).outputs["y"], rows(1) * 2)


def test_sizes_that_are_not_wanted_are_not_formed_whatever_was_measured(store):
    """What lies beside the package never adds a batch size, and lacks none that is wanted: it is measured then."""
    for sizes in [(1, 2), (1,), (1, 4)]:
        with Runtime.open(store, batch_sizes=sizes, threads=1, **QUIET) as runtime:
            runtime.model("scale")
            (slot,) = crew_of(runtime).batcher.slots
            assert set(slot.costs._seconds) == set(sizes)


def test_another_governor_has_the_cpu_measured_anew(store, tmp_path):
    """When the clock governor is changed under a running application, its interpreters are measured again."""
    root = FakeRoot(tmp_path / "root")
    governor = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    root.write("proc/cpuinfo", "processor\t: 0\n")
    root.write(governor, "powersave\n")
    with Runtime(read_options(store, {"delegates": ["cpu"], **QUIET}), root=root.path) as runtime:
        model = runtime.model("scale")
        before = crew_of(runtime).batcher.slots
        runtime._versions._look_at_host(again=True)
        assert crew_of(runtime).batcher.slots == before
        root.write(governor, "performance\n")
        runtime._versions._look_at_host(again=True)
        after = crew_of(runtime).batcher.slots
        assert after
        assert not set(after) & set(before)
        np.testing.assert_array_equal(model.predict(rows(1)).outputs["y"], rows(1) * 2)
    text = (store / "scale" / "1.profile.json").read_text()
    assert "powersave" in text
    assert "performance" in text


@pytest.mark.slow
def test_a_forked_child_is_refused_and_harms_nothing(store):
    """After a fork the child's requests that need a thread or a worker are refused at once, and the parent goes on."""
    with Runtime.open(store, isolation="process", delegates=["cpu"], threads=1, **QUIET) as runtime:
        model = runtime.model("scale")
        model.predict(rows(1))
        child = os.fork()
        if child == 0:
            try:
                with runtime:
                    model.predict(rows(1))
            except EngineFailed as error:
                os._exit(7 if "after the fork" in str(error) else 8)
            finally:
                os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        np.testing.assert_array_equal(model.predict(rows(1, 5)).outputs["y"], rows(1, 5) * 2)
