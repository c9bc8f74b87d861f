"""A client that goes on asking while others do harm, and what a server costs meanwhile."""

import contextlib
import threading
import time

import grpc
import psutil
from support.fallback_process import ServerProcess
from support.worker_servers import Connection, publish

MIB = 2**20
DEADLINE_S = 30
"""Of the bystander's requests: machines of tests are slow, and what hangs takes longer."""

FLAGS = ("--port=0", "--no-mdns", "--file_system_poll_wait_seconds=0")


def serve(path, *flags):
    """A server with a model that doubles four numbers."""
    publish(path, 1, 2.0)
    return ServerProcess(*FLAGS, f"--model_repository={path}", *flags)


def memory_mib(server):
    return psutil.Process(server.process.pid).memory_info().rss / MIB


def sockets(server):
    return psutil.Process(server.process.pid).num_fds()


def settled(measure, server, most, end_s=20.0):
    """What a figure of a server comes down to, at once or soon."""
    end_s += time.monotonic()
    while (found := measure(server)) > most and time.monotonic() < end_s:
        time.sleep(0.1)
    return found


class Bystander:
    """Asks without a pause over a connection of its own, from a thread of its own.

    Attributes:
        answered: How many of its requests were answered right.
        failed: What became of the others.
    """

    def __init__(self, server):
        self._connection = Connection(server.address)
        self._stopped = threading.Event()
        self.answered, self.failed = 0, []
        assert self._connection.predict() == (1, 2.0)
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self):
        number = 0
        while not self._stopped.wait(0.005):
            number += 1
            try:
                answer = self._connection.predict(timeout=DEADLINE_S, values=(number, 0, 0, 0))
            except grpc.RpcError as error:
                self.failed.append((error.code().name, error.details()))
            else:
                self.answered += answer == (1, 2.0 * number)
                self.failed += [answer] * (answer != (1, 2.0 * number))

    def served(self, more=5):
        """Waits until so many more are answered: what is done to the server lasts meanwhile."""
        most, end_s = self.answered + more, time.monotonic() + 2 * DEADLINE_S
        while self.answered < most and not self.failed:
            assert time.monotonic() < end_s, "others are not answered"
            time.sleep(0.01)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join(2 * DEADLINE_S)
        self._connection.close()
        assert not self._thread.is_alive()


@contextlib.contextmanager
def others_served(server, *, most_mib):
    """Others are answered meanwhile, and after it; and the server's memory has grown by so many MiB at most."""
    before_mib = memory_mib(server)
    with Bystander(server) as bystander:
        yield bystander
        grown_mib = memory_mib(server) - before_mib
    assert bystander.failed == []
    assert grown_mib <= most_mib
    with contextlib.closing(Connection(server.address)) as comer:
        assert comer.predict(timeout=DEADLINE_S) == (1, 2.0)
    assert server.process.poll() is None
