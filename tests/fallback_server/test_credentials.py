"""What is in force, and files that are taken anew; TLS files, the operator's token, and addresses of this machine."""

import os
import stat

import pytest

from fallback_server.access.guard import Shown, rules_without_file
from fallback_server.config import ConfigInvalid, NetworkOptions, TlsFiles
from fallback_server.credentials import Credentials
from fallback_server.flags import parse
from fallback_server.local_token import LocalToken, is_local, local_token_for, read_token
from fallback_server.loopback import is_loopback
from fallback_server.pki.folder import PkiFolder
from fallback_server.private_files import private_folder, write_private
from fallback_server.settings import options_of
from fallback_server.tls_files import read_tls_dir


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = PkiFolder(tmp_path_factory.mktemp("site") / "pki")
    folder.init("Plant 4")
    return folder


@pytest.fixture
def folder(pki):
    return pki.issue("server", "gpu-1")


def options(tmp_path, *flags):
    return options_of(parse([f"--model_repository={tmp_path}", "--port=0", *flags])).network


@pytest.mark.parametrize(
    ("clients", "tokens", "grpc", "rest"),
    [
        ("", False, True, "allow"),
        ("", True, False, "allow"),
        ("require", True, True, "require"),
        ("allow", False, False, "allow"),
        ("none", False, False, "none"),
    ],
)
def test_who_is_asked_for_a_certificate(folder, clients, tokens, grpc, rest):
    """As the table in docs/operating.md says."""
    files = read_tls_dir(folder, clients=clients, tokens=tokens)
    assert (files.client_verify, files.rest_clients) == (grpc, rest)
    assert bool(files.client_ca_pem) == bool(files.crl_pem) == (clients != "none")


def test_without_an_authority_nobody_is_asked(folder, tmp_path):
    """And nobody can be made to show one."""
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert read_tls_dir(tmp_path, clients="", tokens=False).rest_clients == "none"
    with pytest.raises(ConfigInvalid, match="--tls_clients=require needs"):
        read_tls_dir(tmp_path, clients="require", tokens=False)


def test_flags_come_to_rules(tmp_path, folder):
    """Certificates let in where gRPC demands them and no file says who may do what; else everybody is let in."""
    plain = options(tmp_path)
    assert plain.rules == rules_without_file(certified=False, control=False)
    assert not Credentials(plain).asks
    assert options(tmp_path, "--allow_remote_control").rules == rules_without_file(certified=False, control=True)
    mutual = options(tmp_path, f"--tls_dir={folder}")
    assert mutual.rules == rules_without_file(certified=True, control=False)
    assert Credentials(mutual).asks
    open_ = options(tmp_path, f"--tls_dir={folder}", "--tls_clients=none")
    assert open_.rules == rules_without_file(certified=False, control=False)
    assert not Credentials(open_).asks
    (tmp_path / "access.toml").write_text("")
    filed = options(tmp_path, f"--tls_dir={folder}", f"--access_file={tmp_path}/access.toml")
    assert filed.rules.certificates == {}
    assert Credentials(filed).asks
    (tmp_path / "access.toml").write_text("[anonymus]")
    with pytest.raises(ConfigInvalid, match="anonymus is not known"):
        options(tmp_path, f"--access_file={tmp_path}/access.toml")


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"host": "127.0.0.1"}, ()),
        ({"host": "::1"}, ()),
        ({"host": "localhost"}, ()),
        ({"host": "0.0.0.0"}, ("gRPC", "REST")),
        ({"host": "::"}, ("gRPC", "REST")),
        ({"host": "192.0.2.7", "rest_port": None}, ("gRPC",)),
        ({"host": "0.0.0.0", "tls": ""}, ("REST",)),
        ({"host": "0.0.0.0", "tls": "", "rest_port": None}, ()),
        ({"host": "0.0.0.0", "tls": "allow"}, ()),
    ],
)
def test_plain_text_beyond_this_machine_is_refused(folder, given, plain):
    """By gRPC, by REST, or by both; with --insecure it is taken."""
    made = {"rest_port": 8501, **given}
    if "tls" in made:
        pems = {"key_pem": (folder / "key.pem").read_bytes(), "certificate_pem": (folder / "cert.pem").read_bytes()}
        made["tls"] = TlsFiles(**pems, rest_clients=made["tls"] or None)
    assert NetworkOptions(**made, insecure=True).plain_beyond() == plain
    if plain:
        with pytest.raises(ConfigInvalid, match=f"{' and '.join(plain)} would speak plain text"):
            NetworkOptions(**made)
    else:
        assert NetworkOptions(**made).host == made["host"]


