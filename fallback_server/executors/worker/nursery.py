"""Starts workers: by a process that has TensorFlow imported, or nothing but numpy, and forks one in milliseconds.

The server itself never imports TensorFlow, and never forks: it has threads. One thread here hears all that nursery and
workers say, print, and that they end. When the server ends, however it does, all of them are killed by the kernel (see
`nursery_main.end_with`).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fallback_server.core.errors import LoadFailed
from fallback_server.executors.worker.messages import Exited, Imported, NotSpawned, Spawn, Spawned
from fallback_server.executors.worker.orphans import END_S
from fallback_server.executors.worker.process import Worker, ended_by
from fallback_server.executors.worker.wire import Closed, Frame, Receiver, WireError, send

_log = logging.getLogger(__name__)

_PROGRAM = "fallback_server.executors.worker.nursery_main"

TENSORFLOW, NOTHING = "tensorflow", "nothing"

_ROOT = Path(__file__).parents[3]
"""Where this package is imported from."""

_MEMORY = {
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**27),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""How workers hold memory.

TensorFlow's own pool for oneDNN grows by doubling and gives nothing back: after one run with a 300 MB tensor, 300 MB
and more stay. malloc gives back what is large, but by default so eagerly that each run faults
its pages in anew. With these bounds it keeps what runs use again; a convolutional net with activations of 50 MB then
runs faster than with the pool. What is free in a worker that has nothing to run goes back, see `heap.Spare`.

Each thread has a heap of its own, of pieces of 64 MiB, which the last bound keeps malloc from giving back after each
run. Two runs that share one heap wait for its lock so often that a MobileNetV2's rate is a fifth less, at a sixth more
of the processor's time.
"""

_STATUS_S = 2.0
"""How long after a worker's last word its exit status is waited for."""

_START_S = 2.0
"""How long a nursery has to end when it is told to."""


