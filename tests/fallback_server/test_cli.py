import socket
import subprocess
import sys

import pytest

from fallback_server.cli import main


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        ([], ["nothing to serve: give --model_repository=DIR or --model_base_path=DIR"]),
        (["--model_repository=/nonexistent"], ["--model_repository=/nonexistent is no directory"]),
        (["--no_such_flag", "--port=x"], ["--no_such_flag is no flag; --help lists them", "--port must be a whole"]),
        (["--mixed_precision=x"], ["--mixed_precision is TensorFlow Serving's, and not one that this server has"]),
        (["serve"], ["'serve' is no command; check, status, reload, label, split, rollback, pki, token are"]),
    ],
)
def test_refusals_go_to_stderr_with_exit_code_2(flags, texts, capsys):
    """All that is wrong, a line each, and nothing on stdout."""
    assert main(flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(line.startswith("fallback-server: error: ") for line in err.splitlines())
    assert all(text in err for text in texts)


def test_help_wins_over_faults(capsys):
    """Who asks for help gets it."""
    assert main(["--zzz", "--help"]) == 0
    assert "usage: fallback-server" in capsys.readouterr().out


@pytest.mark.slow
def test_a_taken_port_is_refused(tmp_path):
    """Exit code 2 and the address, without waiting for anything."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "fallback_server.cli",
            f"--model_repository={tmp_path}",
            f"--port={port}",
            "--rest_api_port=0",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_version_and_help_load_no_tensorflow():
    """They answer at once."""
    script = (
        "import sys; from fallback_server.cli import main\n"
        "assert main(['--version']) == 0 and main(['--help']) == 0 and main(['check', '--help']) == 0\n"
        "assert not {'tensorflow', 'grpc._channel', 'zeroconf', 'starlette'} & set(sys.modules), list(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fallback-server 0.")
