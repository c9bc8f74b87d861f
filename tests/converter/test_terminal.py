import os
import pty
import subprocess
import sys
from pathlib import Path

from converter.progress import Counter
from converter.terminal import shown_progress

SCRIPT = (
    "from converter.progress import Counter; from converter.terminal import shown_progress\n"
    "with shown_progress() as progress:\n"
    "    counter = Counter(progress, 2); counter.begin('int8: [bold]converting'); counter.end(); counter.end()"
)


def test_without_a_terminal_progress_is_plain_lines_on_stderr(capsys):
    """One line a step, none for an end that says nothing, and nothing on stdout."""
    with shown_progress() as progress:
        counter = Counter(progress, 3)
        counter.begin("reading")
        counter.end()
        counter.begin("converting")
        counter.end("failed", log="the log", steps=2)
    assert capsys.readouterr() == ("", "[0/3] reading\n[1/3] converting\n[3/3] failed\n")


def test_logs_are_shown_when_asked_for(capsys):
    """With `logs`, what a failed step wrote follows it."""
    with shown_progress(logs=True) as progress:
        Counter(progress, 1).end("failed", log="the log")
    assert capsys.readouterr().err == "[1/1] failed\nthe log\n"


def test_on_a_terminal_there_is_a_bar():
    """A terminal gets a bar that is redrawn, and text is not read as markup."""
    shown = on_terminal("xterm")
    assert "━" in shown
    assert "[bold]converting" in shown


def test_on_a_terminal_that_can_not_redraw_there_are_lines():
    """A bar would show nothing there."""
    assert on_terminal("dumb").splitlines() == ["[0/2] int8: [bold]converting"]


def on_terminal(kind):
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=theirs, env={**os.environ, "TERM": kind}, check=True)
    os.close(theirs)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    return shown


def test_progress_that_can_not_be_written_fails_nothing():
    """What is done goes on, and the exit code is its own."""
    with Path("/dev/full").open("w") as full:
        subprocess.run([sys.executable, "-c", SCRIPT], stderr=full, check=True)
