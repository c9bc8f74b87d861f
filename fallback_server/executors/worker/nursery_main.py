"""The nursery: a program that imports TensorFlow once, runs nothing with it, and forks a worker whenever it is told.

    python -m fallback_server.executors.worker.nursery_main SOCKET LIFELINE tensorflow|nothing

One that imports `nothing` is for workers that run models of other kinds: they are small, and there at once.

It has one thread: a fork copies no other, and a lock that another thread held would stay locked in the copy for ever.
What a worker needs is imported here, so that workers share its pages and begin to load at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import select
import selectors
import signal
import socket
import sys
import time
import warnings

from fallback_server.executors.saved_model import import_tensorflow
from fallback_server.executors.worker.child import flush, work
from fallback_server.executors.worker.messages import Exited, Imported, NotSpawned, Spawn, Spawned
from fallback_server.executors.worker.orphans import END_S, adopt, end_orphans
from fallback_server.executors.worker.priority import go_first, step_back
from fallback_server.executors.worker.wire import Closed, Receiver, send


def main() -> None:
    """Forks until the server goes away."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    lifeline = int(sys.argv[2])
    end_with(lifeline)
    adopt()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Meant for the server, which says what is to end.
    step_back()
    go_first()
    begin_s = time.monotonic()
    if sys.argv[3] == "tensorflow":
        import_tensorflow()
    gc.collect()
    gc.freeze()  # A collector that marks shared objects would copy their pages into each worker.
    # That the process has threads is numpy's doing, which knows how to be forked.
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        send(sock, Imported(time.monotonic() - begin_s))
        _serve(sock)
    except Closed:
        # Workers, and what they have started: the group alone would leave out who has left it.
        end_orphans((), limit_s=END_S)
        os.killpg(0, signal.SIGKILL)


def end_with(lifeline: int) -> None:
    """Sees to it that this process group is killed when the server ends, however that happens, whatever it does then.

    The server holds the write end of a pipe and never writes. When the last write end is closed, the kernel raises the
    signal that is asked for here: it needs no thread of ours that could be stuck, nor Python's lock.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline)
    if poll.poll(0):  # It had ended before the signal was asked for.
        os.killpg(0, signal.SIGKILL)


def _serve(sock: socket.socket) -> None:
    receiver = Receiver(sock)
    workers: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd != sock.fileno():
                    selector.unregister(key.fd)
                    worker, pid = workers.pop(key.fd)
                    os.close(key.fd)
                    _, status = os.waitpid(pid, 0)
                    end_orphans([each for _, each in workers.values()])
                    send(sock, Exited(worker, os.waitstatus_to_exitcode(status)))
                    continue
                frame = receiver.receive()
                assert isinstance(frame.message, Spawn)
                control, output = frame.fds
                try:
                    pid = os.fork()
                    if pid == 0:
                        _become_worker(
                            frame.message.title, control, output, [selector.fileno(), sock.fileno(), *workers]
                        )
                    pidfd = os.pidfd_open(pid)
                except OSError as error:
                    send(sock, NotSpawned(frame.message.worker, os.strerror(error.errno or errno.EAGAIN)))
                else:
                    workers[pidfd] = (frame.message.worker, pid)
                    selector.register(pidfd, selectors.EVENT_READ)
                    send(sock, Spawned(frame.message.worker, pid), [pidfd])
                os.close(control)
                os.close(output)


def _become_worker(title: str, control: int, output: int, foreign: list[int]) -> None:
    """In the fork; does not return. The lifeline stays open here too: the worker may outlive the nursery."""
    code = 1
    adopt()
    try:
        for fd in foreign:
            os.close(fd)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(nothing)
        os.close(output)
        # A pipe is no terminal, so what is printed would be kept until there is much of it, or lost.
        sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        with contextlib.suppress(OSError), open("/proc/self/comm", "w") as file:  # noqa: PTH123  no path to be had
            file.write(title[-15:])
        work(socket.socket(fileno=control))
        code = 0
    except BaseException:  # noqa: BLE001  nothing may go on as a second nursery
        sys.excepthook(*sys.exc_info())
    finally:
        flush()
        os._exit(code)


if __name__ == "__main__":
    main()
