"""Runtimes that fetch what they lack while servers answer for them: real servers, real first runs, real kills."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.delivery_servers import add_version, delivering
from support.edge_models import publish_scale, rows
from support.package_senders import sending

from edge_runtime import InvalidConfig, Runtime
from edge_runtime.installing.partial import FOLDER

QUIET = {"threads": 1, "poll_interval_s": 3600.0}
WAIT_S = 60

FETCHING = """
import sys, time
from edge_runtime import Runtime
runtime = Runtime.open(sys.argv[1], fallback=sys.argv[2], fetch="on-demand")
runtime.model("scale", version=1)
time.sleep(600)
"""


def until(condition):
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s, "it has not come about"
        time.sleep(0.01)


@pytest.mark.slow
def test_servers_answer_until_the_version_is_here(tmp_path):
    """From the moment that it is installed the device does; no request fails meanwhile, and none says otherwise."""
    add_version(tmp_path / "models", 3)
    (tmp_path / "store").mkdir()
    with (
        delivering(tmp_path / "models") as server,
        Runtime.open(tmp_path / "store", fallback=server.address, fetch="on-demand", **QUIET) as runtime,
    ):
        model = runtime.model("scale", version=3)
        replies = []

        def here():
            replies.append(model.predict(rows(1, 1), deadline_ms=20_000))
            return replies[-1].place.startswith("device:")

        until(here)
        assert {reply.outputs["y"][0, 0] for reply in replies} == {3.0}
        assert {(reply.place.partition(":")[0], reply.reason) for reply in replies} == {
            ("server", "version-missing"),
            ("device", "local"),
        }
        assert model.engines
        assert (tmp_path / "store/scale/3.profile.json").exists()


@pytest.mark.slow
def test_a_followed_server_leads_without_a_dropped_request(tmp_path):
    """To a new version and back from it, also after a restart without the server."""
    add_version(tmp_path / "models", 1)
    (tmp_path / "store").mkdir()
    options = {"fetch": "follow", **QUIET}
    with delivering(tmp_path / "models") as server:
        with Runtime.open(tmp_path / "store", fallback=server.address, **options) as runtime:
            model = runtime.model("scale")

            def answers(version):
                runtime._fetcher._due_s.clear()
                runtime._fetcher.wake()
                reply = model.predict(rows(1, 1), deadline_ms=20_000)
                assert reply.outputs["y"][0, 0] == reply.version
                return (reply.version, reply.place.startswith("device:")) == (version, True)

            until(lambda: answers(1))
            add_version(tmp_path / "models", 2)
            server.look()
            until(lambda: answers(2))
            server.control.rollback("scale")
            until(lambda: answers(1))
        address = server.address
    with Runtime.open(tmp_path / "store", fallback=address, **options) as runtime:
        assert runtime.model("scale").predict(rows(1, 1)).version == 1


@pytest.mark.slow
def test_killed_while_it_fetches_a_runtime_goes_on_where_it_was(tmp_path):
    """With kill -9 in the middle of a file: the next runtime asks for the rest of it alone."""
    package = publish_scale(tmp_path / "published", 1, 1.0, content=os.urandom(300_000))
    (tmp_path / "store").mkdir()

    def come():
        return sum(path.stat().st_size for path in (tmp_path / "store").glob(f"{FOLDER}/*/*.part"))

    with sending(package) as sender:
        going_on = []

        def slowly(request):
            for number, piece in enumerate(sender.pieces(request)):
                if number > 100 and not going_on:
                    time.sleep(0.05)
                yield piece

        sender.send = slowly
        command = [sys.executable, "-c", FETCHING, str(tmp_path / "store"), sender.address]
        process = subprocess.Popen(command)
        try:
            until(lambda: come() > 100_000)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        had = come()
        going_on.append(True)
        sender.asked.clear()
        with Runtime.open(tmp_path / "store", fallback=sender.address, fetch="on-demand", **QUIET) as runtime:
            runtime.model("scale", version=1)
            # No engine takes random bytes, so all that comes is kept for when one does.
            until(lambda: list((tmp_path / "store").glob(f"{FOLDER}/*/tree")))
        assert sender.asked == [("variants/float32.tflite", had)]
        assert runtime.installed == {}


def test_a_runtime_that_can_fetch_nothing_is_refused(tmp_path):
    """Without a server, and without a folder of packages: named when it is opened."""
    (tmp_path / "store").mkdir()
    with pytest.raises(InvalidConfig, match="fetch='follow': there is no server"):
        Runtime.open(tmp_path / "store", fetch="follow")
    package = publish_scale(tmp_path / "published", 1, 1.0)
    with pytest.raises(InvalidConfig, match="is no folder of packages"):
        Runtime.open(package.path, fetch="on-demand", fallback="127.0.0.1:9")
