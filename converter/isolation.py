"""Functions run in child processes, so that a crash in a library is an error message and not the end of the program.

TensorFlow's converter can end its process (segmentation fault, abort, out of memory) or never return. A fork server,
a separate Python process, imports it once; each task is a fork of that server. What the task's process does to
itself, or has done to it, reaches nobody else. The server's side is `fork_server`.

Not `multiprocessing`'s own forkserver: that one belongs to the whole program (one preload list, one environment, set
by whoever came first), and it imports the user's script again in every child, which a script without a
`__main__` guard does not survive. This one is started and ended by a `with`, and knows nothing of the caller's script.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import IO, Any, ParamSpec, Self, TypeVar

from converter.errors import (
    OptionInvalid,
    TaskCrashed,
    TaskFailed,
    TaskOutOfMemory,
    TaskRaised,
    TaskTimedOut,
    ToolMissing,
)
from converter.fork_server import READY, Reply
from converter.process_memory import MemoryWatch

P = ParamSpec("P")
R = TypeVar("R")

START_LIMIT_S = 300.0
"""For the preload: TensorFlow takes 4 s from a warm disk, and a minute or more from an SD card."""

KILL_LIMIT_S = 30.0
"""How long a killed child may take to be gone; a process that writes to a slow disk is not gone at once."""

CLOSE_LIMIT_S = 5.0
"""The server has nothing to tidy up at its end; past this it is killed."""

LOG_TAIL_BYTES = 8_192
"""How much of a child's output is kept for the error: a traceback's end, not a converter's whole chatter."""

_COMMAND = (
    "import json, os, sys; setup = json.loads(sys.argv[1]); sys.path[:] = setup['path']; "
    "from converter.fork_server import serve; serve(setup['control'], setup['preload'], setup['parent']); "
    "os._exit(0)"  # nothing to tidy up, and TensorFlow's own end takes a second
)

_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # A conversion and a check need no GPU, and each child would take all of its memory.
    "CUDA_VISIBLE_DEVICES": "-1",
}


class ForkServer:
    """A process that imports libraries once and forks a child for each task. Threads may share it.

    Used in a `with`; at its end, or when this program dies, the server and all its children end too.

    Attributes:
        memory_limit_bytes: How much memory of its own each task may come to hold above what it starts with (the
            libraries that the server imported); None for no limit. A change is for the tasks that start after it.
    """

    def __init__(self, preload: Sequence[str] = (), *, memory_limit_bytes: int | None = None) -> None:
        """Starts the server; its imports go on while this program does.

        Args:
            preload: Modules that the server imports before it forks.
            memory_limit_bytes: The attribute.
        """
        self.memory_limit_bytes = memory_limit_bytes
        self._lock = threading.Lock()
        self._ready = False
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        self._control, theirs = socket.socketpair()
        # Linux tells a process of the end of the thread that started it, not of its process: only the main thread's
        # end is that of this program.
        lasting = threading.current_thread() is threading.main_thread()
        setup = {
            "path": sys.path,
            "control": theirs.fileno(),
            "preload": list(preload),
            "parent": os.getpid() if lasting else None,
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, json.dumps(setup)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, **_ENVIRONMENT},
                # Ctrl-C is for the caller, who then closes this; the server is not to die first.
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server and its children, and waits until the server is gone."""
        self._control.close()
        if not self._ready:
            # It imports, and hears nothing until it is through; there is no task that it would have to end.
            self._process.kill()
        try:
            self._process.wait(CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def run(self, function: Callable[P, R], time_limit_s: float, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls `function` in a child and returns what it returns.

        Args:
            function: Found by its module and name, so that the child can import it: no lambda, nothing nested,
                nothing of `__main__`.
            time_limit_s: The child is killed after this many seconds. The server's own start does not count.
            args: Picklable, like the result.
            kwargs: Likewise.

        Raises:
            TaskCrashed, TaskTimedOut, TaskOutOfMemory, TaskRaised: see `errors`; TaskFailed where the server itself was
                killed.
            ConverterError: raised by `function` itself, passed on as it is.
            ToolMissing: a module of `preload` is not installed.
            OptionInvalid: a limit is impossible, or there is a memory limit and this system can't tell what a process
                holds.
        """
        memory_limit_bytes = self.memory_limit_bytes
        if memory_limit_bytes is not None and memory_limit_bytes <= 0:
            raise OptionInvalid(f"memory limit: must be above 0 bytes, got {memory_limit_bytes}")
        if not time_limit_s > 0:
            raise OptionInvalid(f"time limit: must be above 0 s, got {time_limit_s}")
        if function.__module__ == "__main__":
            name = function.__qualname__
            raise TaskRaised(f"{name} can't run in a child process: define it in a module that can be imported")
        request = pickle.dumps((function, args, kwargs))
        self._await_ready()
        with tempfile.TemporaryFile() as log:
            data, life = self._start(log)
            with data, life:
                watch = MemoryWatch(_process_id(life), memory_limit_bytes)
                reply, exit_code = _exchange(data, life, request, time.monotonic() + time_limit_s, watch)
            tail = _tail(log)
        if reply is not None:
            value: R = _result(reply, tail)
            return value
        if watch.exceeded:
            raise TaskOutOfMemory(f"killed: {watch}", log=tail)
        if exit_code is None:
            raise TaskTimedOut(f"killed after its time limit of {time_limit_s:g} s", log=tail)
        raise TaskCrashed(exit_code=exit_code, log=tail)

    def _await_ready(self) -> None:
        with self._lock:
            if self._ready:
                return
            self._control.settimeout(START_LIMIT_S)
            try:
                greeting = self._control.recv(65_536)
            except TimeoutError as error:
                raise TaskTimedOut(f"the fork server was not ready after {START_LIMIT_S:g} s") from error
            if greeting != READY:
                if not greeting:
                    raise TaskFailed("the fork server ended while it started", log=_tail(self._log))
                raise ToolMissing(f"{greeting.decode(errors='replace')} (pip install 'edge-runtime[convert]')")
            self._ready = True

    def _start(self, log: IO[bytes]) -> tuple[Connection, Connection]:
        """Has a child forked; returns the connection to it, and the one that says how it ended."""
        data, child_data = socket.socketpair()
        life, child_life = socket.socketpair()
        with child_data, child_life:
            descriptors = [child_data.fileno(), child_life.fileno(), log.fileno()]
            try:
                with self._lock:
                    socket.send_fds(self._control, [b"T"], descriptors)
            except OSError as error:
                data.close()
                life.close()
                raise TaskFailed(f"the fork server is gone: {error}", log=_tail(self._log)) from error
        return Connection(data.detach()), Connection(life.detach())


