"""What the arguments of `edge-run` may be, and what its commands say of themselves."""

import pytest
from support.edge_models import publish_scale

from edge_runtime.cli import EXIT_BAD_INPUT, main

COMMANDS = [
    "doctor",
    "install",
    "list",
    "use",
    "rollback",
    "remove",
    "quota",
    "label",
    "predict",
    "bench",
    "top",
    "servers",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_does_and_its_exit_codes(command, capsys):
    """Its help has a description before the arguments, and the codes after them or with it."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.split("\n\n")[1].split(":")[0] not in ("positional arguments", "options")
    assert "exit codes: 0 " in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    "arguments",
    [["install", "scale/1", "--store", ""], ["list", ""], ["label", "", "m", "stable", "1"], ["doctor", "--store", ""]],
)
def test_nothing_is_no_folder(arguments, capsys, tmp_path, monkeypatch):
    """A variable that is not set does not make the current folder a store."""
    publish_scale(tmp_path, 1, 1.0)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == EXIT_BAD_INPUT
    assert "a folder is expected, got nothing" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("text", ["1_0", "+1", "1.0", "", " 1", "x", "\u0661"])
def test_a_version_is_written_as_its_folder(text, capsys):
    """Nothing else that Python would take for a number."""
    with pytest.raises(SystemExit) as ended:
        main(["use", "scale", text, "--store", "s"])
    assert ended.value.code == EXIT_BAD_INPUT
    assert "a version is a number" in capsys.readouterr().err
