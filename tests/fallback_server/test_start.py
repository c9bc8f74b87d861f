"""Signals reach a server from its first moment on, whoever it is to the system: real processes, seen from outside."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from fallback_server.signals import Signals

pytestmark = pytest.mark.slow

LIMIT_S = 60
COMMAND = [sys.executable, "-m", "fallback_server.cli", "--port=0", "--rest_api_port=0", "--no-mdns"]
UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]


def until(condition):
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < end, "it didn't come to that"
        time.sleep(0.002)
    return found


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


class Started:
    """A server that has just begun to start: its handlers are in place, and little more."""

    def __init__(self, tmp_path, *wrapper):
        self.process = subprocess.Popen(
            [*wrapper, *COMMAND, f"--model_repository={tmp_path}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()
        self.pid = until(self._server) if wrapper else self.process.pid
        until(lambda: catches(self.pid, signal.SIGTERM))

    def _server(self):
        return next((child.pid for child in psutil.Process(self.process.pid).children()), None)

    def ready(self):
        return self.process.stdout.readline().startswith("fallback-server listening on ")

    def ended(self):
        code = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return code, "".join(self.log)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def start(tmp_path):
    """Starts servers of an empty repository; none outlives the test."""
    servers = []

    def started(*wrapper):
        servers.append(Started(tmp_path, *wrapper))
        return servers[-1]

    yield started
    for server in servers:
        server.close()


@pytest.fixture
def unshare():
    """What makes a command the first process of a namespace."""
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], check=False, timeout=30).returncode:
        pytest.skip("this machine lets nobody make namespaces")
    return UNSHARE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_start(start, number):
    """Exit code 0, at once, and a line that says why; nothing is served before."""
    server = start()
    os.kill(server.pid, number)
    code, log = server.ended()
    assert (code, log) == (0, f"fallback-server: {number.name} during the start: stopped\n")
    assert server.process.stdout.read() == ""


def test_the_first_process_of_a_container_hears_a_stop_during_the_start(start, unshare):
    """The system gives it no signal that it has no handler for."""
    server = start(*unshare)
    os.kill(server.pid, signal.SIGTERM)
    until(lambda: server.process.poll() is not None or not psutil.pid_exists(server.pid))
    code, log = server.ended()
    assert (code, log) == (0, "fallback-server: SIGTERM during the start: stopped\n")


def test_a_hangup_during_the_start_is_made_up_for(start):
    """It ends nothing, and the configuration is read again once the server is there."""
    server = start()
    os.kill(server.pid, signal.SIGHUP)
    assert server.ready()
    until(lambda: any("the configuration was applied" in line for line in server.log))
    for _ in range(3):
        os.kill(server.pid, signal.SIGTERM)
    code, log = server.ended()
    assert code == 0, log
    assert log.count("SIGHUP: the configuration is read again") == 1


def test_a_hangup_is_remembered_and_handed_on_once():
    """And what is passed over does nothing; handlers of others are put back where nothing was served."""
    before = signal.getsignal(signal.SIGHUP)
    heard = []
    with Signals("program") as signals:
        signal.raise_signal(signal.SIGHUP)
        signals.deliver_stops(heard.append)
        assert heard == []
        signals.deliver_hangups(lambda: heard.append("hangup"))
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
    assert heard == ["hangup", signal.SIGTERM, "hangup"]
    assert signal.getsignal(signal.SIGHUP) is before


def test_other_threads_have_no_signals():
    """A program that serves in a thread of its own keeps its handlers."""
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def enter():
        with Signals("program"):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]
