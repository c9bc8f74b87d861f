import os
import stat

import pytest

from fallback_server.transport.native import private_folder
from fallback_server.transport.native.private_folder import PREFIX, PrivateFolder


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
