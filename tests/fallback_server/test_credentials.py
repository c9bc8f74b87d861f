"""What is in force, and files that are taken anew; TLS files."""

import os

import pytest

from fallback_server import credentials
from fallback_server.access.attempts import Reason
from fallback_server.access.certificates import CertificateReader
from fallback_server.access.file import read_access
from fallback_server.access.guard import Shown, rules_without_file
from fallback_server.access.rules import Scope
from fallback_server.check_command import list_fault
from fallback_server.config import ConfigInvalid, NetworkOptions, TlsFiles
from fallback_server.core.errors import Unauthenticated
from fallback_server.credentials import Credentials
from fallback_server.flags import parse
from fallback_server.pki.folder import PkiFolder
from fallback_server.poller import ConfigWatcher
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
    assert f"{revoked.serial:x}" in next(iter(held.trust.revoked.values()))
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


def test_what_is_being_written_is_not_taken_in_part(tmp_path):
    """Two looks in a row must see the same; half of the rules may allow what the whole forbids."""
    file = tmp_path / "access.toml"
    head, tail = "[anonymous]\npredict = ['*']\n", "[models.payroll]\nonly = ['boss']\n"
    file.write_text(head + tail)
    held = Credentials(options(tmp_path, f"--access_file={file}"))
    watched, watcher = held._access_files, ConfigWatcher(held._access_files, reload=held.reload, wait_s=1)
    for _ in range(3):
        watcher.look()
    for part in ("", head[:11], head, head + tail[:16]):
        file.write_text(part)
        watcher.look()
        assert held.rules.only
    file.write_text(head + "# all are let in\n")
    watcher.look()
    assert held.rules.only
    watcher.look()
    assert not held.rules.only
    assert not watched.has_changed()


def test_files_that_nobody_has_changed_are_not_told_as_changed(tmp_path, folder):
    """Nor taken anew after the start; one that came in between the reading of the flags and the watching is."""
    file = tmp_path / "access.toml"
    file.write_text("[anonymous]\npredict = ['a']\n")
    network = options(tmp_path, f"--tls_dir={folder}", f"--access_file={file}", "--allow_remote_control")
    held = Credentials(network)
    for watched in (held._tls_files, held._access_files):
        assert [watched.has_changed() for _ in range(3)] == [False] * 3
    file.write_text("[anonymous]\npredict = ['b']\n")
    late = Credentials(network)._access_files
    assert [late.has_changed() for _ in range(2)] == [False, True]


def test_what_changes_while_it_is_read_is_not_taken(tmp_path, monkeypatch):
    """Nor at an order, which doesn't wait for a second look."""
    file = tmp_path / "access.toml"
    file.write_text("")
    held = Credentials(options(tmp_path, f"--access_file={file}"))
    file.write_text("[anonymous]\npredict = ['a']\n")

    def read_and_written(path):
        rules = read_access(path)
        file.write_text("[anonymous]\npredict = ['b']\n")
        return rules

    with monkeypatch.context() as patch:
        patch.setattr(credentials, "read_access", read_and_written)
        with pytest.raises(ConfigInvalid, match="is being written"):
            held.reload()
    assert held.rules.anonymous.predict == ()
    held.reload()
    assert held.rules.anonymous.predict == ("b",)


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


def test_an_old_list_of_revoked_certificates_is_not_taken(tmp_path, pki, folder):
    """Whoever puts it back lets nobody in again; what was in force stays, whole."""
    held = Credentials(options(tmp_path, f"--tls_dir={folder}"))
    pki.issue("device", "press-2")
    before = (folder / "crl.pem").read_bytes()
    (revoked,) = pki.revoke("press-2")
    held.reload()
    (folder / "crl.pem").write_bytes(before)
    with pytest.raises(ConfigInvalid, match="is older than what is in force"):
        held.reload()
    assert f"{revoked.serial:x}" in next(iter(held.trust.revoked.values()))
    assert held.tls.files.crl_pem != before


def test_an_old_list_is_not_taken_after_a_restart_either(tmp_path, pki, folder):
    """Whoever puts it in place while the server is down; nor none at all. The check tells it, too."""
    network = options(tmp_path, f"--tls_dir={folder}")
    first = Credentials(network)
    first.start()
    pki.issue("device", "press-3")
    before = (folder / "crl.pem").read_bytes()
    pki.revoke("press-3")
    first.reload()
    first.stop(timeout_s=10)
    later = (folder / "crl.pem").read_bytes()
    (folder / "crl.pem").write_bytes(before)
    network = options(tmp_path, f"--tls_dir={folder}")
    with pytest.raises(ConfigInvalid, match=r"was in force, and .* is older"):
        Credentials(network)
    assert "is older, as" in list_fault(network, network.tls)
    (folder / "crl.pem").unlink()
    with pytest.raises(ConfigInvalid, match="is there no more"):
        Credentials(options(tmp_path, f"--tls_dir={folder}"))
    (folder / "crl.pem").write_bytes(later)
    network = options(tmp_path, f"--tls_dir={folder}")
    assert not list_fault(network, network.tls)
    Credentials(network)


def test_a_place_that_can_not_be_written_is_told_once(tmp_path, folder, caplog):
    """The server serves all the same: the folder may be one that it can only read, as a container's secrets are."""
    (tmp_path / "file").write_text("no folder")
    elsewhere = f"--tls_state_file={tmp_path / 'file' / 'known.json'}"
    held = Credentials(options(tmp_path, f"--tls_dir={folder}", f"--tls_state_file={tmp_path / 'no' / 'known.json'}"))
    held.reload()
    held.reload()
    told = [each for each in caplog.records if "would be taken" in each.message]
    assert [each.levelname for each in told] == ["WARNING"]
    with pytest.raises(ConfigInvalid, match="Not a directory"):
        Credentials(options(tmp_path, f"--tls_dir={folder}", elsewhere))
    with pytest.raises(ConfigInvalid, match="--tls_state_file needs --tls_dir"):
        options(tmp_path, elsewhere)


def test_who_has_a_certificate_of_a_replaced_authority_is_out(tmp_path, folder):
    """Over the connection that it has, though TLS took it."""
    device = CertificateReader().read((folder / "cert.pem").read_bytes())
    held = Credentials(options(tmp_path, f"--tls_dir={folder}"))
    held.guard.admit(Shown(certificate=device), Scope.PREDICT, ["m"])
    other = PkiFolder(tmp_path / "other")
    other.init("Plant 4")
    made = other.issue("server", "gpu-1")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in made.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    held.reload()
    with pytest.raises(Unauthenticated, match="is of an authority that is trusted no more"):
        held.guard.admit(Shown(certificate=device), Scope.PREDICT, ["m"])
    assert held.guard.attempts.counts()[Reason.WITHDRAWN] == 1
    for name, content in before.items():
        (folder / name).write_bytes(content)
    held.reload()
    held.guard.admit(Shown(certificate=device), Scope.PREDICT, ["m"])


def test_a_list_that_has_ended_is_told_loudly(tmp_path, folder, caplog):
    """When it ends, though no file has changed; and that nobody of its authority is let in."""
    now_s = [folder.stat().st_mtime]
    network = options(tmp_path, f"--tls_dir={folder}")
    held = Credentials(network, wall=lambda: now_s[0])
    held.reload()
    looked = held._tls_files
    assert not looked.has_changed()
    now_s[0] += 3651 * 86_400
    assert [looked.has_changed(), looked.has_changed()] == [False, True]
    held.reload()
    assert not looked.has_changed()
    (told,) = [each for each in caplog.records if "nobody can say who was revoked since" in each.message]
    assert told.levelname == "ERROR"
