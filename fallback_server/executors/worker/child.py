"""A worker: loads one version, and answers on as many lanes as the server opens."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from fallback_server.core.errors import InvalidInput, LoadFailed
from fallback_server.core.memory import give_back
from fallback_server.executors.base import Array, Executor, Signature, TensorSpec
from fallback_server.executors.heap import Spare
from fallback_server.executors.saved_model import first_line
from fallback_server.executors.worker.kinds import Room, opened
from fallback_server.executors.worker.messages import (
    Entry,
    Lane,
    Load,
    Loaded,
    LoadRefused,
    Run,
    RunRefused,
    Spec,
)
from fallback_server.executors.worker.orphans import Reaper
from fallback_server.executors.worker.priority import NICE, Aside, come_back, step_back
from fallback_server.executors.worker.wire import Closed, Receiver, send, send_ran
from fallback_server.protocol.tensors import wire_dtype

_log = logging.getLogger(__name__)

_MAX_TEXT = 2000
"""Of an error's text, which goes into an answer's headers: these take some kilobytes."""

_own: set[socket.socket] = set()
"""What the server hears this process end by."""


def work(control: socket.socket) -> None:
    """Loads what it is told to, then serves until the server closes the control socket, or kills the process.

    It makes room for others, as the nursery does that it comes from, until it is to answer requests.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    _own.add(control)
    os.register_at_fork(after_in_child=_let_go)
    receiver = Receiver(control)
    reaper = Reaper()
    reaper.start()
    try:
        frame = receiver.receive()
    except Closed:
        _end(None)
    load = frame.message
    assert isinstance(load, Load)
    loading = _Loading(load=load, fds=frame.fds, aside=Aside(), reaper=reaper)
    # Made before this thread becomes nice for its load: it makes the lanes, which are not to be.
    threading.Thread(target=_serve, args=(control, receiver, loading), name="control").start()
    loading.run()
    threading.Event().wait()  # Whoever serves ends the process.


@dataclass(kw_only=True, eq=False)
class _Loading:
    """A load in the first thread, and what is to know of it.

    Attributes:
        load: What the server said.
        fds: What came with it.
        aside: Which cores the load keeps to.
        reaper: Knows what the model has started.
        done: Set once there is a result.
        result: What was loaded, or why nothing was.
        took_s: How long that took.
    """

    load: Load
    fds: list[int]
    aside: Aside
    reaper: Reaper
    done: threading.Event = field(default_factory=threading.Event)
    result: Executor | LoadRefused | None = None
    took_s: float = 0.0

    def run(self) -> None:
        begin_s = time.monotonic()
        try:
            self.result = _loaded(self.load, self.fds, self.aside, self.reaper)
            self.took_s = time.monotonic() - begin_s
        finally:
            self.done.set()

    def wait(self) -> Executor | LoadRefused:
        self.done.wait()
        assert self.result is not None
        return self.result


def _serve(control: socket.socket, receiver: Receiver, loading: _Loading) -> None:
    """Says how the load went, then opens lanes; ends the process, and doesn't return."""
    executor: Executor | LoadRefused | None = None
    try:
        executor = loading.wait()
        if isinstance(executor, LoadRefused):
            send(control, executor)
            _end(executor)
        entries = tuple(map(_entry, executor.signatures.values()))
        run_s, at_once = getattr(executor, "run_s", 0.0), getattr(executor, "at_once", 0)
        findings = getattr(executor, "findings", {})
        give_back()  # What the load and its trials have freed.
        send(control, Loaded(entries, executor.signature_defs, run_s, at_once, findings, loading.took_s))
        spare = Spare()
        threading.Thread(target=spare.work, name="spare", daemon=True).start()
        awaited = False
        while True:
            frame = receiver.receive()
            message = frame.message
            assert isinstance(message, Lane)
            if not (message.steps_back or awaited):
                come_back()
                loading.aside.end()
                getattr(executor, "renew", _nothing)()
                awaited = True
            lane = socket.socket(fileno=frame.fds[0])
            _own.add(lane)
            threading.Thread(
                target=_answer, args=(executor, lane, loading.reaper, spare), name="lane", daemon=True
            ).start()
    except Closed:
        _end(executor)
    except BaseException:  # noqa: BLE001  the process ends for it: nobody else would hear of it
        _log.exception("a worker failed")
        flush()
        os._exit(1)


