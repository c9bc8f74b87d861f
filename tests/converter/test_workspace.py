import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from support.converter_packages import publish_toy

from converter.artifact import install
from converter.workspace import PREFIX, working_folder

OWNER = """
import sys, time
from converter.artifact import install
from converter.workspace import working_folder
with working_folder() as folder:
    (folder / "samples.npy").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The system's temporary folder, for this process and those that it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner(root):
    """Another process that has a working folder."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.folder = Path(process.stdout.readline().strip())
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_the_folder_is_gone_afterwards(root):
    """With what was put into it, also where the body fails."""

    def fail():
        with working_folder() as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_text("x")
            assert folder.parent.parent == root
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(root.iterdir()) == []


def test_the_folder_of_a_killed_owner_goes_with_the_next(root, owner):
    """After SIGKILL nobody else would ever remove it."""
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert (owner.folder / "samples.npy").exists()
    with working_folder() as mine:
        assert list(root.iterdir()) == [mine.parent]


def test_the_folder_of_a_living_owner_stays(root, owner):
    """Of another process and of this one."""
    with working_folder() as first, working_folder() as second:
        assert {owner.folder.parent, first.parent, second.parent} == set(root.iterdir())
        assert (owner.folder / "samples.npy").exists()
    assert list(root.iterdir()) == [owner.folder.parent]


def test_the_folder_can_be_locked_by_who_works_in_it(root):
    """A package that is looked into is installed there, under a lock."""
    package = publish_toy(root / "files", root / "out")
    with working_folder() as folder:
        assert install(package.path, folder).manifest == package.manifest


def test_links_and_strangers_stay(root, tmp_path_factory):
    """What a link points to, and whatever has another name, are nobody's leavings."""
    target = tmp_path_factory.mktemp("target")
    (target / "file").write_text("x")
    (root / f"{PREFIX}link").symlink_to(target)
    (root / f"{PREFIX}file").write_text("x")
    (root / "edge-convert-other").mkdir()
    with working_folder():
        pass
    assert len(list(root.iterdir())) == 3
    assert (target / "file").exists()


def test_owners_that_start_at_once_do_not_take_each_others_folders(root):
    """Between the making of a folder and its locking, another one's sweep may come."""
    lost = []

    def use():
        for _ in range(50):
            with working_folder() as folder:
                (folder / "file").write_text("x")
                if not (folder / "file").exists():
                    lost.append(folder)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (lost, list(root.iterdir())) == ([], [])
