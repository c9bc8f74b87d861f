import itertools
import os
import shutil
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.edge_models import publish_scale
from support.edge_stores import fake_trial, killed_at, leftovers, state

from converter.artifact import FileEntry, Package
from converter.artifact.digest import file_entry
from edge_runtime.installing.install import install
from edge_runtime.installing.partial import FOLDER, Partial, Piece, SentWrong, taken


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return publish_scale(tmp_path_factory.mktemp("published"), 1, 1.0, content=os.urandom(5000))


def fetch(root, package):
    """What a fetcher does, with a disk in the place of a server."""
    size_bytes = (package.path / "manifest.json").stat().st_size
    with taken(root, "scale", 1, package.digest, manifest_bytes=size_bytes) as partial:
        while pieces := partial.missing():
            for piece in pieces:
                data = (package.path / piece.path).read_bytes()[partial.offset(piece) :]
                assert partial.take(piece, [data[:1000], data[1000:]])
        install(partial.tree(), root, trial=fake_trial)
        partial.discard()


@pytest.mark.slow
def test_whenever_who_fetches_is_killed_the_next_finishes_it(package, tmp_path):
    """The version is whole or not there, what had come is used or found wrong, and nothing stays behind."""
    for step in itertools.count(1):
        root = tmp_path / str(step)
        root.mkdir()
        code = killed_at(step, root, lambda root=root: fetch(root, package))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert state(root) in ({}, {"scale": ({1: package.digest}, {}, {})}), f"step {step}"
        fetch(root, package)
        assert state(root) == {"scale": ({1: package.digest}, {}, {})}
        assert not leftovers(root)
        assert not (root / FOLDER).exists()
        shutil.rmtree(root)
    assert step > 10, "the process was never killed: the steps were not seen"


@given(st.binary(max_size=200), st.lists(st.binary(max_size=90), max_size=8), st.integers(0, 200))
def test_only_the_right_bytes_are_a_file_and_no_more_are_written(tmp_path_factory, content, chunks, had):
    """Whatever comes in whatever pieces after whatever had come: the file, nothing, or a part that goes on."""
    folder = tmp_path_factory.mktemp("partial")
    (folder / "content").write_bytes(content)
    entry = file_entry(folder / "content")
    (folder / "content").unlink()
    partial = Partial(folder, "scale", 1, f"sha256:{'0' * 64}", manifest_bytes=1)
    piece = Piece(path="a", entry=entry)
    part = folder / f"{entry.sha256}.part"
    part.write_bytes(content[:had])
    came = content[:had] + b"".join(chunks)
    try:
        whole = partial.take(piece, iter(chunks))
    except SentWrong:
        assert not list(folder.iterdir())
        return
    assert whole == (folder / entry.sha256).exists()
    if whole:
        assert (folder / entry.sha256).read_bytes() == content == came[: len(content)]
    else:
        assert part.read_bytes() == came
        assert partial.offset(piece) == len(came) < len(content)


def test_a_link_in_the_place_of_a_part_is_not_written_through(tmp_path):
    """Whoever may write to the store already has no use of it, and nobody else either."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside").write_bytes(b"before")
    partial = Partial(tmp_path / "folder", "scale", 1, f"sha256:{'0' * 64}", manifest_bytes=1)
    piece = Piece(path="a", entry=FileEntry(size_bytes=10, sha256="1" * 64))
    (tmp_path / "folder" / f"{'1' * 64}.part").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic"):
        partial.take(piece, [b"x" * 10])
    assert (tmp_path / "outside").read_bytes() == b"before"


def test_what_has_come_is_installed_as_a_package_is(package, tmp_path):
    """Verified once more, from a copy: what changes on the disk after it came is found, and not installed."""
    size_bytes = (package.path / "manifest.json").stat().st_size
    with taken(tmp_path, "scale", 1, package.digest, manifest_bytes=size_bytes) as partial:
        for _ in range(2):
            for piece in partial.missing():
                partial.take(piece, [(package.path / piece.path).read_bytes()])
        tree = partial.tree()
        assert Package.open(tree).digest == package.digest
        file = tree / "variants/float32.tflite"
        file.write_bytes(b"x" * file.stat().st_size)
        with pytest.raises(Exception, match="SHA-256"):
            install(tree, tmp_path, trial=fake_trial)
    assert state(tmp_path) == {}
