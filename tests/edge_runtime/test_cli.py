import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.edge_models import publish_scale, rows
from support.privileges import unprivileged

from converter.artifact import InputPreprocess, Preprocess, archive_path
from edge_runtime import EngineFailed, InvalidInput, cli
from edge_runtime.cli import main
from edge_runtime.predict_command import as_json, as_text, read
from edge_runtime.types import Reply


@pytest.fixture
def packages(tmp_path):
    root = tmp_path / "packages"
    publish_scale(
        root, 1, 2.0, labels=("a", "b", "c", "d"), preprocess=Preprocess(inputs={"x": InputPreprocess(scale=0.5)})
    )
    return root


def test_install_list_label(packages, tmp_path, capsys):
    """An archive is installed, listed, and a label pointed to it."""
    store = tmp_path / "store"
    assert main(["install", str(archive_path(packages, "scale", 1)), "--store", str(store), "--no-trial"]) == 0
    assert main(["label", str(store), "scale", "stable", "1"]) == 0
    assert main(["list", str(store)]) == 0
    assert "scale/1  2.12 KiB  never      not measured  stable" in capsys.readouterr().out
    assert main(["list", str(store), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["scale"]
    assert (listed["versions"], listed["labels"]) == ([1], {"stable": 1})


def test_predict_shows_labels(packages, tmp_path, capsys):
    """A prediction from a file prints version, place and the labels of the best classes."""
    np.save(tmp_path / "x.npy", rows(2))
    assert main(["predict", str(packages), "scale", str(tmp_path / "x.npy")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("version 1, device:cpu (local)")
    assert "d 6.0000  c 4.0000" in out


def test_predict_raw_and_json(packages, tmp_path, capsys):
    """Raw values go through the package's preprocessing, and --json holds every output value."""
    np.savez(tmp_path / "x.npz", x=np.full((1, 4), 6, np.uint8))
    assert main(["predict", str(packages), "scale", str(tmp_path / "x.npz"), "--raw", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"y": [[6.0] * 4]}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["predict", "{packages}", "scale", "{x}", "--version", "9"], 2, "version 9 is not available"),
        (["predict", "{packages}", "other", "{x}"], 2, "'other'"),
        (["predict", "{packages}", "other", "{x}", "--fallback", "127.0.0.1:9"], 1, "'other'"),
        (["predict", "{packages}/scale", "{x}"], 2, "holds versions 1 of one model: give the folder of packages"),
        (["predict", "{packages}/scale/1", "{x}", "--version", "0"], 2, "version 0"),
        (["predict", "{packages}/scale/1", "{x}", "--version", "7"], 2, "version 7"),
        (["predict", "{packages}", "scale", "{packages}/none.npy"], 2, "can't be read"),
        (["predict", "{packages}/none", "scale", "{x}"], 2, "no such directory"),
        (["install", "{packages}/none.tar.gz", "--store", "{packages}"], 2, "no such file"),
        (["install", "{x}", "--store", "{packages}"], 2, "no .tar.gz"),
        (["label", "{packages}", "scale", "stable", "4"], 2, "not installed"),
        (["label", "{packages}", "../scale", "stable", "1"], 2, "model name '../scale'"),
        (["label", "{packages}", "scale", "a\nb", "1"], 2, "printable"),
        (["install", "{packages}/scale/1", "--store", "{x}"], 2, "x.npy: Not a directory"),
        (["install", "{packages}/scale/1", "--store", "{x}/below"], 2, "x.npy/below: Not a directory"),
        (["list", "{x}"], 2, "x.npy: not a directory"),
        (["predict", "{packages}", "scale", "{x}", "--version", "9" * 20, "--fallback", "127.0.0.1:9"], 2, "version 9"),
        (["predict", "{packages}", "scale", "{x}", "--version", "0"], 2, "version 0"),
    ],
)
def test_failures_are_one_line_with_an_exit_code(packages, tmp_path, capsys, arguments, code, said):
    """What can't be done is one clear line on stderr and an exit code, never a traceback."""
    x = tmp_path / "x.npy"
    np.save(x, rows(1))
    assert main([one.format(packages=packages, x=x) for one in arguments]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["use", "scale", "1"], ["quota", "1GB"]])
def test_a_disk_that_takes_nothing_more_is_no_bad_input(packages, tmp_path, arguments):
    """The code is that of a machine that could not do it, and no half of a file stays behind."""
    store = tmp_path / "store"
    assert main(["install", str(packages / "scale" / "1"), "--store", str(store), "--no-trial"]) == 0
    before = sorted(path for path in store.rglob("*") if path.is_file())
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    run = "import sys; from edge_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{full}; {run}", *arguments, "--store", str(store)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path for path in store.rglob("*") if path.is_file()) == before


