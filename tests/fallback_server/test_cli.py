import socket
import subprocess
import sys

import pytest

from fallback_server.cli import _options, _parser, main
from fallback_server.config import ConfigInvalid


def options(*flags):
    return _options(_parser().parse_args(flags))


def test_flags_with_and_without_an_equals_sign(tmp_path):
    """Both forms are taken, and land where they belong."""
    made = options(
        f"--model_repository={tmp_path}",
        "--port",
        "0",
        "--batch_timeout_micros=1500",
        "--no-mdns",
        "--max_batch_size",
        "8",
        "--load_retry_interval_micros=500000",
    )
    assert (made.network.port, made.network.mdns, made.source.repository) == (0, False, tmp_path)
    assert (made.batching.batch_timeout_s, made.batching.max_batch_size_rows) == (0.0015, 8)
    assert made.manager.load_retry_interval_s == 0.5


def test_base_path_names_one_model(tmp_path):
    """Its name, or TensorFlow Serving's default."""
    assert options("--model_name=a", f"--model_base_path={tmp_path}").source.models == {"a": tmp_path}
    assert options(f"--model_base_path={tmp_path}").source.models == {"default": tmp_path}


def test_every_start_has_an_id_of_its_own(tmp_path):
    """Made up unless given."""
    first, second = (options(f"--model_base_path={tmp_path}").network.server_id for _ in range(2))
    assert first != second
    assert options(f"--model_base_path={tmp_path}", "--server_id=a-1").network.server_id == "a-1"


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "nothing to serve: give --model_repository=DIR or --model_base_path=DIR"),
        (["--model_name=a"], "--model_name needs --model_base_path=DIR"),
        (["--model_repository=/nonexistent"], "--model_repository=/nonexistent is no directory"),
        (["--model_base_path=/nonexistent"], "--model_base_path=/nonexistent is no directory"),
        (["--model_base_path=/", "--model_name="], "--model_name must be a name without slashes"),
        (["--model_repository=/", "--port=70000"], "--port must be from 0 to 65535, got 70000"),
        (["--model_repository=/", "--max_batch_size=0"], "--max_batch_size must be at least 1, got 0"),
        (["--model_repository=/", "--batch_timeout_micros=-1"], "--batch_timeout_micros must be at least 0, got -1"),
        (["--model_repository=/", "--num_load_threads=0"], "--num_load_threads must be at least 1, got 0"),
        (["--model_repository=/", "--grace_s=-1"], "--grace_s must be at least 0, got -1.0"),
        (["--model_repository=/", "--grace_s=inf"], "--grace_s must be at most 86400, got inf"),
        (
            ["--model_repository=/", "--file_system_poll_wait_seconds=inf"],
            "--file_system_poll_wait_seconds must be at most 86400, got inf",
        ),
        (["--model_repository=/", "--num_load_threads=5000"], "--num_load_threads must be at most 1024, got 5000"),
        (
            ["--model_repository=/", "--tensorflow_inter_op_parallelism=9999999999"],
            "--tensorflow_inter_op_parallelism must be at most 1024, got 9999999999",
        ),
        (["--model_repository=/", "--server_id=a b"], "--server_id: server id 'a b'"),
        (
            ["--model_repository=/", "--file_system_poll_wait_seconds=-1"],
            "--file_system_poll_wait_seconds must be at least 0, got -1.0",
        ),
        (
            ["--model_repository=/", "--tensorflow_intra_op_parallelism=-1"],
            "--tensorflow_intra_op_parallelism must be at least 0, got -1",
        ),
    ],
)
def test_refusals_name_flag_bound_and_value(flags, text, capsys):
    """Exit code 2 and one line that says what is wrong."""
    assert main(flags) == 2
    assert text in capsys.readouterr().err
    with pytest.raises(ConfigInvalid):
        options(*flags)


@pytest.mark.parametrize("flags", [["--no_such_flag"], ["--port=x"], ["--log_level=loud"]])
def test_unknown_flags(flags):
    """Exit code 2, as for every other bad flag."""
    with pytest.raises(SystemExit) as exit_:
        main(flags)
    assert exit_.value.code == 2


@pytest.mark.slow
def test_a_taken_port_is_refused(tmp_path):
    """Exit code 2 and the address, without waiting for anything."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "fallback_server.cli", f"--model_repository={tmp_path}", f"--port={port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_version_and_help_load_no_tensorflow():
    """They answer at once."""
    script = (
        "import sys; from fallback_server.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fallback-server 0.")


def test_switches_in_tensorflow_servings_form(tmp_path, capsys):
    """`--enable_batching=true` is how its operators write it; another value is refused by name."""
    where = f"--model_repository={tmp_path}"
    assert options(where, "--enable_batching=true", "--mdns=false").batching.enabled
    assert not options(where, "--enable_batching=true", "--mdns=false").network.mdns
    assert not options(where, "--enable_batching=false").batching.enabled
    assert options(where, "--enable_batching", "--mdns").network.mdns
    for wrong in ("--enable_batching=1", "--no-mdns=true"):
        with pytest.raises(SystemExit) as ended:
            options(where, wrong)
        assert ended.value.code == 2
        assert "expected true or false, or no value, got" in capsys.readouterr().err
