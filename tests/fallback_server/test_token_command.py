"""`fallback-server token`."""

from fallback_server.access.file import read_access
from fallback_server.access.tokens import digest_of
from fallback_server.cli import main


def test_a_token_is_printed_once_and_kept_as_a_digest(tmp_path, capsys):
    """add, list and remove."""
    file = tmp_path / "access.toml"
    assert main(["token", "add", "--file", str(file), "line-3", "--predict", "press-*", "--status"]) == 0
    made = capsys.readouterr().out.strip()
    assert made not in file.read_text()
    assert read_access(file).tokens[digest_of(made)].grants.predict == ("press-*",)
    assert main(["token", "list", "--file", str(file)]) == 0
    assert capsys.readouterr().out == "line-3  predict=press-*  status=*\n"
    assert main(["token", "remove", "--file", str(file), "line-3"]) == 0
    assert read_access(file).tokens == {}


def test_mistakes_are_told_in_a_line(tmp_path, capsys):
    """A token without a scope, a name that is taken, a file that can't be read or written."""
    file = str(tmp_path / "access.toml")
    assert main(["token", "add", "--file", file, "a"]) == 2
    assert "allows nothing" in capsys.readouterr().err
    assert main(["token", "add", "--file", file, "a", "--admin"]) == 0
    assert main(["token", "add", "--file", file, "a", "--admin"]) == 2
    assert main(["token", "remove", "--file", file, "b"]) == 2
    assert main(["token", "list", "--file", str(tmp_path / "none")]) == 2
    assert main(["token", "add", "--file", str(tmp_path / "none" / "a.toml"), "a", "--admin"]) == 1
    assert main(["token"]) == 2
    assert main(["token", "--help"]) == 0
