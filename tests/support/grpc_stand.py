"""A gRPC server on loopback over a real data plane and manager, with a fake executor and a fake control."""

import asyncio
import contextlib
import threading
from types import SimpleNamespace

import grpc
from support.fallback_fakes import FakeExecutor, GatedLoader

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.errors import InvalidInput, LabelRefused, ModelNotFound, PreconditionFailed
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.model_config import Shadow
from fallback_server.core.rollback import Move, Rollback
from fallback_server.core.routes import Hold
from fallback_server.core.servable import ServableId, State
from fallback_server.core.source import AspiredVersion
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DataPlane
from fallback_server.protocol.methods import PREDICT
from fallback_server.served_model import ServedModel
from fallback_server.transport.grpc_server import GrpcServer

OPTIONS = BatchingOptions(
    max_batch_size_rows=1, max_enqueued_batches=1, num_batch_threads=1, enable_large_batch_splitting=False
)


NATIVE = False
"""Whether the servers here are native ones; set by the fixture `transport`."""


class FakeControl:
    """What a server asks of its control, over one model `m`: labels are kept, orders noted, changes told."""

    def __init__(self, manager, path):
        self.manager = manager
        self.path = path
        self.labels = {}
        self.orders = []
        self.lacks = {}
        self.who = ""
        self.figures = SimpleNamespace(queued_rows=0, expected_wait_ms=0.0)
        self.watchers = []
        self.standing_still = False

    def acquire(self, target, client_key=b""):
        self.orders.append(("acquire", client_key))
        if target.label is not None and target.label not in self.labels:
            raise InvalidInput(f"Unrecognized servable version label: {target.label}")
        version = self.labels[target.label] if target.label is not None else target.version
        return self.manager.acquire(target.name, version)

    def standing(self, target):
        if target.label is not None or not self.standing_still:
            return None
        moves = self.manager.moves
        with self.manager.acquire(target.name, target.version) as handle:
            return self.manager.standing(handle, moves=moves)

    def shadow(self, name, answered):
        return None

    def states(self, target):
        states = self.manager.states(target.name)
        if target.version is not None:
            states = tuple(state for state in states if state.servable_id.version == target.version)
        if not states:
            raise ModelNotFound(f"Could not find any versions of model {target.name}")
        return states

    def index(self):
        return self.manager.states("m")

    def catalog(self):
        versions = []
        for state in self.manager.states("m"):
            servable = None
            if state.state is State.AVAILABLE:
                servable = SimpleNamespace(
                    queued_rows=lambda: self.figures.queued_rows,
                    expected_wait_ms=lambda: self.figures.expected_wait_ms,
                    package=SimpleNamespace(fingerprint="f1", preprocessing_fingerprint="p1"),
                    choice=SimpleNamespace(kind="litert", why="LiteRT serves"),
                )
            versions.append(SimpleNamespace(state=state, servable=servable))
        return (
            SimpleNamespace(
                name="m",
                versions=versions,
                labels=dict(self.labels),
                default_version=1,
                traffic={},
                hold=Hold(version=1, above=2),
                shadow=Shadow(version=2, share=0.5),
                waiting_labels={"next": 9},
                note=self.lack("m"),
            ),
        )

    def configure(self, configs, *, who=""):
        self.who = who
        self.orders.append(("configure", tuple(configs)))

    def wait_configured(self, *, timeout_s):
        return True

    def configs(self):
        return ()

    def lack(self, name):
        return self.lacks.get(name, "")

    def wanted(self):
        return ("m",)

    def reload(self, *, who=""):
        self.orders.append(("reload",))
        return ("m", "n")

    def set_label(self, name, label, version, *, who=""):
        if version is not None and version != 1:
            raise LabelRefused(f"Request to assign label to version {version} of model {name}")
        previous = self.labels.pop(label, 0)
        if version is not None:
            self.labels[label] = version
        self.changed()
        return previous

    def set_traffic(self, name, traffic, *, who=""):
        self.orders.append(("split", name, traffic))
        return Move(label="", before={2: 1.0}, after={1: 0.25, 2: 0.75})

    def rollback(self, name, label="", *, undo=False, who=""):
        if name != "m":
            raise PreconditionFailed(f"model {name} has no lower version")
        self.orders.append(("rollback", label, undo))
        moves = (Move(label=label, before={2: 1.0}, after={1: 1.0}),)
        return Rollback(from_version=2, to_version=1, label=label, moves=moves)

    def load(self, name, *, who=""):
        self.orders.append(("load", name))

    def unload(self, name, *, who=""):
        self.orders.append(("unload", name))

    def watch(self, on_change):
        self.watchers.append(on_change)
        return lambda: self.watchers.remove(on_change)

    def changed(self):
        for watcher in tuple(self.watchers):
            watcher()


class Stand:
    """A server over one executor, whose load waits for `loader.gate`."""

    def __init__(self, executor, path, *, batching=OPTIONS, **options):
        self.executor = executor
        self.loader = GatedLoader(ServedModel(ServableId("m", 1), executor, batching))
        self.manager = Manager(make_loader=lambda *_: self.loader, options=ManagerOptions(max_num_load_retries=0))
        self.control = FakeControl(self.manager, path)
        self.plane = DataPlane(versions=self.control, options=batching, clock=asyncio.get_running_loop().time)
        self.server = GrpcServer(self.plane, self.control, **{"server_id": "s1", "native": NATIVE, **options})
        self.manager.set_aspired({ServableId("m", 1): AspiredVersion(path=path, fingerprint=())})

    def load(self):
        self.loader.gate.set()
        assert self.manager.wait_idle(timeout_s=10)
        self.control.changed()

    def unary(self, method):
        return self.channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )


@contextlib.asynccontextmanager
async def standing(executor, path, **options):
    """A server that listens; its model is loaded by `load`."""
    stand = Stand(executor, path, **options)
    port = await stand.server.start(host="127.0.0.1", port=0)
    stand.plane.scheduler.start()
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{port}", options=(("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    ) as channel:
        stand.channel, stand.port = channel, port
        stand.predict = stand.unary(PREDICT)
        yield stand
    await stand.server.stop(grace_s=1)
    assert stand.plane.scheduler.stop(timeout_s=5)
    stand.loader.gate.set()
    assert stand.manager.stop(timeout_s=5)


@contextlib.asynccontextmanager
async def loaded(executor=None, path=None, **options):
    """As `standing`, with the model loaded and the server serving."""
    async with standing(executor or FakeExecutor(factor=2), path, **options) as stand:
        await asyncio.to_thread(stand.load)
        await stand.server.set_serving(serving=True)
        yield stand


class SlowExecutor(FakeExecutor):
    """Waits for `gate` at each run."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.values = []

    def run(self, name, inputs):
        self.values.append(float(inputs["x"][0, 0]))
        self.entered.set()
        assert self.gate.wait(20)
        return super().run(name, inputs)


async def code_of(awaitable):
    """The code and the text of a call; OK and nothing where it is answered."""
    try:
        await awaitable
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def target(name="m"):
    return ModelTarget(name=name)
