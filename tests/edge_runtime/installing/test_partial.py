import errno
import itertools
import os
import shutil
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.edge_models import publish_scale
from support.edge_stores import fake_trial, killed_at, leftovers, state
from support.vanishing import while_folders_vanish

from converter.artifact import DigestMismatch, FileEntry, Package
from converter.artifact.digest import file_entry
from edge_runtime.installing.install import install
from edge_runtime.installing.partial import FOLDER, Partial, Piece, SentWrong, prune, taken


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return publish_scale(tmp_path_factory.mktemp("published"), 1, 1.0, content=os.urandom(5000))


def fetch(root, package):
    """What a fetcher does, with a disk in the place of a server."""
    size_bytes = (package.path / "manifest.json").stat().st_size
    with taken(root, "scale", 1, package.digest, manifest_bytes=size_bytes) as partial:
        assert partial.copies
        while pieces := partial.missing():
            for piece in pieces:
                data = (package.path / piece.path).read_bytes()[partial.offset(piece) :]
                assert partial.take(piece, [data[:1000], data[1000:]])
        install(partial.tree(), root, link=True, trial=fake_trial)
        partial.discard()


def refuse_link(*_arguments, **_options):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def without_links(monkeypatch):
    """As on a file system where files have one name: FAT, say."""
    monkeypatch.setattr(os, "link", refuse_link)


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False])
def test_whenever_who_fetches_is_killed_the_next_finishes_it(package, tmp_path, monkeypatch, links):
    """The version is whole or not there, what had come is used or found wrong, and nothing stays behind."""
    if not links:
        without_links(monkeypatch)
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


class Ended(Exception):
    """What the test ends a copy or a verification with."""


@pytest.mark.parametrize("links", [True, False])
def test_it_can_be_ended_between_two_pieces_of_a_file(tmp_path, monkeypatch, links):
    """Wherever that is, all that has come stays, nothing is installed, and the next one goes on from there."""
    package = publish_scale(tmp_path / "published", 1, 1.0, content=os.urandom(3 * 2**20))
    if not links:
        without_links(monkeypatch)
    root, size_bytes = tmp_path / "store", (package.path / "manifest.json").stat().st_size
    steps = itertools.count()

    def may_end():
        if next(steps) == last:
            raise Ended

    with taken(root, "scale", 1, package.digest, manifest_bytes=size_bytes, may_end=may_end) as partial:
        for last in itertools.count():  # noqa: B007  may_end looks at it
            steps, done = itertools.count(), partial.missing()
            try:
                while pieces := partial.missing():
                    for piece in pieces:
                        partial.take(piece, [(package.path / piece.path).read_bytes()[partial.offset(piece) :]])
                install(partial.tree(), root, link=True, may_end=may_end, trial=fake_trial)
                break
            except Ended:
                assert (leftovers(root), state(root)) == ([], {})
                assert len(partial.missing()) <= max(len(done), 1)
    assert last > (12 if links else 16)
    assert state(root) == {"scale": ({1: package.digest}, {}, {})}


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


def test_a_file_that_came_is_another_s_signature_only_with_its_size(package, tmp_path):
    """A server describes a signature with the digest of a large file that is there: it is asked for, and not read."""
    size_bytes = (package.path / "manifest.json").stat().st_size
    with taken(tmp_path, "scale", 1, package.digest, manifest_bytes=size_bytes) as partial:
        for _ in range(2):
            for piece in partial.missing():
                partial.take(piece, [(package.path / piece.path).read_bytes()])
        (file,) = package.manifest.files.values()
    told = []
    wrong = FileEntry(size_bytes=100, sha256=file.sha256)
    with taken(
        tmp_path, "scale", 1, package.digest, manifest_bytes=size_bytes, signed=wrong, vouch=told.append
    ) as partial:
        assert [piece.path for piece in partial.missing()] == ["manifest.sig"]
        with pytest.raises(SentWrong, match="is not what its digest says"):
            partial.take(partial.missing()[0], [bytes(100)])
    assert told == []
    with taken(tmp_path, "scale", 1, package.digest, manifest_bytes=size_bytes) as partial:
        assert partial.missing() == []


def test_what_has_come_is_installed_as_a_package_is(package, tmp_path):
    """Verified once more: what changes on the disk after it came is found, and not installed."""
    size_bytes = (package.path / "manifest.json").stat().st_size
    with taken(tmp_path, "scale", 1, package.digest, manifest_bytes=size_bytes) as partial:
        for _ in range(2):
            for piece in partial.missing():
                partial.take(piece, [(package.path / piece.path).read_bytes()])
        tree = partial.tree()
        assert Package.open(tree).digest == package.digest
        file = tree / "variants/float32.tflite"
        file.write_bytes(b"x" * file.stat().st_size)
        for link in (False, True):
            with pytest.raises(Exception, match="SHA-256"):
                install(tree, tmp_path, link=link, trial=fake_trial)
    assert state(tmp_path) == {}


@pytest.mark.parametrize("links", [True, False])
def test_what_has_come_is_there_once_while_it_is_installed(package, tmp_path, monkeypatch, links):
    """Its files get second names; where there are none, all are copied, which is told before. They end up alike."""
    if not links:
        without_links(monkeypatch)
    size_bytes = sum(path.stat().st_size for path in package.path.rglob("*") if path.is_file())
    seen = []

    def trial(staged):
        found = {path.stat().st_ino: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
        seen.append(sum(found.values()))
        return fake_trial(staged)

    manifest_bytes = (package.path / "manifest.json").stat().st_size
    with taken(tmp_path, "scale", 1, package.digest, manifest_bytes=manifest_bytes) as partial:
        for _ in range(2):
            for piece in partial.missing():
                partial.take(piece, [(package.path / piece.path).read_bytes()])
        install(partial.tree(), tmp_path, link=True, trial=trial)
        assert seen[0] <= partial.copies * size_bytes < seen[0] + size_bytes
        assert partial.copies == (1 if links else 3)
        partial.discard()
    (tmp_path / "new").touch()
    for path in (tmp_path / "scale" / "1").rglob("*.*"):
        assert path.stat().st_nlink == 1
        assert path.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_link_is_not_taken_for_a_file(package, tmp_path):
    """Neither given a second name nor installed, and where it leads nothing is changed."""
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    shutil.copytree(package.path, tree)
    (tree / "variants/float32.tflite").rename(outside)
    outside.chmod(0o600)
    (tree / "variants/float32.tflite").symlink_to(outside)
    with pytest.raises(DigestMismatch, match="a link"):
        install(tree, tmp_path / "store", link=True, trial=fake_trial)
    assert (outside.stat().st_mode & 0o777, outside.stat().st_nlink) == (0o600, 1)


@pytest.mark.slow
def test_folders_that_go_while_they_are_pruned_stop_nobody(tmp_path):
    """Runtimes that share a store prune it at once."""
    for name in ("a@1", "b@2"):
        (tmp_path / FOLDER / name).mkdir(parents=True)
    assert while_folders_vanish(tmp_path / FOLDER, lambda: prune(tmp_path, keep_bytes=0)) == 0
    assert while_folders_vanish(tmp_path, lambda: prune(tmp_path, keep_bytes=0)) == 0
