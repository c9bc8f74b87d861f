import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest
from support.clock import FakeClock
from support.snapshots import Running, snapshot

from edge_runtime import EngineFailed, RuntimeClosed, top_command
from edge_runtime.cli import main
from edge_runtime.errors import InvalidConfig
from edge_runtime.metrics import serve_metrics
from edge_runtime.telemetry import RuntimeStats
from edge_runtime.top_command import Show, address_of

WAIT_S = 30
LINES, COLUMNS = 20, 90

SHELL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.fork()
if not child:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    from edge_runtime.cli import main
    sys.exit(main(sys.argv[1:]))
print(f"child {child};", flush=True)
while True:
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    print("stopped", flush=True)
"""
"""What a shell does with a job: without one above it the kernel stops no process for Ctrl-Z."""


@pytest.fixture
def running():
    """An application that is looked at, and the address of its metrics."""
    runtime = Running()
    with serve_metrics(runtime, "127.0.0.1:0") as server:
        runtime.address = server.address
        yield runtime


def test_one_look_as_text_and_as_json(running, capsys):
    """Where the output is no terminal, one look is all; JSON has every counter."""
    assert main(["top", running.address]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"edge-run top  {running.address}")
    assert "\x1b" not in out
    assert main(["top", running.address, "--once"]) == 0
    assert main(["top", running.address, "--json"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last)["stats"]["servers"] == {"10.0.0.7:8500": "closed", "10.0.0.8:8500": "open"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 2, "'host:port' or a runtime's .toml is expected, got 'nowhere'"),
        (["127.0.0.1:70000"], 2, "got '127.0.0.1:70000'"),
        (["nowhere.toml"], 2, "nowhere.toml: can't be read"),
        (["127.0.0.1:9", "--interval", "0"], 2, "--interval: from 0.1 to 60 seconds, got 0.0"),
        (["127.0.0.1:9", "--once"], 1, "nothing listens at 127.0.0.1:9"),
    ],
)
def test_what_can_not_be_shown_is_said(arguments, code, said, capsys):
    """In one line, with the exit code of its kind."""
    assert main(["top", *arguments]) == code
    assert said in capsys.readouterr().err


def test_the_address_is_the_given_the_file_s_the_environment_s_or_the_usual_one(tmp_path, monkeypatch):
    """In this order; a file without metrics says what to add."""
    file = tmp_path / "camera.toml"
    file.write_text('store = "."\nmetrics = "127.0.0.1:9123"\n')
    monkeypatch.setenv("EDGE_METRICS", "127.0.0.1:9200")
    assert address_of("[::1]:9101") == "[::1]:9101"
    assert address_of(str(file)) == "127.0.0.1:9123"
    assert address_of(None) == "127.0.0.1:9200"
    monkeypatch.delenv("EDGE_METRICS")
    assert address_of(None) == "127.0.0.1:9101"
    file.write_text('store = "."\n')
    with pytest.raises(
        InvalidConfig, match=r'camera\.toml: the runtime gives nothing out; add metrics = "127\.0\.0\.1:9101"'
    ):
        address_of(str(file))


class Paper:
    """A terminal that keeps what is drawn, and whose keys the test presses; a wait for a key takes its time."""

    def __init__(self, clock, *keys):
        self.clock, self.keys = clock, list(keys)
        self.size = (COLUMNS, LINES)
        self.drawn = []

    def draw(self, lines):
        assert len(lines) <= self.size[1]
        assert all(len(line) <= self.size[0] for line in lines)
        self.drawn.append(lines)

    def key(self, timeout_s):
        key = self.keys.pop(0)
        if not key:
            self.clock.advance(timeout_s)
        return key


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Keys are for what is shown, however busy this machine is."""
    monkeypatch.setattr(top_command, "_PROMPT_S", WAIT_S)


def shown(running, *keys):
    clock = FakeClock()
    paper = Paper(clock, *keys, "q")
    Show(running.address, paper, snapshot(taken_s=-1.0), interval_s=1.0, clock=clock).run()
    return paper.drawn


def test_it_looks_again_after_each_interval(running):
    """A picture for each look, and for each key."""
    first, second = shown(running, "")
    assert "pid 42" in first[0]
    assert f"pid {os.getpid()}" in second[0]