def _end(executor: Executor | LoadRefused | None) -> NoReturn:
    """The server waits a moment for this process to end by itself; threads that still run have nobody to run for."""
    try:
        if executor is not None and not isinstance(executor, LoadRefused) and executor.kind == "python":
            executor.close()  # A class of the user's own, which may have something to put in order.
    except Exception:  # noqa: BLE001  the process ends in any case
        _log.exception("the model could not be closed")
    flush()
    os._exit(0)


def flush() -> None:
    """Has what was printed reach the server's log, before this process ends without Python's own way to."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # The model may have put something else in their place.
            stream.flush()


def _nothing() -> None:
    """What an executor does that has nothing to renew."""


def _let_go() -> None:
    """In a process that the model forks: it may outlive this one, whose end the server is to hear."""
    for sock in tuple(_own):
        sock.close()


def _loaded(load: Load, fds: list[int], aside: Aside, reaper: Reaper) -> Executor | LoadRefused:
    """Loads in a thread that becomes nice, on top of what this process does already to make room.

    It can't become less nice again. The lanes' threads are not its children, and TensorFlow's pools are made before.

    The first thread loads for TensorFlow: it is the one whose heap takes blocks of any size, see `heap.touched`. What
    other models start in their load is to be known as theirs, and the first thread's children are told from those that
    were left to the process by nothing; see `Reaper`.
    """
    results: list[Executor | LoadRefused] = []

    def make_room() -> None:
        step_back(nice=NICE)
        if load.beside_others:
            aside.begin()

    def run() -> None:
        try:
            results.append(opened(load, fds, room=Room(make=make_room, lifted=aside.lifted)))
        except BaseException as error:  # noqa: BLE001  it is the answer, whatever it is: a model may call sys.exit
            if load.kind == "python" and not isinstance(error, LoadFailed):
                _log.exception("the model could not be loaded")
            results.append(LoadRefused(_why(error, named=load.kind == "python")))
        finally:
            reaper.note()

    if load.kind == "tensorflow":
        run()
        return results[0]
    thread = threading.Thread(target=run, name="load")
    thread.start()
    thread.join()
    return results[0]


def _answer(executor: Executor, lane: socket.socket, reaper: Reaper, spare: Spare) -> None:
    """Answers what comes on a lane, one after the other, until the server closes it."""
    receiver = Receiver(lane)
    try:
        while True:
            _answer_one(executor, lane, receiver)
            spare.runs += 1
    except Closed:
        _own.discard(lane)
        lane.close()
        reaper.note()
    except BaseException:  # noqa: BLE001  the process ends for it
        # The server waits on this lane: it must see it end, and with it the worker, which is not to be trusted now.
        _log.exception("a lane failed")
        flush()
        os._exit(1)


def _answer_one(executor: Executor, lane: socket.socket, receiver: Receiver) -> None:
    frame = receiver.receive()
    message = frame.message
    assert isinstance(message, Run)
    inputs = frame.tensors(message.tensors)
    del frame
    outputs = _run(executor, message.signature, inputs)
    if isinstance(outputs, RunRefused):
        send(lane, outputs)
    else:
        send_ran(lane, outputs)


def _run(executor: Executor, signature: str, inputs: dict[str, Array]) -> Mapping[str, Array] | RunRefused:
    try:
        outputs = executor.run(signature, inputs)
    except InvalidInput as error:
        return RunRefused(invalid=True, why=_sendable(str(error)))
    except Exception as error:  # noqa: BLE001  the next request is another's
        _log.exception("signature %r failed", signature)
        return RunRefused(invalid=False, why=_why(error))
    finally:
        inputs.clear()  # Before the outputs are copied: the memory of large inputs is free for them.
    return outputs


def _why(error: BaseException, *, named: bool = False) -> str:
    """One line about an error; named, with its type: of a KeyError the text alone says little."""
    if not named or isinstance(error, LoadFailed):
        return _sendable(first_line(error))
    return _sendable(": ".join(filter(None, (type(error).__name__, " ".join(str(error).split())))))


def _sendable(text: str) -> str:
    """A text as UTF-8 has it, and no longer than an answer can have it."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ... ({len(text)} characters)"


def _entry(signature: Signature) -> Entry:
    return Entry(
        name=signature.name,
        inputs=tuple(map(_spec, signature.inputs.values())),
        outputs=tuple(map(_spec, signature.outputs.values())),
        mixes_rows=signature.mixes_rows,
        method=signature.method,
        batches_inside=signature.batches_inside,
        inputs_id=signature.inputs_id,
        worth_rows=signature.worth_rows,
    )


def _spec(spec: TensorSpec) -> Spec:
    return Spec(spec.name, wire_dtype(spec.dtype), spec.shape)