def test_new_files_are_taken_whole_or_not_at_all(tmp_path, pki, folder):
    """Key and certificate together; who is revoked by then is; what lacks or is broken changes nothing."""
    told = []
    network = options(tmp_path, f"--tls_dir={folder}")
    held = Credentials(network, on_change=lambda: told.append(held.tls.files.fingerprint))
    before = held.tls.files
    pki.issue("server", "gpu-1")
    held.reload()
    assert told == [held.tls.files.fingerprint]
    assert held.tls.files.fingerprint != before.fingerprint
    pki.issue("device", "press-1")
    (revoked,) = pki.revoke("press-1")
    held.reload_tls()
    assert revoked.serial in held.revoked
    now = held.tls.files
    (folder / "key.pem").write_bytes(before.key_pem)
    with pytest.raises(ConfigInvalid, match="don't go together"):
        held.reload()
    (folder / "key.pem").write_bytes(now.key_pem)
    for name in ("ca.pem", "crl.pem", "cert.pem"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(ConfigInvalid, match=r"any more|No such file"):
            held.reload()
        (folder / name).write_bytes(content)
    assert held.tls.files is now
    held.reload()


def test_new_rules_are_taken(tmp_path):
    """And mean the same to calls and to workers."""
    file = tmp_path / "access.toml"
    file.write_text("")
    told = []
    network = options(tmp_path, f"--access_file={file}", "--allow_remote_control")
    held = Credentials(network, on_change=lambda: told.append(held.rules))
    file.write_text("[anonymous]\npredict = ['a']\n")
    held.reload()
    assert told == [held.rules]
    assert (held.rules.anonymous.predict, held.rules.anonymous.admin) == (("a",), ("*",))
    file.write_text("[x]")
    with pytest.raises(ConfigInvalid):
        held.reload()
    assert held.rules.anonymous.predict == ("a",)


def test_a_certificate_that_ends_soon_is_told_of(tmp_path, folder, caplog):
    """As a warning, 30 days before."""
    caplog.set_level("INFO")
    network = options(tmp_path, f"--tls_dir={folder}")
    for days, level in ((300, "INFO"), (380, "WARNING")):
        held = Credentials(network, wall=lambda days=days: folder.stat().st_mtime + days * 86_400)
        held.start()
        held.stop(timeout_s=5)
        assert [each.levelname for each in caplog.records if "certificate ends on" in each.message] == [level]
        caplog.clear()


@pytest.fixture
def runtime_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "fallback-server"


def test_the_operators_token_is_its_users_alone(runtime_dir):
    """In a file of mode 0600 for each way to the server; gone with it, unless another server has taken the place."""
    one = LocalToken(["127.0.0.1:8500", "[::1]:8501", "unix:/srv/grpc.sock"])
    token = local_token_for("localhost:8500")
    assert token == local_token_for("unix:/srv/../srv/grpc.sock") == local_token_for("[::1]:8501")
    assert stat.S_IMODE((runtime_dir / "8500.token").stat().st_mode) == 0o600
    assert local_token_for("192.0.2.1:8500") is None
    assert local_token_for("localhost:8502") is None
    other = LocalToken(["127.0.0.1:8500"])
    one.close()
    assert local_token_for("localhost:8500") not in (None, token)
    assert [path.name for path in runtime_dir.iterdir()] == ["8500.token"]
    other.close()
    assert list(runtime_dir.iterdir()) == []


def test_a_folder_that_others_may_use_holds_no_token(runtime_dir, monkeypatch):
    """It is neither written nor read: the server goes on without."""
    runtime_dir.mkdir(mode=0o777)
    runtime_dir.chmod(0o777)
    (runtime_dir / "8500.token").write_text("planted")
    assert LocalToken(["127.0.0.1:8500"]).digest == ""
    assert local_token_for("127.0.0.1:8500") is None
    runtime_dir.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert LocalToken(["127.0.0.1:8500"]).digest == ""


def test_a_token_is_read_out_of_a_file(tmp_path):
    """Of mode 0600, and nothing else in it."""
    file = tmp_path / "token"
    file.write_text("edge-abc\n")
    file.chmod(0o600)
    assert read_token(file) == "edge-abc"
    file.chmod(0o604)
    with pytest.raises(ValueError, match="open to everybody"):
        read_token(file)
    for content in ("", "a b", "a\nb", "x" * 600):
        file.write_text(content)
        file.chmod(0o600)
        with pytest.raises(ValueError, match="holds no token"):
            read_token(file)


def test_a_private_file_is_whole_or_not_there(tmp_path, monkeypatch):
    """What fails leaves what was, and nothing beside it."""
    path = tmp_path / "a"
    write_private(path, b"one")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError, match="no folder"):
        private_folder(tmp_path / "link")


def test_what_is_this_machines_own():
    """By address, by name, and on a socket; a name that nobody knows is not."""
    for host in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "no such name", "a" * 300, ""):
        assert not is_loopback(host), host
    assert is_local("unix:/x")
    assert is_local("[::1]:8500")
    assert not is_local("192.0.2.1:8500")


def test_the_operator_is_nobody_that_a_rule_names(tmp_path, runtime_dir):
    """So that no rule shuts out who runs the machine, and without the token nobody is."""
    held = Credentials(options(tmp_path))
    held.guard.local = LocalToken(["127.0.0.1:8500"]).digest
    token = local_token_for("127.0.0.1:8500")
    assert held.guard.who(Shown(token=token, peer="p")).startswith("the operator of this machine")
    assert held.guard.who(Shown(token="other", peer="p")) == "p"
