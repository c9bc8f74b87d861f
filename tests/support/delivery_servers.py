"""A fallback server over real folders that hands out packages, and answers `x * version` without TensorFlow.

Its control, source, data plane and gRPC server are real; what it loads is a fake executor.
"""

import asyncio
import contextlib
import threading

import grpc
from support.edge_models import WIDTH, publish_scale
from support.fallback_fakes import FakeExecutor, GatedLoader

from fallback_server.batching.options import BatchingOptions
from fallback_server.control import Control
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.source import FileSystemSource
from fallback_server.dataplane import DataPlane
from fallback_server.package_info import IN_VERSION, read_package
from fallback_server.package_shelf import Shelf
from fallback_server.protocol.proto import tensor_pb2
from fallback_server.served_model import ServedModel
from fallback_server.transport.grpc_server import GrpcServer

WAIT_S = 30


def add_version(root, version, *, model="scale", package=True, inside=IN_VERSION):
    """A SavedModel's folder, as far as a source looks, with the package of `x * version` in it."""
    folder = root / model / str(version)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"x")
    if package:
        made = publish_scale(root.with_name(f"{root.name}-published"), version, float(version), model=model)
        place = folder / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        for path in sorted(made.path.rglob("*")):
            if path.is_file():
                target = place / path.relative_to(made.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    return folder


class DeliveringServer:
    """In an event loop of its own thread. `look` has it look at the disk, and waits for what it loads."""

    def __init__(self, root, *, packages=None, allowed=True, port=0):
        root.mkdir(exist_ok=True)
        self.manager = Manager(make_loader=self._make_loader, options=ManagerOptions(num_load_threads=2))
        self.control = Control(
            manager=self.manager,
            source=FileSystemSource(repository=root, wall_clock=lambda: 4e9),
            repository=root,
        )
        self.shelf = Shelf(self.control, packages)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="delivering", daemon=True)
        self._thread.start()
        self.look()
        self.port = self.run(self._start(self.shelf if allowed else None, port))
        self.address = f"127.0.0.1:{self.port}"

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)

    def look(self):
        self.control.set_aspired(self.control.poll().aspired)
        assert self.control.wait_idle(timeout_s=WAIT_S)

    def close(self):
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()
        assert self.manager.stop(timeout_s=WAIT_S)

    async def _start(self, shelf, port):
        options = BatchingOptions()
        self.plane = DataPlane(versions=self.control, options=options, clock=asyncio.get_running_loop().time)
        self.plane.scheduler.start()
        self.server = GrpcServer(self.plane, self.control, server_id="s1", packages=shelf)
        bound = await self.server.start(host="127.0.0.1", port=port)
        await self.server.set_serving(serving=True)
        return bound

    async def _stop(self):
        await self.server.stop(grace_s=0)
        self.plane.scheduler.stop(timeout_s=5)

    def _make_loader(self, servable_id, path, _on_lost):
        executor = FakeExecutor(factor=float(servable_id.version), shape=(-1, WIDTH))
        executor.signature_defs = _signature_defs()
        loader = GatedLoader(ServedModel(servable_id, executor, BatchingOptions(), read_package(path)))
        loader.gate.set()
        return loader


def _signature_defs():
    shape = tensor_pb2.TensorShapeProto(dim=[{"size": -1}, {"size": WIDTH}])
    info = tensor_pb2.TensorInfo(name="t", dtype=tensor_pb2.DT_FLOAT, tensor_shape=shape)
    found = tensor_pb2.SignatureDefMap()
    found.signature_def["serving_default"].inputs["x"].CopyFrom(info)
    found.signature_def["serving_default"].outputs["y"].CopyFrom(info)
    return found.SerializeToString()


@contextlib.contextmanager
def delivering(root, **options):
    """A DeliveringServer for the length of a `with`."""
    server = DeliveringServer(root, **options)
    try:
        yield server
    finally:
        server.close()


def call(address, method, request, *, timeout_s=WAIT_S):
    """The answer to a call, a list where it streams."""
    with grpc.insecure_channel(address) as channel:
        make = channel.unary_stream if method.streams_responses else channel.unary_unary
        answer = make(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )(request, timeout=timeout_s)
        return list(answer) if method.streams_responses else answer


def refusal(address, method, request):
    """The code and the text with which a call ends."""
    try:
        call(address, method, request)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""
