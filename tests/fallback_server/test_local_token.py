"""The operator's token: files by address, who reads which, and addresses of this machine."""

import os
import socket
import stat
import threading

import pytest

from fallback_server.access.guard import Guard, Shown, rules_without_file
from fallback_server.cli import main
from fallback_server.local_token import LocalToken, bound_targets, dialled, read_token
from fallback_server.loopback import addresses_of, is_loopback


@pytest.fixture
def runtime_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "fallback-server"


def token_for(target, there=()):
    return dialled(target, lambda address, port: (address, port) in there).token


def test_the_operators_token_is_its_users_alone(runtime_dir):
    """In a file of mode 0600 for each way to the server; gone with it, unless another server has taken the place."""
    one = LocalToken(["127.0.0.1:8500", "[::1]:8501", "unix:/srv/grpc.sock"])
    token = token_for("127.0.0.1:8500")
    assert token
    assert token == token_for("unix:/srv/../srv/grpc.sock") == token_for("[::1]:8501") == token_for("[0:0::1]:8501")
    assert stat.S_IMODE((runtime_dir / "127.0.0.1:8500.token").stat().st_mode) == 0o600
    assert token_for("192.0.2.1:8500") is None
    assert token_for("127.0.0.1:8502") is None
    other = LocalToken(["127.0.0.1:8500"])
    one.close()
    assert token_for("127.0.0.1:8500") not in (None, token)
    assert [path.name for path in runtime_dir.iterdir()] == ["127.0.0.1:8500.token"]
    other.close()
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.usefixtures("runtime_dir")
def test_a_token_is_shown_at_the_address_alone_that_it_was_left_for():
    """Not to whoever listens at another address of loopback on that port, or will."""
    left = LocalToken(["127.0.0.1:8500"])
    for target in ("127.0.0.2:8500", "[::1]:8500"):
        assert dialled(target).token is None
    assert token_for("[::ffff:127.0.0.1]:8500") == token_for("127.0.0.1:8500")
    left.close()
    left = LocalToken(["0.0.0.0:8500"])  # There nobody else can listen at any.
    assert token_for("127.0.1.1:8500") == token_for("127.0.0.1:8500") is not None
    assert token_for("[::1]:8500") is None
    left.close()


@pytest.mark.usefixtures("runtime_dir")
def test_a_name_is_looked_up_once_and_one_of_its_addresses_dialled(monkeypatch):
    """Of those at which somebody listens the first that has a token; a name that leads elsewhere, too, gets none."""
    found = ["::1", "127.0.0.1"]
    monkeypatch.setattr("fallback_server.local_token.addresses_of", lambda _: tuple(found))
    left = LocalToken(["127.0.0.1:8500"])
    both = dialled("localhost:8500", lambda *_: True)
    assert (both.target, both.local, both.token) == ("127.0.0.1:8500", True, token_for("127.0.0.1:8500", ()))
    stale = dialled("localhost:8500", lambda address, _: address == "::1")
    assert (stale.target, stale.token) == ("[::1]:8500", None)
    assert dialled("localhost:8501", lambda *_: True).target == "[::1]:8501"
    found.append("192.0.2.1")
    assert dialled("localhost:8500", lambda *_: True) == dialled("localhost:8500")
    assert not dialled("localhost:8500").local
    left.close()


@pytest.mark.parametrize(
    ("family", "address", "both", "targets"),
    [
        (socket.AF_INET, "127.0.0.1", False, ["127.0.0.1"]),
        (socket.AF_INET, "0.0.0.0", False, ["0.0.0.0", "127.0.0.1"]),
        (socket.AF_INET6, "::1", False, ["[::1]"]),
        (socket.AF_INET6, "::", False, ["[::1]", "[::]"]),
        (socket.AF_INET6, "::", True, ["0.0.0.0", "127.0.0.1", "[::1]", "[::]"]),
        (socket.AF_INET6, "::ffff:127.0.0.3", True, ["127.0.0.3"]),
    ],
)
def test_where_a_process_listens_is_asked_of_its_sockets(family, address, both, targets):
    """Not of the name that was meant: some of its addresses may be somebody else's."""
    with socket.socket(family, socket.SOCK_STREAM) as one:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        one.bind((address, 0))
        port = one.getsockname()[1]
        assert bound_targets([port]) == []
        one.listen()
        assert bound_targets([port]) == [f"{each}:{port}" for each in targets]
        with socket.create_connection((address.removeprefix("::ffff:"), port)):  # One that is made listens nowhere.
            assert bound_targets([port]) == [f"{each}:{port}" for each in targets]
    assert bound_targets([port]) == []


def test_a_folder_that_others_may_use_holds_no_token(runtime_dir, monkeypatch):
    """It is neither written nor read: the server goes on without."""
    runtime_dir.mkdir(mode=0o777)
    runtime_dir.chmod(0o777)
    (runtime_dir / "127.0.0.1:8500.token").write_text("planted")
    assert LocalToken(["127.0.0.1:8500"]).digest == ""
    assert token_for("127.0.0.1:8500") is None
    runtime_dir.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert LocalToken(["127.0.0.1:8500"]).digest == ""


