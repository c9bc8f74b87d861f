import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from support.converter_packages import publish_toy
from support.edge_models import scale_model

from converter.cli import main

NAMED = ["--name", "cnn", "--version", "1"]


def run(capsys, *arguments):
    """Exit code, stdout and stderr of the command."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_has_examples_and_explains_the_data(capsys):
    """`--help` shows the commands, the data's form, and that data are not preprocessed again."""
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for text in ("edge-convert inspect", "examples:", "not preprocessed again", "exit codes:", "--calibration"):
        assert text in out


@pytest.mark.parametrize("command", ["inspect", "verify", "convert"])
def test_each_command_has_help(capsys, command):
    """It names its own arguments."""
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "--json" in out


def test_missing_arguments_are_bad_input(capsys):
    """The missing ones are named."""
    code, out, err = run(capsys, "model")
    assert (code, out) == (2, "")
    assert "--name, --version, --output" in err


@pytest.mark.parametrize("alias", [[], ["convert"]])
def test_the_bare_form_and_convert_are_the_same(capsys, tmp_path, alias):
    """A path in the first place is a SavedModel; so is the one after `convert`."""
    code, out, err = run(capsys, *alias, tmp_path / "none", *NAMED, "--output", tmp_path / "out")
    assert (code, out, err) == (2, "", f"edge-convert: {tmp_path / 'none'}: no such directory\n")


def test_errors_are_one_line_and_with_debug_a_traceback(capsys, tmp_path):
    """Only `--debug` shows where in the program."""
    arguments = [tmp_path, "--name", "a/b", "--version", "1", "--output", tmp_path / "out"]
    _, _, plain = run(capsys, *arguments)
    _, _, debug = run(capsys, *arguments, "--debug")
    assert len(plain.splitlines()) == 1
    assert "'a/b'" in plain
    assert "Traceback" in debug
    assert debug.endswith(plain)


def test_a_checkpoint_is_bad_input(capsys, tmp_path):
    """The message says how to get a SavedModel."""
    (tmp_path / "checkpoint").write_text("x")
    code, _, err = run(capsys, tmp_path, *NAMED, "--output", tmp_path / "out")
    assert code == 2
    assert "export" in err


def test_an_existing_version_is_bad_input(capsys, tmp_path):
    """`--replace` is named as the way out."""
    publish_toy(tmp_path / "files", tmp_path / "out")
    code, _, err = run(capsys, tmp_path, "--name", "toy", "--version", "1", "--output", tmp_path / "out")
    assert code == 2
    assert "--replace" in err


