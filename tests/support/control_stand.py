"""A control over real folders and fake loaders, polled by the test."""

import contextlib

from support.clock import FakeClock
from support.fallback_fakes import FakeExecutor, GatedLoader
from support.fallback_stages import soon

from fallback_server.control import Control
from fallback_server.core.archive import Unpacker
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.model_config import ModelConfig, PolicyKind, VersionPolicy
from fallback_server.core.servable import State
from fallback_server.core.source import FileSystemSource
from fallback_server.core.target import ModelTarget

ALL = VersionPolicy(kind=PolicyKind.ALL)
AVAILABLE, START, END = State.AVAILABLE, State.START, State.END


def specific(*versions):
    return VersionPolicy(kind=PolicyKind.SPECIFIC, versions=versions)


class Server:
    """A control over real folders and fake loaders; polled by the test."""

    def __init__(self, tmp_path, *configs, folders=("m/1", "m/2", "m/3"), **options):
        self.root = tmp_path
        self.clock = FakeClock()
        self.gates = {}
        self.draws = iter([])
        for folder in folders:
            self.add(folder)
        unpacker = Unpacker(unpack_dir=options.pop("unpack_dir", None))
        self.manager = Manager(
            make_loader=self.make_loader,
            options=ManagerOptions(num_load_threads=4),
            clock=self.clock,
            prepare=unpacker.prepare,
        )
        repository = options.get("repository")
        source = FileSystemSource(configs=configs, repository=repository, wall_clock=lambda: 4e9, packed=unpacker)
        self.control = Control(
            manager=self.manager,
            source=source,
            configs=configs,
            clock=self.clock,
            draw=lambda: next(self.draws),
            **options,
        )

    def add(self, folder):
        (self.root / folder).mkdir(parents=True)
        (self.root / folder / "saved_model.pb").write_bytes(b"x")

    def make_loader(self, servable_id, path, on_lost):
        loader = GatedLoader(FakeExecutor(factor=servable_id.version))
        gate = self.gates.get(servable_id.version)
        loader.gate = gate or loader.gate
        if gate is None:
            loader.gate.set()
        return loader

    def poll(self, *, settle=True):
        self.control.set_aspired(self.control.poll().aspired)
        if settle:
            assert self.control.wait_idle(timeout_s=30)
            soon(lambda: all(state.state in (AVAILABLE, END, START) for state in self.control.index()))

    def version(self, name="m", key=b"", **target):
        with self.control.acquire(ModelTarget(name=name, **target), key) as handle:
            return handle.servable_id.version

    def states(self, name="m", **target):
        states = self.control.states(ModelTarget(name=name, **target))
        return {state.servable_id.version: state.state for state in states}


def config(tmp_path, name="m", policy=ALL, **options):
    return ModelConfig(name=name, base_path=tmp_path / name, version_policy=policy, **options)


@contextlib.contextmanager
def serving(tmp_path):
    """Makes servers; they are stopped at the end."""
    servers = []

    def make(*configs, **options):
        servers.append(Server(tmp_path, *configs, **options))
        servers[-1].poll()
        return servers[-1]

    yield make
    for server in servers:
        for gate in server.gates.values():
            gate.set()
        server.manager.stop(timeout_s=10)
