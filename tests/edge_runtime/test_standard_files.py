"""Commands whose standard output is closed, is read by nobody, or can't be written."""

import os
import subprocess
import sys

import pytest
from support.edge_models import publish_scale

RUN = "import sys; from edge_runtime.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def store(tmp_path):
    for version in (1, 2):
        publish_scale(tmp_path / "store", version, float(version))
    return tmp_path / "store"


def run(store, redirection, *arguments):
    """The exit code, and what was said on stderr."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", RUN, *map(str, arguments), "--store", str(store)]
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=buffered,
    )
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["list"], ["use", "scale", "1"], ["quota"], ["servers", "--help"]])
def test_a_closed_output_stops_no_command(store, arguments):
    """What it was to do is done, without a traceback; no file that it opens is taken for its output."""
    assert run(store, ">&- <&-", *arguments) == (0, "")
    if arguments[0] == "use":
        assert (store / "scale" / "labels.json").read_text() == '{"stable":1}'


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["list"], ["use", "scale", "1"], ["quota", "1GB"]])
def test_an_output_that_nobody_reads_is_no_failure(store, arguments):
    """As of `edge-run list | true`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", RUN, *arguments, "--store", store]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_an_output_that_can_not_be_written_is_a_failure(store):
    """In one line."""
    code, said = run(store, ">/dev/full", "list")
    assert (code, said.removeprefix("edge-run: standard output: ")) == (1, "No space left on device\n")
