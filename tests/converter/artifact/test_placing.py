import itertools
import multiprocessing
import os
import resource
import signal
import stat
import sys

import pytest
from support.converter_packages import (
    die_while_publishing,
    interrupt_while_publishing,
    publish_toy,
    tree_bytes,
)

from converter.artifact import Package, PackageExists, archive_path, check_free, install
from converter.artifact.placing import _exchange

REPORT = "toy-1.html"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def seen(out, copy, scratch):
    """What lies under the names that readers know; the archive as the digest of what it holds."""
    version = out / "toy" / "1"
    archive = archive_path(out, "toy", 1)
    return {
        "version": Package.open(version).digest if version.exists() else None,
        "archive": install(archive, scratch, replace=True).digest if archive.exists() else None,
        "report": (out / REPORT).read_text() if (out / REPORT).exists() else None,
        "copy": Package.open(copy).digest if copy.exists() else None,
    }


def run_child(function, *args, **options):
    process = multiprocessing.get_context("fork").Process(target=function, args=args, kwargs=options)
    process.start()
    process.join()
    return process.exitcode


def before_and_after(tmp_path, *, replacing):
    """What is seen before and after an undisturbed publication, and its options."""
    states = []
    out, copy = tmp_path / "plain", tmp_path / "model" / "assets.extra" / "edge_package"
    copy.parent.parent.mkdir()
    if replacing:
        stand(tmp_path, out, copy)
    states.append(seen(out, copy, tmp_path / "scratch"))
    publish_toy(tmp_path / "files", out, labels=("new",), replace=True, beside={REPORT: b"the new"}, copy_to=copy)
    states.append(seen(out, copy, tmp_path / "scratch"))
    return states


def stand(tmp_path, out, copy):
    publish_toy(tmp_path / "files", out, beside={REPORT: b"the old"}, copy_to=copy)


def attempts(tmp_path, function, *, replacing, exchange):
    """A folder for each step at which a publication was stopped, until one gets through; with the exit code."""
    for at in itertools.count(1):
        base = tmp_path / f"at{at}"
        out, copy = base / "out", base / "model" / "assets.extra" / "edge_package"
        copy.parent.parent.mkdir(parents=True)
        out.mkdir()
        if replacing:
            stand(base, out, copy)
        code = run_child(
            function,
            base / "files",
            out,
            at,
            exchange=exchange,
            labels=("new",),
            replace=True,
            beside={REPORT: b"the new"},
            copy_to=copy,
        )
        yield out, copy, code
        if code == 0:
            assert at > 30, "the process was never stopped: the steps were not seen"
            return


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("replacing", [True, False])
def test_whenever_a_publisher_is_killed_the_old_or_the_new_is_there(tmp_path, replacing, exchange):
    """Directory, archive and report are all the old or all the new, once the next writer has looked there."""
    old, new = before_and_after(tmp_path, replacing=replacing)
    for out, copy, code in attempts(tmp_path, die_while_publishing, replacing=replacing, exchange=exchange):
        assert code in (0, -signal.SIGKILL)
        if replacing and exchange:
            assert (out / "toy" / "1" / "manifest.json").is_file(), "a version that is replaced is never absent"
            assert archive_path(out, "toy", 1).is_file()
        check_free(out, "toy", 1, replace=True)
        found = seen(out, copy, tmp_path / "scratch")
        copied = found.pop("copy")
        assert found in [{name: state[name] for name in found} for state in (old, new)]
        assert copied in (old["copy"], new["copy"]) or not exchange
        publish_toy(tmp_path / "files", out, labels=("new",), replace=True, beside={REPORT: b"the new"}, copy_to=copy)
        assert seen(out, copy, tmp_path / "scratch") == new
        assert not [*out.glob(".staging-*"), *copy.parent.glob(".staging-*")]


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("replacing", [True, False])
def test_whenever_a_publisher_is_interrupted_all_is_as_before(tmp_path, replacing, exchange):
    """An exception at any step leaves what was there, its archive, its report and its copy, and nothing else.

    Once the last rename is done, and what is left is to tidy up, it is the new that is there.
    """
    old, new = before_and_after(tmp_path, replacing=replacing)
    states = []
    for out, copy, code in attempts(tmp_path, interrupt_while_publishing, replacing=replacing, exchange=exchange):
        assert code in (0, 1)
        check_free(out, "toy", 1, replace=True)
        states.append(seen(out, copy, tmp_path / "scratch"))
        assert states[-1] in (old, new)
    assert states == sorted(states, key=lambda state: state == new)
    assert states.count(old) > 20


def publish_where_nothing_can_be_written(folder, out, *, killed):
    """Publishes, and from the journal on no file may have a byte; whoever writes one is killed, or told so."""

    def end_of_the_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if killed else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    try:
        publish_toy(folder, out, before_moving=end_of_the_disk)
    except OSError:
        sys.exit(1)


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "code"), [(False, 1), (True, -signal.SIGXFSZ)])
def test_where_the_journal_can_not_be_written_nothing_stays(tmp_path, out, killed, code):
    """On a full disk nothing is left behind, and what a process that is killed then leaves is removed by the next."""
    out.mkdir()
    assert run_child(publish_where_nothing_can_be_written, tmp_path / "files", out, killed=killed) == code
    assert list(out.glob(".staging-*")) == [] or killed
    publish_toy(tmp_path / "files", out)
    assert sorted(path.name for path in out.iterdir()) == ["toy", "toy-1.tar.gz"]


