import os
import signal
import subprocess
import sys
import threading

import pytest
from support.edge_models import scale_model

from converter.interrupts import holding_interrupts


@pytest.fixture(autouse=True)
def _plain_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def reaches_its_end(*, hold_first):
    """Whether a body that is interrupted does; afterwards the interrupt has come in any case."""
    reached = []

    def body():
        with holding_interrupts() as hold:
            if hold_first:
                hold()
            signal.raise_signal(signal.SIGINT)
            reached.append(1)

    with pytest.raises(KeyboardInterrupt):
        body()
    return bool(reached)


def test_what_comes_before_the_call_interrupts_at_once():
    """Whoever waits for something long can still end it."""
    assert not reaches_its_end(hold_first=False)


def test_what_comes_after_the_call_comes_at_the_end():
    """The body is through first."""
    assert reaches_its_end(hold_first=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_outer_body_holds_to_its_end_and_can_forget():
    """What is held in the inner one does not come while the outer one tells of the outcome, nor after it."""
    reached = []
    with holding_interrupts(forget=True):
        with holding_interrupts() as hold:
            hold()
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        reached.append(1)
    assert reached == [1]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_error_of_the_body_ends_the_hold():
    """And passes on, where nothing was held."""

    def fail():
        with holding_interrupts() as hold:
            hold()
            raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        fail()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_without_a_handler_of_python_is_left_alone():
    """SIGTERM ends the process as ever, if nobody handles it; what is ignored stays ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with holding_interrupts() as hold:
        hold()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    for number, handler in before.items():
        signal.signal(number, handler)


def test_in_another_thread_it_does_nothing():
    """Handlers can be set in the main thread only."""
    held = []

    def body():
        with holding_interrupts() as hold:
            hold()
            held.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert held == [signal.default_int_handler]


@pytest.mark.slow
@pytest.mark.parametrize("event", ["os.rename", "shutil.rmtree"])
def test_interrupted_once_it_is_published_the_command_ends_as_done(tmp_path, event):
    """Ctrl-C between the renames, or as the staging folder is removed: the result is told, and the exit code is 0."""
    code = (
        "import os, signal, sys\n"
        "from converter.cli import main\n"
        "done = []\n"
        "def hook(event, arguments):\n"
        "    if event == sys.argv[1] and '.staging-' in str(arguments) and not done:\n"
        "        done.append(1); os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(hook)\n"
        "words = ['--name', 'm', '--version', '1', '--output', sys.argv[3]]\n"
        "code = main(['wrap', sys.argv[2], *words])\n"
        "assert done\n"
        "sys.exit(code)"
    )
    file = tmp_path / "m.tflite"
    file.write_bytes(scale_model(2.0))
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code, event, file, tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "m version 1" in done.stdout
    assert (tmp_path / "out" / "m" / "1").is_dir()
