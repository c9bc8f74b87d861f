"""A REST server on loopback over a real data plane and manager, whose models are numpy functions."""

import asyncio
import threading
from contextlib import contextmanager

import numpy as np
from support.fallback_fakes import signature

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.errors import InvalidInput, ModelNotFound
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.servable import ServableId
from fallback_server.core.source import AspiredVersion
from fallback_server.dataplane import DataPlane
from fallback_server.metrics import Metrics, observer
from fallback_server.protocol.proto import tensor_pb2 as pb
from fallback_server.protocol.tensors import wire_dtype
from fallback_server.served_model import ServedModel
from fallback_server.transport.faults import code_of
from fallback_server.transport.rest.server import RestServer

OPTIONS = BatchingOptions(max_batch_size_rows=64, max_enqueued_batches=4, num_batch_threads=2)


def tensor_info(spec):
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in spec.shape])
    return pb.TensorInfo(name=f"{spec.name}:0", dtype=wire_dtype(spec.dtype), tensor_shape=shape)


class NumpyExecutor:
    """Signature name -> (inputs, outputs, function of arrays by name)."""

    platform = "tensorflow"
    kind = "tensorflow"
    in_process = True

    def __init__(self, **signatures):
        self.signatures = {name: signature(*parts[:2], name=name) for name, parts in signatures.items()}
        self.functions = {name: parts[2] for name, parts in signatures.items()}
        defs = pb.SignatureDefMap()
        for name, one in self.signatures.items():
            entry = defs.signature_def[name]
            entry.method_name = "tensorflow/serving/predict"
            for side in ("inputs", "outputs"):
                for key, spec in getattr(one, side).items():
                    getattr(entry, side)[key].CopyFrom(tensor_info(spec))
        self.signature_defs = defs.SerializeToString()
        self.closed = False

    def run(self, name, inputs):
        return self.functions[name](**inputs)

    def close(self):
        self.closed = True


def halves(factor=0.5):
    return NumpyExecutor(serving_default=({"x": (-1, 2)}, {"y": (-1, 2)}, lambda x: {"y": x * np.float32(factor)}))


class Gate:
    """A model that waits to be told."""

    def __init__(self):
        self.opened, self.entered = threading.Event(), threading.Event()
        self.executor = NumpyExecutor(serving_default=({"x": (-1,)}, {"y": (-1,)}, self.run))
        self.runs = 0

    def run(self, x):
        self.runs += 1
        self.entered.set()
        assert self.opened.wait(30)
        return {"y": x}


def strings(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def several():
    """Several inputs and outputs, strings among them."""
    inputs = {"a": (-1,), "s": ((-1,), object)}
    outputs = {"twice": (-1,), "text": ((-1,), object), "raw_bytes": ((-1,), object)}

    def run(a, s):
        return {"twice": a * 2, "text": strings(*[item + b"!" for item in s.tolist()]), "raw_bytes": s}

    return NumpyExecutor(serving_default=(inputs, outputs, run))


def examples():
    """What Classify and Regress ask: serialized Examples in, here their lengths out."""

    def classify(inputs):
        scores = [[len(item), 0.2] for item in inputs.tolist()]
        labels = np.array([[b"length", b"other"]] * len(inputs), object)
        return {"classes": labels, "scores": np.array(scores, np.float32)}

    def regress(inputs):
        return {"outputs": np.array([[len(item)] for item in inputs.tolist()], np.float32)}

    taken = {"inputs": ((-1,), object)}
    return NumpyExecutor(
        classify=(taken, {"classes": ((-1, -1), object), "scores": (-1, -1)}, classify),
        regress=(taken, {"outputs": (-1, 1)}, regress),
    )


class Models:
    """What the transports ask of the set of models, over a manager."""

    def __init__(self, manager):
        self.manager = manager
        self.labels = {}
        self.loaded = []

    def acquire(self, target, client_key=b""):
        del client_key
        return self.manager.acquire(target.name, self.version(target))

    def version(self, target):
        if target.label is None:
            return target.version
        if (target.name, target.label) not in self.labels:
            raise InvalidInput(f"Unrecognized servable version label: {target.label}")
        return self.labels[target.name, target.label]

    def standing(self, target):
        del target

    def shadow(self, name, answered):
        del name, answered

    def states(self, target):
        states = self.manager.states(target.name)
        if not states:
            raise ModelNotFound(f"Could not find any versions of model {target.name}")
        version = self.version(target)
        found = tuple(state for state in states if version in {None, state.servable_id.version})
        if not found:
            raise ModelNotFound(f"Could not find version {version} of model {target.name}")
        return found

    def index(self):
        return tuple(state for name in sorted(self.manager.names()) for state in self.manager.states(name))

    def watch(self, on_change):
        return self.manager.watch(on_change)

    def lack(self, name):
        del name
        return ""

    def load(self, name, *, who=""):
        del who
        self.loaded.append(("load", name))

    def unload(self, name, *, who=""):
        del who
        self.loaded.append(("unload", name))


class Loader:
    retriable = False

    def __init__(self, servable_id, executor):
        self.servable_id, self.executor = servable_id, executor

    def estimated_bytes(self):
        return 0

    def load(self):
        if isinstance(self.executor, Exception):
            raise self.executor
        return ServedModel(self.servable_id, self.executor, OPTIONS)

    def stop(self):
        pass


class Stand:
    """The server, in an event loop of a thread of its own.

    `models` is (name, version) -> executor, or the exception that its load ends with.
    """

    def __init__(self, models, path, **options):
        self.executors = {ServableId(*key): executor for key, executor in models.items()}
        self.path = path
        self.manager = Manager(
            make_loader=lambda servable_id, *_: Loader(servable_id, self.executors[servable_id]),
            options=ManagerOptions(max_num_load_retries=0),
        )
        self.models = Models(self.manager)
        self.metrics = Metrics()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True, name="rest-stand")
        self.thread.start()
        self.plane = DataPlane(
            versions=self.models,
            options=OPTIONS,
            clock=self.loop.time,
            observe=observer(self.metrics, code_of),
        )
        self.server = self.call(self.make(options))
        self.aspire()
        assert self.manager.wait_idle(timeout_s=30)
        self.plane.scheduler.start()
        self.port = self.call(self.server.start(host="127.0.0.1", port=0))
        self.url = f"http://127.0.0.1:{self.port}"
        self.call(self.server.set_serving(serving=True))

    async def make(self, options):
        return RestServer(self.plane, self.models, self.metrics, **options)

    def aspire(self):
        version = AspiredVersion(path=self.path, fingerprint=())
        self.manager.set_aspired(dict.fromkeys(self.executors, version))

    def call(self, coroutine, timeout_s=30):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def close(self):
        self.call(self.server.stop(grace_s=1))
        assert self.plane.scheduler.stop(timeout_s=10)
        assert self.manager.stop(timeout_s=10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


@contextmanager
def standing(models, path, **options):
    stand = Stand(models, path, **options)
    try:
        yield stand
    finally:
        stand.close()