@pytest.mark.parametrize("text", [b"", b'{"target": "toy/1", "dig', b'{"target": "\xff"}', b'{"target": "../x"}'])
def test_a_journal_that_is_not_whole_says_that_nothing_was_moved(tmp_path, out, text):
    """The folder that has it is removed, as earlier versions left some; not one in which something was put aside."""
    for name in ("one", "other"):
        (out / f".staging-{name}" / "tree").mkdir(parents=True)
        (out / f".staging-{name}" / "moves.json").write_bytes(text)
    (out / ".staging-other" / "replaced-tree").mkdir()
    publish_toy(tmp_path / "files", out)
    assert [path.name for path in out.glob(".staging-*")] == [".staging-other"]


def test_this_system_exchanges_two_names_in_one_step(tmp_path):
    """Where it can't (another system, an old file system) the test is skipped, and two renames do it."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.write_text("a file")
    if not _exchange(one, other):
        pytest.skip("no renameat2 here, or a file system without RENAME_EXCHANGE")
    assert one.read_text() == "a file"
    assert other.is_dir()


def test_what_lies_beside_comes_and_goes_with_the_version(tmp_path, out):
    """Bytes are written, None removes; a directory of that name is left alone."""
    publish_toy(tmp_path / "files", out, beside={REPORT: b"first"})
    assert (out / REPORT).read_bytes() == b"first"
    (out / "toy-1.rejected.html").mkdir()
    publish_toy(tmp_path / "files", out, replace=True, beside={REPORT: None, "toy-1.rejected.html": None})
    assert sorted(path.name for path in out.iterdir()) == ["toy", "toy-1.rejected.html", "toy-1.tar.gz"]
    assert stat.S_IMODE((out / "toy" / "1").stat().st_mode) == 0o777 & ~_umask()


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_file_beside_that_can_not_be_moved_publishes_nothing(tmp_path, out):
    """A directory in the place of the report: the version that was there, and its archive, stay."""
    publish_toy(tmp_path / "files", out)
    (out / REPORT).mkdir()
    before = tree_bytes(out)
    with pytest.raises(OSError, match=r"toy-1\.html"):
        publish_toy(tmp_path / "files", out, labels=("new",), replace=True, beside={REPORT: b"new"})
    assert tree_bytes(out) == before
    assert not list(out.glob(".staging-*"))


def test_a_copy_that_can_not_be_made_publishes_nothing(tmp_path, out):
    """Where its folder is a file, nothing of the version is there, and the file is as it was."""
    (tmp_path / "assets.extra").write_text("in the way")
    with pytest.raises(NotADirectoryError):
        publish_toy(tmp_path / "files", out, copy_to=tmp_path / "assets.extra" / "edge_package")
    assert list(out.iterdir()) == []
    assert (tmp_path / "assets.extra").read_text() == "in the way"


def test_a_copy_of_another_version_gives_way_only_where_told_to(tmp_path, out):
    """The refusal names what is there, and publishes nothing; what is no package never gives way."""
    copy = tmp_path / "assets.extra" / "edge_package"
    publish_toy(tmp_path / "files", out, copy_to=copy)
    with pytest.raises(PackageExists, match=r"edge_package: holds toy version 1 already; --replace"):
        publish_toy(tmp_path / "files", out, version=2, copy_to=copy)
    assert not (out / "toy" / "2").exists()
    publish_toy(tmp_path / "files", out, version=2, copy_to=copy, replace=True)
    assert Package.open(copy).manifest.version == 2
    (copy / "manifest.json").write_text("{")
    publish_toy(tmp_path / "files", out, version=2, copy_to=copy, replace=True)
    (copy / "manifest.json").unlink()
    with pytest.raises(PackageExists, match="no package"):
        publish_toy(tmp_path / "files", out, version=3, copy_to=copy, replace=True)


def test_a_directory_in_the_archives_place_is_never_removed(tmp_path, out):
    """With `replace` or without, before anything is written."""
    (out / "toy-1.tar.gz").mkdir(parents=True)
    (out / "toy-1.tar.gz" / "mine").write_text("mine")
    for replace in (False, True):
        with pytest.raises(PackageExists, match=r"toy-1\.tar\.gz: is a directory"):
            publish_toy(tmp_path / "files", out, replace=replace)
    assert tree_bytes(out) == {"toy-1.tar.gz/mine": b"mine"}


def test_a_file_in_the_versions_place_is_never_removed(tmp_path, out):
    """With `replace` or without."""
    (out / "toy").mkdir(parents=True)
    (out / "toy" / "1").write_text("mine")
    for replace in (False, True):
        with pytest.raises(PackageExists, match="is no directory"):
            publish_toy(tmp_path / "files", out, replace=replace)


def test_an_archive_whose_directory_is_gone_is_a_version_that_is_there(tmp_path, out):
    """It is replaced only where told to."""
    out.mkdir()
    (out / "toy-1.tar.gz").write_text("kept by its owner")
    with pytest.raises(PackageExists, match=r"toy-1\.tar\.gz"):
        publish_toy(tmp_path / "files", out)
    assert (out / "toy-1.tar.gz").read_text() == "kept by its owner"
    package = publish_toy(tmp_path / "files", out, replace=True)
    assert install(out / "toy-1.tar.gz", tmp_path / "store").digest == package.digest


def test_what_is_called_before_the_moves_sees_nothing_moved(tmp_path, out):
    """And if it raises, nothing is."""

    def refuse():
        assert not list(out.glob("toy*/1"))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        publish_toy(tmp_path / "files", out, before_moving=refuse)
    assert not list(out.glob("toy*/1"))