class _Program:
    """One nursery process. Made under the nursery's lock; `numbers` is its thread's alone."""

    def __init__(self, imports: str) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        readable, lifeline = os.pipe()
        self._lifeline: int | None = lifeline
        environment = _MEMORY | os.environ  # An operator's own settings win.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_ROOT), environment.get("PYTHONPATH"))))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _PROGRAM, str(theirs.fileno()), str(readable), imports],
                pass_fds=[theirs.fileno(), readable],
                stdin=subprocess.DEVNULL,
                stdout=2,  # What the server prints is its product.
                env=environment,
                process_group=0,  # No session: the scheduler may weigh those alike, however nice they are.
            )
        except BaseException:
            self.sock.close()
            self.cut()
            raise
        finally:
            theirs.close()
            os.close(readable)
        self.receiver = Receiver(self.sock)
        self.alive = True
        self.workers: dict[int, Worker] = {}
        self.pending: set[int] = set()

    def cut(self) -> None:
        """Closes the lifeline: the kernel kills what is left of nursery and workers."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)

    def why_dead(self) -> str:
        """For messages, once it has ended."""
        code = self.process.returncode
        how = "nobody saw how" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the process that starts workers ended ({how})"


class Nursery:
    """Starts worker processes. Any thread may call any method.

    Args:
        imports: What its process imports before it forks: `TENSORFLOW`, or `NOTHING` for models of other kinds.
        clock: Monotonic seconds.
    """

    def __init__(self, imports: str = TENSORFLOW, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._imports = imports
        self._clock = clock
        self._lock = threading.Lock()
        self._program: _Program | None = None
        self._programs: list[_Program] = []
        self._closed = False
        self._numbers = itertools.count(1)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, lambda: None)
        self._waiting: dict[int, tuple[float, _Program]] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="nursery", daemon=True)

    def start(self) -> None:
        """Begins to import, in its process; returns at once. Again: does nothing."""
        with self._lock:
            self._living()

    def spawn(self, title: str) -> Worker:
        """Has a worker forked; returns before it is there, which takes seconds if TensorFlow is still being imported.

        Args:
            title: The model and version, for logs.

        Raises:
            LoadFailed: no process could be started, or the nursery is closed.
        """
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output, printed = os.pipe()
        number = next(self._numbers)
        # Only what comes is read without waiting; what is sent may wait for room.
        os.set_blocking(output, False)
        worker = Worker(title, control, output, clock=self._clock)
        try:
            with self._lock:
                program = self._living()
                self._do(lambda: self._adopt(program, number, worker))
                with contextlib.suppress(Closed):  # Its end is noticed by the thread, which tells the worker.
                    send(program.sock, Spawn(number, title), [theirs.fileno(), printed])
        except BaseException:
            control.close()
            os.close(output)
            raise
        finally:
            theirs.close()
            os.close(printed)
        return worker

    @property
    def answers(self) -> bool:
        """Whether any worker has requests to answer."""
        workers = [worker for program in list(self._programs) for worker in list(program.workers.values())]
        return any(worker.answers and not worker.gone.is_set() for worker in workers)

    def close(self) -> None:
        """Ends all workers at once, also those that load, and the nursery."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._program is None:
                self._give_up()
                return
        self._do(self._stop)
        self._thread.join()

    def _living(self) -> _Program:
        """The nursery process, started if there is none. Under the lock."""
        if self._closed:
            raise LoadFailed("the server is stopping")
        if self._program is None or not self._program.alive:
            first = self._program is None
            try:
                self._program = program = _Program(self._imports)
            except OSError as error:
                raise LoadFailed(f"the process that starts workers could not be started: {error}") from error
            if first:
                self._thread.start()
            self._do(lambda: self._listen(program))
        return self._program

    def _do(self, job: Callable[[], None]) -> None:
        """Has the nursery's thread do something."""
        self._jobs.put(job)
        self._wake.send(b"!")

    # All below is the thread's.

    def _work(self) -> None:
        while not self._stopping:
            waits = [until_s - self._clock() for until_s, _ in self._waiting.values()]
            events = self._selector.select(max(0.0, min(waits)) if waits else None)
            # First: what is heard of a worker may be heard before the worker was taken up.
            self._run_jobs()
            for key, _ in events:
                try:
                    if self._selector.get_map().get(key.fd) is key:
                        key.data()
                except Exception:  # noqa: BLE001  the thread serves all workers
                    _log.exception("the nursery's thread met a fault")
            for number, (until_s, program) in list(self._waiting.items()):
                if self._clock() >= until_s:
                    self._ended(program, number, None)
        self._give_up()

    def _give_up(self) -> None:
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _run_jobs(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job()

    def _listen(self, program: _Program) -> None:
        self._programs.append(program)
        self._selector.register(program.sock, selectors.EVENT_READ, lambda: self._hear(program))

    def _adopt(self, program: _Program, number: int, worker: Worker) -> None:
        if not program.alive:
            worker.ended(None, program.why_dead())
            return
        program.workers[number] = worker
        program.pending.add(number)
        self._selector.register(worker.control, selectors.EVENT_READ, lambda: self._hear_worker(program, number))
        self._selector.register(worker.output, selectors.EVENT_READ, lambda: self._read_worker(worker))

    def _hear_worker(self, program: _Program, number: int) -> None:
        worker = program.workers[number]
        if worker.read_control():
            return
        self._selector.unregister(worker.control)
        if program.alive:
            self._waiting[number] = (self._clock() + _STATUS_S, program)
        else:
            self._ended(program, number, None if worker.pid is None else ended_by(worker.pid, timeout_s=0.2))

    def _read_worker(self, worker: Worker) -> None:
        if not worker.read_output():
            self._selector.unregister(worker.output)

    def _hear(self, program: _Program) -> None:
        try:
            frame = program.receiver.receive()
        except (Closed, WireError):
            self._lost(program)
            return
        message = frame.message
        if isinstance(message, Imported):
            if self._imports == TENSORFLOW:
                _log.info("TensorFlow is imported, in %.1f s, by process %d", message.seconds, program.process.pid)
        elif isinstance(message, Spawned):
            self._spawned(program, frame, message)
        elif isinstance(message, NotSpawned):
            self._ended(program, message.worker, None, f"no process could be started: {message.why}")
        elif isinstance(message, Exited):
            self._ended(program, message.worker, message.code)

    def _spawned(self, program: _Program, frame: Frame, message: Spawned) -> None:
        program.pending.discard(message.worker)
        worker = program.workers.get(message.worker)
        if worker is None:
            os.close(frame.fds[0])
        else:
            worker.spawned(message.pid, frame.fds[0])

    def _ended(self, program: _Program, number: int, code: int | None, why: str | None = None) -> None:
        self._waiting.pop(number, None)
        program.pending.discard(number)
        worker = program.workers.pop(number, None)
        if worker is None:
            return
        for source in (worker.control, worker.output):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(source)
        worker.ended(code, why)
        if not program.alive and not program.workers:
            self._forget(program)

    def _lost(self, program: _Program) -> None:
        """The nursery itself has ended: what it has not forked yet never will be; the others live on."""
        self._selector.unregister(program.sock)
        with self._lock:
            program.alive = False
        program.sock.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.process.wait(_START_S)
        if not self._closed:
            _log.error("%s; %d workers live on", program.why_dead(), len(program.workers) - len(program.pending))
        for number in list(program.pending):
            self._ended(program, number, None, program.why_dead())
        for number in [number for number, (_, one) in self._waiting.items() if one is program]:
            self._ended(program, number, None)
        if not program.workers:
            self._forget(program)

    def _forget(self, program: _Program) -> None:
        program.cut()
        if program in self._programs:
            self._programs.remove(program)

    def _stop(self) -> None:
        self._stopping = True
        for program in list(self._programs):
            for worker in program.workers.values():
                worker.kill_soon()
            if program.alive and any(worker.pid is not None for worker in program.workers.values()):
                # It ends by itself, and before it all that workers have started, also what has left the group.
                with contextlib.suppress(subprocess.TimeoutExpired, OSError):
                    program.sock.shutdown(socket.SHUT_RDWR)
                    program.process.wait(END_S + _START_S)
            program.cut()
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(_START_S)
            program.alive = False
            program.sock.close()
            for number, worker in list(program.workers.items()):
                worker.wait_ended(_STATUS_S)
                self._ended(program, number, -signal.SIGKILL)
