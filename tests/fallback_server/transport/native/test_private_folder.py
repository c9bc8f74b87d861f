import os
import stat

import pytest

from fallback_server.transport.native import private_folder
from fallback_server.transport.native.private_folder import PREFIX, PrivateFolder, lack
from fallback_server.transport.unix_socket import MAX_PATH_BYTES, SocketUnavailable


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where temporary files are."""
    monkeypatch.setattr(private_folder.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def old(path):
    os.utime(path, (1e9, 1e9))


def test_it_is_its_owners_alone_and_goes_with_the_server(place):
    """Whatever lies in it goes along."""
    folder = PrivateFolder()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "grpc.sock").write_text("")
    folder.close()
    folder.close()
    assert list(place.iterdir()) == []


def test_what_a_killed_server_left_is_cleared_away(place):
    """Not what a living one has, nor what has just been made, nor what has another name, nor what a link points to."""
    kept = [PrivateFolder(), PrivateFolder()]
    old(kept[0].path)
    left, young, others, linked = (
        place / name for name in (f"{PREFIX}left", f"{PREFIX}new", "others", f"{PREFIX}link")
    )
    for path in (left, young, others):
        path.mkdir()
        (path / "file").write_text("")
    linked.symlink_to(others)
    os.utime(linked, (1e9, 1e9), follow_symlinks=False)
    old(left)
    old(others)
    new = PrivateFolder()
    assert not left.exists()
    assert all(path.exists() for path in (young, others / "file", linked, *(folder.path for folder in (*kept, new))))
    for folder in (*kept, new):
        folder.close()


def test_what_stands_looks_new(place):
    """To programs that clear away by age."""
    folder = PrivateFolder()
    assert not folder.stands()
    folder.socket.write_text("")
    for path in (folder.path, folder.socket):
        old(path)
    assert folder.stands()
    assert min(path.stat().st_mtime for path in (folder.path, folder.socket)) > 1.1e9
    folder.close()
    assert not folder.stands()


@pytest.fixture
def deep(tmp_path, monkeypatch):
    """A folder for temporary files that is too deep for a socket, and no other."""
    path = tmp_path / ("d" * MAX_PATH_BYTES)
    path.mkdir()
    monkeypatch.setattr(private_folder.tempfile, "tempdir", str(path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(private_folder, "_FALLBACKS", ())
    return path


@pytest.mark.usefixtures("deep")
def test_a_folder_that_is_too_deep_is_told_so():
    """With the bound, and how long the path would be; nothing is made."""
    text = rf"a socket's path must have at most {MAX_PATH_BYTES} bytes, and in /.*/d+ it has \d+"
    with pytest.raises(SocketUnavailable, match=text):
        PrivateFolder()
    assert "no folder for the socket behind it: a socket's path" in lack()


def test_another_place_is_taken_where_one_is_too_deep(deep, tmp_path, tmp_path_factory, monkeypatch):
    """The first that is short enough and there; what killed servers left in it is cleared away as well."""
    short = tmp_path_factory.mktemp("s")
    left = short / f"{PREFIX}left"
    left.mkdir()
    old(left)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    monkeypatch.setattr(private_folder, "_FALLBACKS", (str(short),))
    folder = PrivateFolder()
    assert folder.path.parent == short
    assert len(os.fsencode(folder.socket)) <= MAX_PATH_BYTES
    assert list(short.iterdir()) == [folder.path]
    folder.close()
    assert lack() == ""
    assert list(short.iterdir()) == list(deep.iterdir()) == []