def test_a_services_token_is_found_outside_of_it(tmp_path, monkeypatch):
    """It has a runtime directory, and temporary files that nobody else sees; the trust in the folder is as ever."""
    run, inside, outside = tmp_path / "run", tmp_path / "inside", tmp_path / "outside"
    for each in (run, inside, outside):
        each.mkdir(mode=0o755)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("fallback_server.local_token._OF_THE_SERVICE", run)
    monkeypatch.setattr("tempfile.tempdir", str(outside))
    assert token_for("127.0.0.1:8500") is None
    assert list(run.iterdir()) == list(outside.iterdir()) == []
    stale = LocalToken(["127.0.0.1:8500"])
    monkeypatch.setattr("tempfile.tempdir", str(inside))
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{run}:{tmp_path}")
    served = LocalToken(["127.0.0.1:8500"])
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setattr("tempfile.tempdir", str(outside))
    file = run / "fallback-server" / "127.0.0.1:8500.token"
    os.utime(file, ns=(2**62, 2**62))
    assert token_for("127.0.0.1:8500") == file.read_text()
    file.parent.chmod(0o755)
    assert token_for("127.0.0.1:8500") not in (None, file.read_text())
    stale.close()
    assert token_for("127.0.0.1:8500") is None
    file.parent.chmod(0o700)
    served.close()
    assert not file.exists()


def test_the_latest_token_is_of_who_listens(runtime_dir):
    """One that was killed at this address hides none of the next at all addresses, nor the other way round."""
    killed = LocalToken(["127.0.0.2:8500"])
    alive = LocalToken(["0.0.0.0:8500"])
    one, all_of_them = runtime_dir / "127.0.0.2:8500.token", runtime_dir / "0.0.0.0:8500.token"
    os.utime(one, ns=(1, 1))
    assert token_for("127.0.0.2:8500") == all_of_them.read_text()
    os.utime(one, ns=(2**62, 2**62))
    assert token_for("127.0.0.2:8500") == one.read_text()
    killed.close()
    alive.close()


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


def test_what_is_this_machines_own():
    """By address, by name, and on a socket; a name that nobody knows is not."""
    for host in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"):
        assert is_loopback(host), host
    for host in ("0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "no such name", "a" * 300, ""):
        assert not is_loopback(host), host
    assert addresses_of("192.0.2.1") == ("192.0.2.1",)
    for target, local in (("unix:/x", True), ("[::1]:8500", True), ("192.0.2.1:8500", False)):
        assert (dialled(target).target, dialled(target).local) == (target, local)


@pytest.mark.usefixtures("runtime_dir")
def test_the_operator_is_nobody_that_a_rule_names():
    """So that no rule shuts out who runs the machine, and without the token nobody is."""
    guard = Guard(rules_without_file(certified=False, control=False))
    guard.local = LocalToken(["127.0.0.1:8500"]).digest
    token = token_for("127.0.0.1:8500")
    assert guard.who(Shown(token=token, peer="p")).startswith("the operator of this machine")
    assert guard.who(Shown(token="other", peer="p")) == "p"


def test_a_token_stays_on_the_machine_or_goes_over_tls(tmp_path, capsys):
    """In plain text it would be everybody's on the way."""
    file = tmp_path / "token"
    file.write_text("edge-abc\n")
    file.chmod(0o600)
    assert main(["status", "192.0.2.1:8500", f"--token_file={file}"]) == 2
    assert "a token would go to 192.0.2.1:8500 in plain text" in capsys.readouterr().err


def test_a_token_is_not_shown_to_one_of_several_servers_under_a_name(tmp_path, monkeypatch, capsys):
    """Another user's may be among them: who has the token says at which address."""
    file = tmp_path / "token"
    file.write_text("edge-abc\n")
    file.chmod(0o600)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("fallback_server.local_token.addresses_of", lambda _: ("127.0.0.1", "127.0.0.2"))
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        assert dialled(f"localhost:{port}").others == dialled("localhost:1").others == ()
        with socket.create_server(("127.0.0.2", port)):
            assert main(["status", f"localhost:{port}", f"--token_file={file}"]) == 2
    assert f"to whoever listens at 127.0.0.1:{port}, and another may be meant" in capsys.readouterr().err


def test_no_proxy_comes_between_a_command_and_its_own_machine(tmp_path, monkeypatch, capsys):
    """It would be shown the token, and reach another machine's loopback."""
    file = tmp_path / "token"
    file.write_text("edge-abc\n")
    file.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        taken = []
        waiting = threading.Thread(target=lambda: taken.append(server.accept()[0].close()))
        waiting.start()
        port = server.getsockname()[1]
        assert main(["status", f"127.0.0.1:{port}", f"--token_file={file}", "--timeout_s=20"]) == 1
        waiting.join(20)
        assert taken == [None]
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert "can't be reached" in capsys.readouterr().err
