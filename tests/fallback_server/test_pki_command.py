"""`fallback-server pki`."""

from fallback_server.cli import main


def test_an_authority_is_made_and_used(tmp_path, capsys):
    """init, issue, revoke and list, as the help has them."""
    folder = str(tmp_path / "pki")
    assert main(["pki", "init", "--dir", folder, "--name", "Plant 4"]) == 0
    assert main(["pki", "issue", "--dir", folder, "server", "gpu-1", "--host", "10.0.0.5", "--host", "gpu.local"]) == 0
    assert main(["pki", "issue", "--dir", folder, "device", "press-7"]) == 0
    assert main(["pki", "revoke", "--dir", folder, "press-7"]) == 0
    capsys.readouterr()
    assert main(["pki", "list", "--dir", folder]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["NAME", "KIND", "NUMBER", "UNTIL", "REVOKED"]
    assert [(row[0], row[1], row[4] == "-") for row in rows[1:]] == [
        ("press-7", "device", False),
        ("gpu-1", "server", True),
    ]


def test_mistakes_are_told_in_a_line(tmp_path, capsys):
    """Exit code 2 for what is asked, 1 for what the file system refuses."""
    assert main(["pki"]) == 2
    assert main(["pki", "issue", "--dir", str(tmp_path / "none"), "device", "a"]) == 2
    assert "pki init makes one" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["pki", "init", "--dir", str(tmp_path / "file"), "--name", "x"]) == 1
    assert "no folder" in capsys.readouterr().err
    assert main(["pki", "--help"]) == 0