def _exchange(
    data: Connection, life: Connection, request: bytes, deadline_s: float, watch: MemoryWatch
) -> tuple[Reply | None, int | None]:
    """The child's reply, or else its exit code, or neither where it was killed at the deadline or for its memory."""
    try:
        data.send_bytes(request)
        ready = _await(data, life, deadline_s, watch)
        if not ready:
            life.send_bytes(b"kill")
            _exit_code(life)
            return None, None
        if data not in ready:
            return None, _exit_code(life)
        return pickle.loads(data.recv_bytes()), None  # noqa: S301  our own child's
    except (EOFError, ConnectionError):
        return None, _exit_code(life)


def _await(data: Connection, life: Connection, deadline_s: float, watch: MemoryWatch) -> list[Any]:
    """Which of the connections has something to say; none at the deadline, or once the child holds too much memory."""
    while True:
        left_s = max(0.0, deadline_s - time.monotonic())
        ready = wait([data, life], left_s if watch.interval_s is None else min(left_s, watch.interval_s))
        if ready or left_s == 0.0 or watch.look():
            return ready


def _process_id(life: Connection) -> int:
    try:
        return int(life.recv_bytes())
    except (EOFError, ConnectionError) as error:
        raise TaskFailed("the fork server was ended while a task ran") from error


def _exit_code(life: Connection) -> int:
    try:
        if wait([life], KILL_LIMIT_S):
            return int(life.recv_bytes())
    except (EOFError, ConnectionError) as error:
        raise TaskFailed("the fork server was ended while a task ran") from error
    raise TaskFailed(f"a killed child was not gone after {KILL_LIMIT_S:g} s")


def _result(reply: Reply, log: str) -> Any:
    if reply.error is not None:
        raise reply.error
    if reply.out_of_memory:
        raise TaskOutOfMemory(reply.raised, log=f"{log}\n{reply.traceback}".strip())
    if reply.raised:
        raise TaskRaised(reply.raised, log=f"{log}\n{reply.traceback}".strip())
    return reply.value


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - LOG_TAIL_BYTES))
    return log.read(LOG_TAIL_BYTES).decode(errors="replace").strip()
