"""The fork server's side of `isolation`: imports libraries once, forks a child for each task, says how each ended."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import multiprocessing
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from converter.artifact import PackageError
from converter.errors import ConverterError

READY = b"\0ready"

_PR_SET_PDEATHSIG = 1
"""Of <linux/prctl.h>: the signal that a process gets when its parent ends."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a child sends at its end.

    Attributes:
        value: The function's result, where it returned.
        error: What it raised, if that was one of this project's errors.
        raised: Type and text of any other exception; empty if there was none.
        traceback: That exception's.
        out_of_memory: Whether that was a MemoryError.
    """

    value: Any = None
    error: Exception | None = None
    raised: str = ""
    traceback: str = ""
    out_of_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class _Task:
    process: ForkProcess
    life: Connection


def serve(control_descriptor: int, preload: Sequence[str], parent: int | None = None) -> None:
    """Serves until the other end of the control socket closes; then kills what still runs.

    While it imports, it does not hear of that: where the kernel can do it (Linux), it ends then with its parent.

    Each message on the socket brings three descriptors: the socket to the child (request in, reply out), the socket
    on which the child's process id and later its exit code are told and its killing asked for, and the file for its
    output.
    """
    control = socket.socket(fileno=control_descriptor)
    if parent is not None:
        _end_with_the_parent(signal.SIGKILL)
        if os.getppid() != parent:
            return
    try:
        for module in preload:
            importlib.import_module(module)
    except Exception as error:  # noqa: BLE001  whatever it is, the other side is told
        control.sendall(f"can't import {module}: {type(error).__name__}: {error}".encode())
        return
    # From here on there may be children, which are not to be left behind: it ends in an orderly way.
    _end_with_the_parent(0)
    control.sendall(READY)
    tasks: dict[int, _Task] = {}
    try:
        while _step(control, tasks):
            pass
    finally:
        for task in tasks.values():
            _kill(task.process)


def _step(control: socket.socket, tasks: dict[int, _Task]) -> bool:
    """Waits for one or more events and handles them; False once the other side is gone."""
    lives = {task.life: task for task in tasks.values()}
    for ready in wait([control, *tasks, *lives]):
        if isinstance(ready, int):
            _tell(tasks.pop(ready))
        elif isinstance(ready, Connection):
            # A wish to kill, or the other side gone: the same to the child.
            _kill(lives[ready].process)
            with contextlib.suppress(EOFError, OSError):
                ready.recv_bytes()
        else:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 3)
            if not message:
                return False
            task = _fork(control, descriptors, list(lives))
            tasks[task.process.sentinel] = task
    return True


def _fork(control: socket.socket, descriptors: Sequence[int], others: Sequence[Connection]) -> _Task:
    data, life, log_descriptor = Connection(descriptors[0]), Connection(descriptors[1]), descriptors[2]
    process = multiprocessing.get_context("fork").Process(
        target=_work, args=(data, log_descriptor, [control, life, *others])
    )
    process.start()
    data.close()
    os.close(log_descriptor)
    with contextlib.suppress(OSError):  # The other side may be gone; that is noticed where `life` is waited for.
        life.send_bytes(str(process.pid).encode())
    return _Task(process=process, life=life)


def _tell(task: _Task) -> None:
    task.process.join()
    with contextlib.suppress(OSError):  # The other side may have its reply and be gone.
        task.life.send_bytes(str(task.process.exitcode).encode())
    task.life.close()


def _kill(process: ForkProcess) -> None:
    """Kills the child and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()


def _work(data: Connection, log_descriptor: int, not_ours: Sequence[socket.socket | Connection]) -> None:
    """The child: reads a request, calls the function, sends the reply."""
    os.setsid()
    for inherited in not_ours:
        inherited.close()
    os.dup2(log_descriptor, 1)
    os.dup2(log_descriptor, 2)
    faulthandler.enable()
    _offer_to_the_oom_killer()
    _end_with_the_parent(signal.SIGKILL)
    data.send_bytes(pickle.dumps(_call(data.recv_bytes())))


def _call(request: bytes) -> Reply:
    try:
        function, args, kwargs = pickle.loads(request)  # noqa: S301  from the process that started this one
        reply = Reply(value=function(*args, **kwargs))
        pickle.dumps(reply)
    except (ConverterError, PackageError) as error:
        return Reply(error=error)
    except Exception as error:  # noqa: BLE001  whatever it is, the other side is told
        return Reply(
            raised=f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
            out_of_memory=isinstance(error, MemoryError),
        )
    return reply


def _offer_to_the_oom_killer() -> None:
    """Where memory runs out, the task is to go, not the program that would report it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")


def _end_with_the_parent(number: int) -> None:
    """Where the kernel can do it (Linux), a parent that is killed leaves no process behind; 0 undoes it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