def test_a_full_disk_is_named_by_the_store(packages, tmp_path):
    """Neither by what is installed, which is elsewhere, nor not at all."""
    store = tmp_path / "store"
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    run = "import sys; from edge_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    for source in (packages / "scale" / "1", packages / "scale-1.tar.gz"):
        done = subprocess.run(
            [sys.executable, "-c", f"{full}; {run}", "install", source, "--store", store, "--no-trial"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (1, f"edge-run: {store}: File too large\n")
    assert not list(store.iterdir())


def test_a_store_without_permission_is_one_line(packages, tmp_path, capsys):
    """A store that can't be written or read is named with the system's reason."""
    store = tmp_path / "store"
    store.mkdir(0o555)
    with unprivileged():
        assert main(["install", str(packages / "scale" / "1"), "--store", str(store)]) == 1
    assert "Permission denied" in capsys.readouterr().err
    store.chmod(0)
    with unprivileged():
        assert main(["list", str(store)]) == 2
    assert capsys.readouterr().err == f"edge-run: store {store}: Permission denied\n"
    store.chmod(0o755)


def damaged_inputs():
    """Files that are no arrays, by name."""
    plain, packed, objects = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(plain, np.zeros(4, np.float32))
    np.savez(packed, x=np.zeros(64, np.float32))
    np.savez(objects, x=np.array([{}], object))
    wrong_sum = bytearray(packed.getvalue())
    wrong_sum[200] ^= 1
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    huge = plain.getvalue().replace(b"(4,), }" + b" " * 12, b"(9999999999999,), }", 1)
    return {
        "object.npz": objects.getvalue(),
        "sum.npz": bytes(wrong_sum),
        "text.npz": other.getvalue(),
        "huge.npy": huge,
        "cut.npy": plain.getvalue()[:-1],
        "header.npy": plain.getvalue()[:40],
        "empty.npy": b"",
    }


@pytest.mark.parametrize("name", list(damaged_inputs()))
def test_inputs_that_are_no_arrays_are_refused(packages, tmp_path, capsys, name):
    """Whatever numpy or zipfile raise for a damaged file, the answer is one line and the code for bad input."""
    path = tmp_path / name
    path.write_bytes(damaged_inputs()[name])
    with pytest.raises(InvalidInput, match="can't be read"):
        read(path)
    assert main(["predict", str(packages), "scale", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"edge-run: {path}: can't be read as .npy or .npz: ")
    assert err.count("\n") == 1


def reply(**outputs):
    return Reply(outputs=outputs, version=1, place="device:cpu", reason="local", latency_ms=1.0)


def test_json_is_valid_whatever_the_numbers_are():
    """NaN and infinities are strings, bytes are text, complex numbers are pairs, and scalars are themselves."""
    text = as_json(
        reply(
            scores=np.array([[np.nan, np.inf, -np.inf, 1.5]], np.float32),
            names=np.array([b"a", b"\xff"], object),
            wave=np.array([1 + 2j, np.nan], np.complex64),
            count=np.array(3),
            lost=np.array(np.nan),
        )
    )
    outputs = json.loads(text, parse_constant=pytest.fail)["outputs"]
    assert outputs == {
        "scores": [["NaN", "Infinity", "-Infinity", 1.5]],
        "names": ["a", "\ufffd"],
        "wave": [[1.0, 2.0], ["NaN", 0.0]],
        "count": 3,
        "lost": "NaN",
    }


def test_text_shows_outputs_of_any_rank_and_dtype():
    """Outputs without a dimension, of strings and of numbers that are no scores are shown as they are."""
    text = as_text(
        reply(one=np.array(2.5, np.float32), flat=np.arange(2.0), names=np.array([[b"x", b"y"]], object)), ("p", "q")
    )
    assert text.splitlines()[1:] == [
        "one float32[]",
        "  2.5",
        "flat float64[2]",
        "  0.",
        "  1.",
        "names object[1, 2]",
        "  [b'x' b'y']",
    ]


@pytest.mark.slow
def test_doctor_looks_for_room_at_the_store(tmp_path, capsys):
    """The disk that is looked at is the one that the packages are to be on."""
    main(["doctor", "--json", "--store", str(tmp_path / "store")])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["disk"]["detail"].endswith(f"free at {tmp_path}")


def run(*arguments, **options):
    command = [sys.executable, "-m", "edge_runtime.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
def test_predict_has_no_notes_of_litert_on_stderr(packages, tmp_path):
    """Unless they are asked for."""
    x = tmp_path / "x.npy"
    np.save(x, rows(1))
    with run("predict", packages, "scale", x) as quiet, run("--debug", "predict", packages, "scale", x) as loud:
        assert (quiet.communicate(timeout=60)[1], quiet.returncode) == ("", 0)
        assert "INFO: Created TensorFlow Lite XNNPACK delegate" in loud.communicate(timeout=60)[1]


@pytest.mark.slow
def test_warnings_come_before_the_answer_and_once(packages, tmp_path):
    """What was passed over is told where another version answers; where none does, it is the error, and told once."""
    publish_scale(packages, 2, 2.0)
    x = tmp_path / "x.npy"
    np.save(x, rows(1))
    file = next((packages / "scale" / "2").rglob("*.tflite"))
    file.write_bytes(bytes(file.stat().st_size))
    with run("predict", packages, "scale", x) as passed, run("predict", packages / "scale" / "2", x) as refused:
        out, err = passed.communicate(timeout=60)
        assert out.startswith("version 1")
        assert err.startswith("WARNING scale/2 can't be loaded and is passed over: ")
        out, err = refused.communicate(timeout=60)
    assert (out, err.count("\n"), refused.returncode) == ("", 1, 2)
    assert err.startswith("edge-run: scale/2: ")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "bench"])
def test_an_interrupt_is_a_line_and_a_code(packages, tmp_path, command):
    """130 and no traceback, whatever the command was at."""
    pipe = tmp_path / "pipe.npy"
    os.mkfifo(pipe)
    package = packages / "scale" / "1"
    arguments = {
        "predict": [package, pipe],
        "bench": [package, "--seconds", "60", "--delegate", "cpu", "--threads", "2"],
    }[command]
    quiet = {"XDG_CACHE_HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with run(command, *arguments, cwd=tmp_path, env=os.environ | quiet) as process:
        if command == "predict":
            writing = os.open(pipe, os.O_WRONLY)  # until it reads from the pipe
        else:
            await_second_thread(process.pid)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    if command == "predict":
        os.close(writing)
    assert (err, process.returncode) == ("edge-run: interrupted\n", 130)


def await_second_thread(pid):
    """Until the interpreter with two threads is made."""
    while len(list(Path(f"/proc/{pid}/task").iterdir())) < 2:
        time.sleep(0.01)


def test_an_interrupt_that_looks_like_a_failure_is_an_interrupt(packages, tmp_path, monkeypatch, capsys):
    """An extension module that is interrupted while it is imported raises ImportError, which is told as an error."""

    def importing(_arguments):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise EngineFailed("no interpreter library can be loaded") from None

    monkeypatch.setattr(cli, "_bench", importing)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # Shells have background jobs ignore it.
    try:
        assert main(["bench", str(packages)]) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "edge-run: interrupted\n"


@pytest.mark.slow
def test_what_was_asked_for_and_fails_is_the_doctors_code(capsys):
    """Models run on the CPU all the same, and the report says both."""
    assert main(["doctor", "--delegate", "external:/none.so"]) == 1
    assert "Models run here. What was asked for fails: external:/none.so." in capsys.readouterr().out
