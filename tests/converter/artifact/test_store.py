import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.converter_packages import die_while_publishing, manifest_for, publish_toy, tree_bytes, write_files
from support.privileges import unprivileged

from converter.artifact import (
    ManifestInvalid,
    Package,
    PackageExists,
    PackageNotFound,
    archive_path,
    install,
    installed,
    publish,
)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def leftovers(out):
    return list(out.glob(".staging-*"))


def test_publishing_leaves_the_version_its_archive_and_nothing_else(tmp_path, out):
    """No staging folder stays behind."""
    publish_toy(tmp_path / "files", out)
    assert sorted(path.name for path in out.iterdir()) == ["toy", "toy-1.tar.gz"]
    assert installed(out) == {"toy": [1]}


def test_a_version_never_changes_unless_told_to(tmp_path, out):
    """A second publish is refused and changes neither the directory nor the archive."""
    publish_toy(tmp_path / "files", out)
    before = tree_bytes(out)
    with pytest.raises(PackageExists, match="toy/1"):
        publish_toy(tmp_path / "files", out, labels=())
    assert tree_bytes(out) == before


def test_replace_puts_the_new_version_and_its_archive_in_place(tmp_path, out):
    """Directory and archive are both the new ones, and nothing of the old stays."""
    publish_toy(tmp_path / "files", out)
    package = publish_toy(tmp_path / "files", out, labels=("new",), replace=True)
    assert Package.open(out / "toy" / "1").manifest.labels == ("new",)
    assert install(archive_path(out, "toy", 1), tmp_path / "store").digest == package.digest
    assert not leftovers(out)


def test_files_and_manifest_must_agree(tmp_path, out):
    """A file too many, or one whose bytes changed since the manifest was made, publishes nothing."""
    files = write_files(tmp_path / "files")
    manifest = manifest_for(files)
    with pytest.raises(ManifestInvalid, match="differ"):
        publish({**files, "more": files["float32.tflite"]}, manifest, out)
    files["float32.tflite"].write_bytes(b"other")
    with pytest.raises(Exception, match="manifest says"):
        publish(files, manifest, out)
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.slow
def test_killed_at_any_moment_a_publisher_leaves_no_half_version(tmp_path):
    """A process killed at each of its steps on disk leaves the whole version or none; the next publish succeeds."""
    context = multiprocessing.get_context("fork")
    for at in itertools.count(1):
        out = tmp_path / str(at)
        out.mkdir()
        process = context.Process(target=die_while_publishing, args=(tmp_path / "files", out, at))
        process.start()
        process.join()
        for model, versions in installed(out).items():
            for version in versions:
                package = Package.open(out / model / str(version))
                assert install(archive_path(out, model, version), tmp_path / f"store{at}").digest == package.digest
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        publish_toy(tmp_path / "files", out, replace=True)
        assert not leftovers(out)
    assert at > 10, "the process was never killed: the steps were not seen"


def test_leftovers_of_a_killed_writer_are_no_version(tmp_path, out):
    """`installed` passes over staging folders, archives and stray files."""
    publish_toy(tmp_path / "files", out)
    staged = out / ".staging-abc" / "1"
    staged.mkdir(parents=True)
    for name in ("manifest.json",):
        (staged / name).write_text("{}")
    for stray in ("toy/x", "toy/01", "toy/2", "toy/" + "9" * 30):
        (out / stray).mkdir()
    for stray in ("toy/x", "toy/01", "toy/" + "9" * 30):
        (out / stray / "manifest.json").write_text("{}")
    (out / "toy" / "3").write_text("a file")
    assert installed(out) == {"toy": [1]}
    assert installed(tmp_path / "nowhere") == {}


