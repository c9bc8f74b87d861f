import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from support import edge_delegates, software_gpu
from support.add_models import add_model
from support.delegate_libraries import COMPILER, build
from support.loops import until

from edge_runtime import trial as trial_module
from edge_runtime import trial_child
from edge_runtime.trial import Trials, try_delegate
from edge_runtime.trial_child import ADD_MODEL

pytestmark = pytest.mark.slow
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler to build a delegate's library with")


def see_gpu(monkeypatch):
    """Child processes see the GPU in software from now on."""
    for name in ("LD_LIBRARY_PATH", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(name, software_gpu.required()[name])


def test_the_model_is_what_its_generator_writes():
    """The constant can be made again."""
    assert add_model() == ADD_MODEL


def test_the_cpu_runs_a_model():
    """The interpreter that is installed adds two vectors."""
    trial = try_delegate("cpu")
    assert (trial.ok, trial.ran_model, trial.error, trial.failure) == (True, True, "", "")


@needs_compiler
def test_an_edge_tpus_library_is_handed_a_model(tmp_path):
    """It loads, prepares a model that it can't take, and is let go; what it prints does not spoil the answer."""
    library = build(tmp_path)
    trial = try_delegate("edgetpu", library=library)
    assert (trial.ok, trial.ran_model, trial.library) == (True, False, library), (trial.error, trial.failure)
    assert library in trial.detail


@needs_compiler
def test_another_library_gets_its_options_and_runs_the_model(tmp_path):
    """Its own record shows the option, and that it took the operator is told from the interpreter."""
    library, record = str(edge_delegates.build(tmp_path)), tmp_path / "record"
    trial = try_delegate("external", library=library, options={"device": "usb:1", "record_file": str(record)})
    assert (trial.ok, trial.ran_model) == (True, True)
    assert record.read_text() == "device=usb:1\n"


@needs_compiler
@pytest.mark.parametrize(
    ("options", "failure", "error"),
    [
        ({"nonsense": "1"}, "refused", "unknown option"),
        ({"refuse": "1"}, "refused", "Failed to load delegate from "),
        ({"refuse_model": "1"}, "refused", "the delegate refuses the model"),
        ({"fail_at": "1"}, "refused", "the delegate fails at invoke 1"),
        ({"abort_at": "1"}, "crashed", "killed by SIGABRT\nthe delegate aborts at invoke 1"),
    ],
)
def test_options_that_go_wrong_are_an_answer(tmp_path, options, failure, error):
    """What the library says of them arrives."""
    trial = try_delegate("external", library=str(edge_delegates.build(tmp_path)), options=options)
    assert (trial.ok, trial.failure) == (False, failure)
    assert error in trial.error


@needs_compiler
@pytest.mark.parametrize(
    ("behaviour", "failure", "error"),
    [
        ("SEGFAULT", "crashed", "killed by SIGSEGV"),
        ("EXIT", "crashed", "ended with status 3 and no answer"),
        ("NO_DELEGATE", "refused", "undefined symbol: tflite_plugin_create_delegate"),
    ],
)
def test_a_library_that_misbehaves_is_an_answer(tmp_path, behaviour, failure, error):
    """Whatever it does to the process that loads it, this one goes on and says what happened."""
    trial = try_delegate("edgetpu", library=build(tmp_path, behaviour))
    assert (trial.ok, trial.failure) == (False, failure)
    assert error in trial.error


@needs_compiler
def test_a_library_that_hangs_is_killed_at_the_limit(tmp_path):
    """The error says how long was waited, and holds what the library had printed."""
    started_s = time.monotonic()
    trial = try_delegate("edgetpu", library=build(tmp_path, "HANG"), limit_s=1.5)
    assert time.monotonic() - started_s < 60
    assert (trial.error, trial.failure) == ("no answer within 1.5 s\nwaiting for the device", "stuck")


def trial_of(process):
    """The trial's child of a process once it has the library loaded, where it hangs."""
    found = []

    def has_it(child):
        try:
            return any("libedgetpu" in one.path for one in child.memory_maps())
        except psutil.Error:  # It has ended: another test's, or one that is still to run its program.
            return False

    def hangs():
        found[:] = filter(has_it, psutil.Process(process).children())
        return found

    until(hangs)
    return found[0]


@needs_compiler
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_trial_that_is_ended_from_outside_says_nothing_of_the_library(tmp_path, number):
    """A user, a service manager or the kernel ended it: that is no crash. Ctrl-C does not reach it at all."""
    trials = []
    library = build(tmp_path, "HANG")
    thread = threading.Thread(target=lambda: trials.append(try_delegate("edgetpu", library=library)))
    thread.start()
    child = trial_of(os.getpid())
    assert os.getpgid(child.pid) != os.getpgid(0)
    child.send_signal(number)
    thread.join()
    assert (trials[0].ok, trials[0].failure) == (False, "refused")
    assert trials[0].error.startswith(f"ended from outside, by {number.name}")


@needs_compiler
def test_trials_are_called_off(tmp_path):
    """Their children are killed and reaped, who waits for them is told; one that begins later is called off as well."""
    off, told, library = Trials(), [], build(tmp_path, "HANG")
    thread = threading.Thread(target=lambda: told.append(try_delegate("edgetpu", library=library, trials=off)))
    thread.start()
    child = trial_of(os.getpid())
    assert "1 under way" in repr(off)
    off.call_off()
    assert not psutil.pid_exists(child.pid)
    thread.join()
    told.append(try_delegate("edgetpu", library=library, trials=off))
    assert [(one.failure, one.error) for one in told] == [("refused", "the runtime was closed")] * 2


PARENT = """
import sys
sys.path[:0] = {path!r}
from edge_runtime.trial import try_delegate
try_delegate("edgetpu", library={library!r})
"""


@needs_compiler
def test_a_trial_ends_with_the_application(tmp_path):
    """When the application is killed its trial goes too, and lets go of the device."""
    program = PARENT.format(path=sys.path, library=build(tmp_path, "HANG"))
    with subprocess.Popen([sys.executable, "-c", program]) as application:
        child = trial_of(application.pid)
        application.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_library_that_is_not_there():
    """The loader's own text arrives."""
    trial = try_delegate("edgetpu", library="/nowhere/libedgetpu.so.1")
    assert trial.error.startswith("/nowhere/libedgetpu.so.1: cannot open shared object file")
    assert trial.failure == "refused"


def test_a_gpu_runs_a_model(monkeypatch):
    """The sums are those of the GPU that is named, and that it is none in hardware is said."""
    see_gpu(monkeypatch)
    trial = try_delegate("gpu")
    assert (trial.ok, trial.ran_model) == (True, True)
    assert "on SwiftShader Device" in trial.detail
    assert "in software" in trial.detail


def test_a_loader_without_a_driver_is_told(tmp_path, monkeypatch):
    """What the loader printed is in the error, what LiteRT prints in any case is not."""
    see_gpu(monkeypatch)
    monkeypatch.setenv("VK_ICD_FILENAMES", str(tmp_path / "none.json"))
    trial = try_delegate("gpu")
    assert not trial.ok
    assert "Found no drivers!" in trial.error
    assert "INFO:" not in trial.error
    assert "openvino" not in trial.error.lower()


def test_without_an_npu_that_is_said():
    """No accelerator of the wheel's finds its hardware on a machine that runs tests."""
    trial = try_delegate("npu")
    assert trial.ok or trial.error.startswith("no NPU accelerator found hardware")


def test_the_current_directory_does_not_shadow_the_standard_library(tmp_path, monkeypatch):
    """The child works from any current directory, also one that holds modules of the standard library's names."""
    (tmp_path / "types.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert try_delegate("cpu").ok


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ('{"ok": true, "n": 1}', {"ok": True, "n": 1}),
        ('loading\n{"ok": true}\nunloaded: 3\n7\n{}\n["ok"]\n{"ok": 1}', {"ok": True}),
        ('{"ok": false, "error": "no"}\n{"ok": tr', {"ok": False, "error": "no"}),
        ("", None),
        ("bye", None),
    ],
)
def test_what_is_printed_after_the_answer_does_not_spoil_it(said, fields):
    """A library's own lines come out of C's buffers when the child ends; no answer is none."""
    assert trial_module._last_answer(said) == fields


def test_an_answer_for_which_there_is_no_room_is_nobodys_crash():
    """A full disk says nothing of what was tried."""
    answer = trial_module._answer(os.EX_IOERR, 1.0, said="", printed="")
    assert answer.failure == "refused"
    assert "could not be written" in answer.error


def test_a_lack_of_memory_is_told_by_what_cpp_says_of_it():
    """No name in a package stands for it: the process of one that crashes would count as ended from outside."""
    says = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc"
    for printed, failure in ((f"variant a, signature b\n{says}", "refused"), ("signature std::bad_alloc", "crashed")):
        answer = trial_module._answer(-signal.SIGABRT, 1.0, said="", printed=printed)
        assert (answer.failure, answer.from_outside) == (failure, failure == "refused")


def test_a_lack_of_memory_has_a_text():
    """Python has none for it."""
    assert "memory" in trial_child._text_of(MemoryError())