def test_keys_are_heeded_while_an_answer_is_late(monkeypatch):
    """Who answers never, or a byte a second, holds up no `q`."""
    monkeypatch.setattr(top_command, "_PROMPT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        clock = FakeClock()
        paper = Paper(clock, "", " ", "q")
        show = Show(f"127.0.0.1:{silent.getsockname()[1]}", paper, snapshot(), interval_s=1.0, clock=clock)
        show.run()
    assert (len(paper.drawn), paper.keys) == (2, [])
    assert "halted" in paper.drawn[-1][-1]


def test_json_of_foreign_names_moves_no_cursor(running, capsys, monkeypatch):
    """Whatever letters a model's name has, they come as ASCII, and are the same ones to who reads them."""
    stats = RuntimeStats(servers={"\u009b2J\u202e": "closed"})
    monkeypatch.setattr(running, "stats", lambda: stats)
    assert main(["top", running.address, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out)["stats"]["servers"] == stats.servers


def test_a_runtime_that_is_gone_is_told_and_waited_for(running):
    """What was seen last stays, with how long ago that was; when it is back the line is gone."""
    running.error = RuntimeClosed("it is closed")
    seen = shown(running, "", "")
    assert "pid 42" in seen[-1][0]
    assert seen[-1][-1].startswith("no answer for 2 s, asking on:")
    assert "it is closed" in seen[-1][-1]
    running.error = None
    assert "no answer" not in shown(running, "")[-1][-1]
    running.error = EngineFailed("")
    assert "no answer" in shown(running, "")[-1][-1]


def test_what_does_not_fit_is_scrolled(running):
    """The head stays; the rest moves under it, no further than its end."""
    drawn = shown(running, "down", *["page down"] * 9, "up", "g")
    assert {tuple(picture[:2]) for picture in drawn} == {tuple(drawn[0][:2])}
    assert re.search(r"up, down: \d+ more lines", drawn[0][-1])
    assert drawn[1][5:8] == drawn[0][6:9]
    assert drawn[9] == drawn[10]
    assert "TimeoutError" in drawn[10][-2]
    assert drawn[-1] == drawn[0]


def test_what_is_too_wide_is_scrolled(running):
    """In a narrow terminal everything can be reached: the lines move by half its width, no further than their end."""
    clock = FakeClock()
    paper = Paper(clock, *["right"] * 9, "l", *["left"] * 9, "q")
    paper.size = (40, 200)
    Show(running.address, paper, snapshot(), interval_s=1.0, clock=clock).run()
    first, second, last = paper.drawn[0], paper.drawn[1], paper.drawn[9]
    assert "left, right" in first[-1]
    assert [one[:20].rstrip() for one in second[:-1]] == [one[20:].rstrip() for one in first[:-1]]
    assert any(one.endswith("it hangs") for one in last)
    assert paper.drawn[10] == last
    assert paper.drawn[-1] == first


def test_a_halted_picture_stays(running):
    """No look is taken until it goes on."""
    halted = shown(running, " ", "", "")
    assert "halted" in halted[-1][-1]
    assert "pid 42" in halted[-1][0]
    assert f"pid {os.getpid()}" in shown(running, " ", "", " ", "")[-1][0]


def test_a_small_window_shows_what_it_can(running):
    """Down to one line, and with every key."""
    for size in ((20, 1), (1, 5), (80, 2)):
        clock = FakeClock()
        paper = Paper(clock, "down", "", "resized", "x", "q")
        paper.size = size
        Show(running.address, paper, snapshot(), interval_s=1.0, clock=clock).run()
        assert paper.drawn


class Screen:
    """`edge-run top` in a terminal of its own."""

    def __init__(self, address, kind="xterm"):
        self.main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.modes = termios.tcgetattr(side)
        self.side = side
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", SHELL, "top", address, "--interval", "0.1"],
            stdin=side,
            stdout=side,
            stderr=side,
            env={
                **os.environ,
                "TERM": kind,
                "NO_COLOR": "",
                "PYTHONIOENCODING": "utf-8",
                "COLUMNS": "",
                "LINES": "",
            },
            start_new_session=True,
        )

    def until(self, wanted, begin=0):
        end_s = time.monotonic() + WAIT_S
        while wanted not in self.text[begin:]:
            assert time.monotonic() < end_s, self.text[-2000:]
            if select.select([self.main], [], [], 0.1)[0]:
                self.text += os.read(self.main, 65536).decode()

    def send(self, number):
        self.until(";")
        os.kill(int(re.search(r"child (\d+);", self.text)[1]), number)

    def ended(self):
        """The exit code; the terminal is as it was."""
        self.until("\x1b[?1049l", self.text.rindex("\x1b[?1049h"))
        code = self.process.wait(WAIT_S)
        assert termios.tcgetattr(self.side) == self.modes
        assert "\x1b[?25h" in self.text
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)
        os.close(self.side)
        os.close(self.main)  # With it the terminal goes, and whoever is left in it.


@pytest.fixture
def screen(running):
    screen = Screen(running.address)
    yield screen
    screen.close()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["q", "\x03", signal.SIGTERM])
def test_a_terminal_is_given_back_however_it_ends(screen, way):
    """By its key, by Ctrl-C, by a signal: modes, cursor and screen are as they were."""
    screen.until("q quit")
    assert "\x1b[?1049h" in screen.text
    if isinstance(way, str):
        os.write(screen.main, way.encode())
    else:
        screen.send(way)
    assert screen.ended() == (0 if isinstance(way, str) else 128 + signal.SIGTERM)
    assert "Traceback" not in screen.text


@pytest.mark.slow
def test_a_terminal_is_given_back_while_it_is_stopped(screen):
    """Ctrl-Z leaves the screen; going on takes it again, and draws. A window that has changed is drawn anew."""
    screen.until("q quit")
    os.write(screen.main, b"\x1a")
    screen.until("stopped")
    assert screen.text.index("\x1b[?1049l") < screen.text.index("stopped")
    seen = len(screen.text)
    screen.send(signal.SIGCONT)
    screen.until("\x1b[?1049h", seen)
    screen.until("q quit", seen)
    fcntl.ioctl(screen.side, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 40, 0, 0))
    screen.until("more lines")
    os.write(screen.main, b"q")
    assert screen.ended() == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_terminal_that_can_not_be_drawn_on_is_written_on(running, kind):
    """A picture after the other, without one control sequence, until its key or Ctrl-C."""
    screen = Screen(running.address, kind)
    try:
        while screen.text.count("edge-run top") < 3:
            screen.until("digits/3  TimeoutError", len(screen.text))
        os.write(screen.main, b"q\n")
        assert screen.process.wait(WAIT_S) == 0
        assert "\x1b" not in screen.text
    finally:
        screen.close()