def test_inspect_shows_a_table_or_json(capsys, tmp_path):
    """The same package both ways."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    code, out, _ = run(capsys, "inspect", package.path)
    assert code == 0
    assert "chosen for default" in out
    code, out, _ = run(capsys, "inspect", package.path, "--json")
    found = json.loads(out)
    assert code == 0
    assert {"package", "name", "version", "chosen", "variants"} <= set(found)
    assert set(found["variants"][0]) >= {"name", "status", "size_bytes", "metrics", "error"}


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_damaged_package_is_bad_input(capsys, tmp_path, command):
    """Exit code 2 and one line, for a directory and for an archive."""
    package = publish_toy(tmp_path / "files", tmp_path / "out")
    (package.path / "float32.tflite").write_bytes(b"x")
    archive = tmp_path / "out" / "toy-1.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-100])
    for path in (package.path, archive, tmp_path / "none"):
        code, out, err = run(capsys, command, path)
        assert (code, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.slow
def test_verify_says_by_its_exit_code_whether_all_variants_run(capsys, cnn_package, tmp_path):
    """0 for a package that runs, 4 for one whose digests are right but whose files are no models."""
    code, out, _ = run(capsys, "verify", cnn_package[0].package)
    assert code == 0
    assert "each of the 3 variants ran" in out
    code, _, err = run(capsys, "verify", publish_toy(tmp_path / "files", tmp_path / "out").path)
    assert code == 4
    assert "does not run as the manifest says: float32, int8: " in err


def command(*arguments):
    return [sys.executable, "-m", "converter.cli", *[str(argument) for argument in arguments]]


@pytest.mark.slow
def test_the_command_makes_a_package_from_end_to_end(models, data, tmp_path):
    """As a process of its own: JSON alone on stdout, plain progress lines on stderr, nothing of TensorFlow's noise."""
    given = ["--calibration", data / "train.npz", "--evaluation", data / "test.npz", "--labels", data / "labels.txt"]
    done = subprocess.run(
        command(models / "cnn", *NAMED, "--output", tmp_path, "--json", *given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["status"] for one in found["variants"]] == ["ok"] * 7
    assert (tmp_path / "cnn-1.tar.gz").is_file()
    assert all(line.startswith("[") for line in done.stderr.splitlines())


@pytest.mark.slow
def test_a_file_holds_the_options_and_the_package_can_be_looked_at(models, data, tmp_path, capsys):
    """Convert by a TOML file; then inspect with a bench file and a report, and compare with the original."""
    config = tmp_path / "convert.toml"
    config.write_text(
        f'saved_model = "{models / "cnn"}"\nname = "cnn"\noutput = "out"\nversion = 1\nvariant = ["float32", "int8"]\n'
        f'calibration = "{data / "train.npz"}"\nevaluation = "{data / "test.npz"}"\nlatency = false\n'
    )
    assert run(capsys, "--config", config)[0] == 0
    package = tmp_path / "out" / "cnn" / "1"
    bench = subprocess.run(
        [sys.executable, "-m", "edge_runtime.cli", "bench", package, "--json", "--seconds", "0.05"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / "bench.json").write_text(bench)
    code, out, _ = run(capsys, "inspect", package, "--bench", tmp_path / "bench.json", "--report", tmp_path / "r.html")
    assert code == 0
    assert "bench" in out.splitlines()[2]
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    code, out, _ = run(capsys, "compare", models / "cnn", package, "--evaluation", data / "test.npz", "--json")
    assert code == 0
    assert json.loads(out)["metrics"]["scores"]["top1_agreement"] > 0.9


@pytest.mark.slow
def test_wrap_makes_a_package_that_verifies(cnn_package, tmp_path, capsys):
    """A TFLite file out of another package, with its name, version and folder typed."""
    file = cnn_package[1] / "cnn" / "1" / "int8.tflite"
    code, out, _ = run(capsys, "wrap", file, "--name", "wrapped", "--version", "2", "--output", tmp_path, "--json")
    found = json.loads(out)
    assert (code, found["variants"][0]["name"], found["version"]) == (0, "int8", 2)
    assert run(capsys, "verify", tmp_path / "wrapped-2.tar.gz")[0] == 0


@pytest.mark.slow
def test_no_variant_is_exit_code_4_and_the_json_says_why(models, tmp_path):
    """What became of each variant is told although nothing was published."""
    done = subprocess.run(
        command(models / "flex", *NAMED, "--output", tmp_path, "--json"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 4
    assert json.loads(done.stdout)["package"] is None
    assert "MatrixDeterminant" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("stdout", [">&-", ">/dev/full"])
def test_a_result_that_can_not_be_written_is_one_line(tmp_path, stdout):
    """With an exit code of its own: nothing was wrong with what was asked for."""
    package = publish_toy(tmp_path / "files", tmp_path / "out").path
    for given, code in ((f"inspect {package}", 5), (f"inspect {tmp_path}", 2)):
        done = shell(f"{shlex.join(command())} {given} {stdout}")
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_what_stderr_takes_does_not_change_the_exit_code(tmp_path, stderr):
    """Closed, or on a full disk."""
    package = publish_toy(tmp_path / "files", tmp_path / "out").path
    assert shell(f"{shlex.join(command())} inspect {package} {stderr}").returncode == 0
    assert shell(f"{shlex.join(command())} inspect {tmp_path} {stderr}").returncode == 2


def shell(line):
    return subprocess.run(line, shell=True, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("stdout", [">&- <&-", ">/dev/full"])
def test_a_published_package_is_told_of_though_its_result_is_lost(tmp_path, stdout):
    """Nobody is to take it for a failure that left nothing; no socket of a child takes the place of what is closed."""
    (tmp_path / "m.tflite").write_bytes(scale_model(2.0))
    words = ["wrap", tmp_path / "m.tflite", "--name", "m", "--version", "1", "--output", tmp_path / "out"]
    done = shell(f"{shlex.join(command(*words))} {stdout}")
    assert done.returncode == 5
    assert done.stderr.startswith(f"edge-convert: {tmp_path}/out/m/1 was published, but the result can't be shown: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_imports_ends_it_with_one_line(number):
    """There is half a second of that, and a traceback of it tells nobody anything."""
    code = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'msgspec': signal.raise_signal(int(sys.argv.pop(1)))\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from converter.cli import main\n"
        "sys.exit(main())"
    )
    given = [sys.executable, "-c", code, str(int(number)), "inspect", "none"]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert (done.returncode, done.stderr) == (128 + number, f"edge-convert: {said}\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_leaves_nothing(models, tmp_path, number):
    """Ctrl-C and its like in the midst: their exit code, one line, no package, no process, no folder."""
    (tmp_path / "temporary").mkdir()
    np.savez(tmp_path / "big.npz", image=np.zeros((2_000, 8, 8, 1), np.float32))
    module = "import runpy; runpy.run_module('converter.cli', run_name='__main__', alter_sys=True)"
    words = [models / "cnn", *NAMED, "--output", tmp_path / "out", "--calibration", tmp_path / "big.npz"]
    process = subprocess.Popen(
        [sys.executable, "-c", module, *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path / "temporary")},
    )
    seen = ""
    while "converting" not in seen:
        seen = process.stderr.readline()
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert process.returncode == 128 + number
    lines = [line for line in err.splitlines() if not line.startswith("[")]
    assert lines == [f"edge-convert: {said}; nothing was published"]
    deadline = time.monotonic() + 10.0
    while any(child.is_running() and child.status() != "zombie" for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(child.is_running() and child.status() != "zombie" for child in children)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "temporary").glob("edge-convert-*"))
