"""A program that reads JSON for the server: it forks for each body, so that whatever one takes ends with that fork.

    python -m fallback_server.transport.rest.json_reader_main SOCKET LIFELINE

It has one thread, and loads neither TensorFlow nor gRPC. For each socket that is sent over SOCKET a fork of it takes a
bound on its memory and a call from there, and gives back what that returns or raises; one that needs more memory than
its bound ends without a word.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import resource
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

from fallback_server.core.errors import ServerError
from fallback_server.transport.rest import inference_codec, json_codec, pickles


def main() -> None:
    """Forks until the server goes away."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _end_with(int(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Meant for the server, which says what is to end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel reaps.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # Before the server, where memory is short.
    json_codec.dump({})
    gc.disable()  # What is read has no cycles, and ends with its process.
    assert inference_codec
    while True:
        _, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not fds:
            return
        with socket.socket(fileno=fds[0]) as sock:
            try:
                forked = not os.fork()
            except OSError:
                with contextlib.suppress(OSError):
                    sock.sendall(pickles.FULL)
                continue
            if forked:
                _answer(control, sock)


def _answer(control: socket.socket, sock: socket.socket) -> None:
    """In the fork; does not return. Nothing is freed: the kernel is quicker."""
    try:
        control.close()
        sock.sendall(pickles.FORKED)
        (limit_bytes,) = pickles.LIMIT.unpack(pickles.exactly(sock, bytearray(pickles.LIMIT.size)))
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
        function, body, arguments = pickles.receive(sock, bytearray)
        try:
            answer = True, function(body, *arguments)
        except MemoryError:
            raise
        except ServerError as error:
            answer = False, error
        except Exception:  # noqa: BLE001  whatever it is, the server says it
            answer = False, RuntimeError(traceback.format_exc())
        pickles.send(sock, answer)
    finally:
        os._exit(0)


def _end_with(lifeline: int) -> None:
    """Has the kernel kill this process group when the server, which holds the pipe's other end, is gone."""
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline)
    if poll.poll(0):  # It had ended before the signal was asked for.
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
