"""A program that reads JSON for the server: it forks for each body, so that whatever one takes ends with that fork.

    python -m fallback_server.transport.rest.json_reader_main SOCKET LIFELINE

It has one thread, and loads neither TensorFlow nor gRPC. For each socket that is sent over SOCKET, and with it the end
of a pipe, a fork of it takes a bound on its memory and a call from there, and gives back what that returns or raises.
Where one needs more memory than its bound, or the server would need more for what it has read, this program says so:
such a fork can say nothing, and a parser written in C may have crashed. A fork is killed when the other end of its pipe
is closed, the program when that of LIFELINE is.
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
from typing import NoReturn

from fallback_server.core.errors import ServerError
from fallback_server.transport.rest import inference_codec, json_codec, pickles

_NO_ROOM = 3
_OUT_OF_MEMORY = frozenset({_NO_ROOM, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS})
"""How a fork ends for which its bound was too low."""


def main() -> None:
    """Forks until the server goes away."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _end_with(int(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Meant for the server, which says what is to end.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # Before the server, where memory is short.
    json_codec.dump({})
    gc.disable()  # What is read has no cycles, and ends with its process.
    assert inference_codec
    _Forks(control).run()


class _Forks:
    """The program's forks, and the sockets over which they answer."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._socks: dict[int, socket.socket] = {}
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, _heed)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> None:
        """Until the server goes away."""
        while True:
            ready, _, _ = select.select([self._control.fileno(), self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, select.PIPE_BUF)
                self._reap()
            if self._control.fileno() in ready:
                _, fds, _, _ = socket.recv_fds(self._control, 1, 2)
                if not fds:
                    return
                sock = socket.socket(fileno=fds[0])
                if len(fds) == 1:  # No descriptor was left for the other.
                    _say(sock, pickles.FULL)
                else:
                    self._fork(sock, fds[1])

    def _fork(self, sock: socket.socket, lifeline: int) -> None:
        try:
            pid = os.fork()
        except OSError:
            _say(sock, pickles.FULL)
        else:
            if not pid:
                self._answer(sock, lifeline)
            _say(sock, pickles.FORKED)  # Not by the fork: one that is killed at once is no sign that this program was.
            self._socks[pid] = sock
        os.close(lifeline)

    def _answer(self, sock: socket.socket, lifeline: int) -> NoReturn:
        """In the fork. Nothing is freed: the kernel is quicker."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            _end_with(lifeline)
            self._control.close()
            for other in self._socks.values():
                other.close()
            status = _read(sock)
        except OSError:
            pass  # Nobody waits for the answer any more.
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while self._socks:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._socks.pop(pid) as sock:
                if os.waitstatus_to_exitcode(status) in _OUT_OF_MEMORY:
                    _say(sock, pickles.NO_ROOM)


def _heed(_number: int, _frame: object) -> None:
    """Has a signal wake the program."""


def _say(sock: socket.socket, what: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.send(what, socket.MSG_DONTWAIT)


def _read(sock: socket.socket) -> int:
    """Answers one call; the status to end with."""
    (limit_bytes,) = pickles.LIMIT.unpack(pickles.exactly(sock, bytearray(pickles.LIMIT.size)))
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    try:
        function, body, arguments = pickles.receive(sock, bytearray)
        try:
            answer = True, function(body, *arguments)
        except MemoryError:
            raise
        except ServerError as error:
            answer = False, error
        except Exception as error:  # noqa: BLE001  whatever it is, the server says it
            if isinstance(error.__cause__ or error.__context__, MemoryError):
                return _NO_ROOM  # What a parser written in C makes of it.
            answer = False, RuntimeError(traceback.format_exc())
        pickles.send(sock, answer, max_bytes=limit_bytes)
    except MemoryError:
        return _NO_ROOM
    return 0


def _end_with(lifeline: int) -> None:
    """Has the kernel kill this process when the server, which holds the pipe's other end, closes that or is gone."""
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline)
    if poll.poll(0):  # It had ended before the signal was asked for.
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
