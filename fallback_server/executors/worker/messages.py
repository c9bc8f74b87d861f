"""What the server, the nursery and the workers say to each other, as msgpack; `wire` tells how it travels."""

from __future__ import annotations

import msgspec

from fallback_server.executors.findings import Finding


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """Where a tensor lies.

    Attributes:
        name: In the signature.
        dtype: TensorFlow's number.
        shape: All sizes known.
        offset: From the frame's begin.
        size_bytes: Of the strings' lengths and bytes together, where these are strings.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all that is said."""


class Spawn(Message, frozen=True):
    """To the nursery: fork a worker. With the worker's end of its control socket, and where it is to print."""

    worker: int
    title: str


class Spawned(Message, frozen=True):
    """From the nursery, with a pidfd: the worker's process is there."""

    worker: int
    pid: int


class NotSpawned(Message, frozen=True):
    """From the nursery: the system refused another process."""

    worker: int
    why: str


class Exited(Message, frozen=True):
    """From the nursery: a worker has ended.

    Attributes:
        worker: Which.
        code: As `Popen.returncode`: below 0 it is a signal's number.
    """

    worker: int
    code: int


class Imported(Message, frozen=True):
    """From the nursery: TensorFlow is imported."""

    seconds: float


class Load(Message, frozen=True):
    """To a worker: load this, which is the first that it is told. With the model's content, where its kind has a file.

    Attributes:
        kind: What runs it, one of `KINDS`.
        path: Of the version's folder, absolute.
        beside_others: Whether others answer requests meanwhile.
        intra_op_parallelism: See `SavedModelOptions`; other libraries take it as well.
        inter_op_parallelism: See `SavedModelOptions`.
        tags: See `SavedModelOptions`.
        rows: See `RunSizes`.
        threads: See `RunSizes`.
        whole: Signatures whose requests must not be merged.
        known: What was found of signatures before, and is not tried again.
    """

    kind: str
    path: str
    beside_others: bool
    intra_op_parallelism: int = 0
    inter_op_parallelism: int = 0
    tags: tuple[str, ...] = ()
    rows: tuple[int, ...] = (1,)
    threads: int = 1
    whole: tuple[str, ...] = ()
    known: dict[str, Finding] = {}


class Spec(msgspec.Struct, frozen=True, array_like=True):
    """A `TensorSpec`."""

    name: str
    dtype: int
    shape: tuple[int, ...] | None


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A `Signature`."""

    name: str
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    mixes_rows: bool
    method: str
    batches_inside: bool = False
    inputs_id: str = ""
    worth_rows: int = 0


class Loaded(Message, frozen=True):
    """From a worker: it answers.

    Attributes:
        signatures: What can be called.
        signature_defs: The same, as clients ask for it.
        run_s: How long one row takes, of the signature that takes longest; 0 where that was not measured.
        at_once: How many runs it does at a time; 0: as many as reach it.
        findings: See `SavedModelExecutor`.
        load_s: How long the load took in the worker, its trials and all.
    """

    signatures: tuple[Entry, ...]
    signature_defs: bytes
    run_s: float = 0.0
    at_once: int = 0
    findings: dict[str, Finding] = {}
    load_s: float = 0.0


class LoadRefused(Message, frozen=True):
    """From a worker, which ends: why it could not load."""

    why: str


class Lane(Message, frozen=True):
    """To a worker, with a socket: answer on it, beside the others.

    Attributes:
        steps_back: Whether what runs on it makes room for others. The first lane that does not has the worker do all
            that it does as others do.
    """

    steps_back: bool


class Run(Message, frozen=True):
    """To a worker, on a lane, with the inputs."""

    signature: str
    tensors: tuple[Tensor, ...]


class Ran(Message, frozen=True):
    """From a worker, on a lane, with the outputs."""

    tensors: tuple[Tensor, ...]


class RunRefused(Message, frozen=True):
    """From a worker, on a lane.

    Attributes:
        invalid: Whether the request's values are at fault.
        why: One line.
    """

    invalid: bool
    why: str


AnyMessage = (
    Spawn | Spawned | NotSpawned | Exited | Imported | Load | Loaded | LoadRefused | Lane | Run | Ran | RunRefused
)
