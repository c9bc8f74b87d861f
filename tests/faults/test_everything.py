"""Any sequence of faults, of a device and servers: right version or refusal, nothing lost, and service comes back."""

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support import edge_delegates
from support.edge_models import publish_scale
from support.fault_load import Load
from support.fault_scenes import device, places
from support.fault_servers import FaultServer
from support.faulty_line import Faults, FaultyLine

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not edge_delegates.COMPILER, reason="needs a C compiler")]

TOLD = {"DeadlineExceeded", "EngineFailed", "EngineLost", "Overloaded", "ServerFailed", "VersionNotAvailable"}

MAX_QUEUED = 32

AFAR = "afar"
"""A model that only servers have."""

LINE = st.builds(
    Faults,
    delay_s=st.sampled_from((0.0, 0.05)),
    loss=st.sampled_from((0.0, 0.2)),
    reset=st.sampled_from((0.0, 0.05)),
    bytes_s=st.sampled_from((0.0, 8000.0)),
    silent=st.booleans(),
    deaf=st.booleans(),
    closed=st.booleans(),
)


class Everything(RuleBasedStateMachine):
    """A device with an accelerator and versions, two servers of which one is behind a bad line; all of them asked."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="faults-")
        path = Path(self._folder.name)
        self.armed = path / "armed"
        for name in ("near", "far"):
            (path / name).mkdir()
        self.near, self.far = FaultServer(path / "near", "--workers=2"), FaultServer(path / "far")
        for server in (self.near, self.far):
            server.publish(1, AFAR)
        self.line = FaultyLine(self.far.address)
        self.store = path / "store"
        library = edge_delegates.device(edge_delegates.build(path), when_file=self.armed, abort_every=4)
        publish_scale(self.store, 1, 1.0, model="lite")
        self.runtime = device(
            path,
            (self.near.address, self.line.address),
            delegates=(library, "cpu"),
            policy="prefer_device",
            max_queued_requests=MAX_QUEUED,
            poll_interval_s=0.1,
        )
        self.newest = 1
        self.alive = {"near": True, "far": True}
        draw = random.Random(0)
        # Who takes any version, who pins one that is installed, and who asks for what only servers have.
        self.loads = [
            Load(places(self.runtime.model("lite"), []), draw.random(), threads=3, pause_s=0.05),
            Load(places(self.runtime.model("lite", version=1), []), draw.random(), version=1, threads=2, pause_s=0.05),
            Load(places(self.runtime.model(AFAR), []), draw.random(), threads=2, pause_s=0.05),
        ]
        for load in self.loads:
            load.__enter__()

    def server(self, name: str) -> FaultServer:
        return self.near if name == "near" else self.far

    @rule(name=st.sampled_from(("near", "far")))
    def kill(self, name):
        self.server(name).server.kill()
        self.alive[name] = False

    @rule(name=st.sampled_from(("near", "far")))
    def stop(self, name):
        self.server(name).server.terminate()
        self.alive[name] = False

    @precondition(lambda self: not all(self.alive.values()))
    @rule()
    def restart(self):
        for name, alive in self.alive.items():
            if not alive:
                self.server(name).server.process.wait()
                self.server(name).start()
                self.alive[name] = True

    @precondition(lambda self: self.alive["near"])
    @rule()
    def kill_a_worker(self):
        for worker in self.near.processes("fallback_server.workers.worker_main")[:1]:
            worker.kill()

    @rule(faults=LINE)
    def spoil_the_line(self, faults):
        self.line.faults = faults

    @rule()
    def mend_the_line(self):
        self.line.faults = Faults()

    @rule()
    def reset_the_line(self):
        self.line.reset()

    @rule()
    def break_the_accelerator(self):
        self.armed.touch()

    @rule()
    def mend_the_accelerator(self):
        self.armed.unlink(missing_ok=True)

    @rule(where=st.sampled_from(("near", "far", "device")), damaged=st.booleans())
    def publish(self, where, damaged):
        self.newest += 1
        if where == "device":
            content = b"no model" if damaged else None
            publish_scale(self.store, self.newest, float(self.newest), model="lite", content=content)
        elif damaged:
            folder = self.server(where).repository / AFAR / str(self.newest)
            folder.mkdir()
            (folder / "model.tflite").write_bytes(b"no model")
        else:
            self.server(where).publish(self.newest, AFAR)

    @rule(answers=st.integers(1, 30))
    def go_on(self, answers):
        """For a while: until so many more have been told something, whatever it is."""
        self.loads[0].go_on(answers)

    @invariant()
    def queues_are_bounded(self):
        for model in self.runtime.stats().models:
            assert model.queue is None or model.queue.queued <= MAX_QUEUED

    def teardown(self):
        try:
            self.armed.unlink(missing_ok=True)
            self.line.faults = Faults()
            self.restart()
            for load in self.loads:
                load.back()
            for load in self.loads:
                assert set(load.stop().refused) <= TOLD
        finally:
            for load in self.loads:
                load.__exit__()
            self.runtime.close()
            self.line.close()
            for server in (self.near, self.far):
                server.close()
            self._folder.cleanup()


def test_any_sequence_of_faults(fault_seed, fault_s):
    """Each request is answered by the version that it says, or told by name; then all are answered within seconds."""
    run_state_machine_as_test(
        seed(fault_seed)(Everything),
        settings=settings(
            max_examples=max(int(4 * fault_s), 1),
            stateful_step_count=20,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # What processes do is not done again alike: nothing is to be made smaller.
            suppress_health_check=list(HealthCheck),
        ),
    )