def test_the_staging_folder_of_a_living_writer_is_not_swept(tmp_path, out):
    """Another process that is in the midst of publishing keeps its folder."""
    out.mkdir()
    code = (
        "import sys; from pathlib import Path; from converter.artifact import placing\n"
        "with placing.staging(Path(sys.argv[1])) as folder: print(folder, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        folder = Path(process.stdout.readline().strip())
        publish_toy(tmp_path / "files", out)
        assert folder.is_dir()
        process.kill()
        process.wait()
    publish_toy(tmp_path / "files", out, version=2)
    assert not folder.exists()


def test_of_many_publishers_one_wins_and_the_archive_is_its_own(tmp_path, out):
    """Threads that publish the same version at once: one succeeds, and the archive is that one's."""
    outcomes = []

    def attempt(number):
        try:
            outcomes.append(publish_toy(tmp_path / f"files{number}", out, labels=(str(number),)))
        except PackageExists:
            outcomes.append(None)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [package for package in outcomes if package]
    assert len(outcomes) == 8
    assert len(won) == 1
    assert install(archive_path(out, "toy", 1), tmp_path / "store").digest == won[0].digest


def test_where_the_directory_can_not_be_moved_the_archive_is_not_there_either(tmp_path, out):
    """A model's folder that is a file in the way: an error of the file system, and nothing is published."""
    out.mkdir()
    (out / "toy").write_text("in the way")
    with pytest.raises(OSError, match="toy"):
        publish_toy(tmp_path / "files", out)
    assert [path.name for path in out.iterdir()] == ["toy"]


def test_a_full_disk_publishes_nothing(tmp_path, out):
    """Where no more than a few bytes can be written, the error is the system's, and nothing is left behind."""
    code = (
        "import resource, signal, sys; from support.converter_packages import manifest_for, write_files\n"
        "from converter.artifact import publish\n"
        "files = write_files(sys.argv[1]); manifest = manifest_for(files)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "publish(files, manifest, sys.argv[2])"
    )
    path = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, tmp_path / "files", out]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert list(out.iterdir()) == []


def test_installing_a_directory_copies_what_the_manifest_lists(tmp_path, out):
    """What happens to lie beside the listed files is not taken along."""
    package = publish_toy(tmp_path / "files", out)
    expected = tree_bytes(package.path)
    (package.path / "notes.txt").write_text("not listed")
    assert tree_bytes(install(package.path, tmp_path / "store").path) == expected


def test_installing_twice_needs_replace(tmp_path, out):
    """An installed version is refused, or replaced when told to."""
    package = publish_toy(tmp_path / "files", out)
    store = tmp_path / "store"
    install(package.path, store)
    with pytest.raises(PackageExists):
        install(package.path, store)
    assert install(package.path, store, replace=True).digest == package.digest
    assert not leftovers(store)


def test_installing_nothing_is_refused(tmp_path):
    """A path with nothing there, or with something that is neither file nor directory."""
    with pytest.raises(PackageNotFound):
        install(tmp_path / "nowhere.tar.gz", tmp_path / "store")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PackageNotFound):
        install(tmp_path / "pipe", tmp_path / "store")


@pytest.mark.parametrize("name", ["replaced", "replaced.tar.gz", "tree", "unpacked", "package.tar.gz"])
def test_a_model_may_be_called_as_the_staging_folders_parts(tmp_path, out, name):
    """Publishing and installing over what is there works for every model name that is allowed."""
    store = tmp_path / "store"
    for labels in (("old",), ("new",)):
        package = publish_toy(tmp_path / "files", out, model=name, labels=labels, replace=True)
        assert install(archive_path(out, name, 1), store, replace=True).digest == package.digest
        assert install(package.path, store, replace=True).manifest.labels == labels
    assert not leftovers(out)
    assert not leftovers(store)


@pytest.mark.parametrize("store", ["file", "file/below", "store"])
def test_a_file_in_a_folders_place_is_called_no_directory(tmp_path, out, store):
    """A store, a folder above it, or a model's folder that is a file: the error says that it is no directory."""
    package = publish_toy(tmp_path / "files", out)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "toy").write_text("in the way")
    with pytest.raises(NotADirectoryError, match=r"Not a directory: .*(file|toy)"):
        install(package.path, tmp_path / store)
    with pytest.raises(NotADirectoryError, match=r"Not a directory: .*(file|toy)"):
        publish_toy(tmp_path / "files", tmp_path / store)


def test_a_store_that_can_not_be_written_is_the_systems_error(tmp_path, out):
    """Installing into a folder without permission to write says so and leaves nothing."""
    package = publish_toy(tmp_path / "files", out)
    store = tmp_path / "store"
    store.mkdir()
    store.chmod(0o555)
    with unprivileged(), pytest.raises(PermissionError):
        install(package.path, store)
    assert not list(store.iterdir())


def test_what_can_not_be_looked_at_hides_nothing_else(tmp_path, out):
    """Models and versions without permission are passed over and told; the others are listed."""
    for model in ("a", "b", "c"):
        publish_toy(tmp_path / "files", out, model=model)
    publish_toy(tmp_path / "files", out, model="c", version=2)
    (out / "b").chmod(0)
    (out / "c" / "1").chmod(0)
    told = []
    with unprivileged():
        assert installed(out) == {"a": [1], "c": [2]}
        installed(out, passed_over=lambda path, error: told.append((path, type(error))))
    assert told == [(out / "b", PermissionError), (out / "c" / "1", PermissionError)]
    out.chmod(0)
    with unprivileged(), pytest.raises(PermissionError):
        installed(out)
    out.chmod(0o755)
