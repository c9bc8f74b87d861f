import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.archive_place import Place
from support.fallback_archives import SAVED_MODEL, write

from fallback_server.core.archive import Unpacker
from fallback_server.core.notes import NOTES


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


CHILD = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from fallback_server.core import archive, unpacking
from fallback_server.core.aspired import AspiredVersion
from fallback_server.core.scan import read_archive
from fallback_server.core.servable import ServableId
base = Path(sys.argv[1])
step = sys.argv[2]
def hang(*_, **__):
    print("there", flush=True)
    time.sleep(600)
if step == "writing":
    unpacking._Unpacking._make_links = hang
elif step == "noting":
    archive.write_note = hang
elif step == "moving":
    archive.before, archive.write_note = archive.write_note, None
    archive.write_note = lambda *args: (archive.before(*args), hang())
fingerprint, _ = read_archive(base / "7.zip")
version = AspiredVersion(path=base / "7", fingerprint=fingerprint, archive=base / "7.zip")
archive.Unpacker().prepare(ServableId("m", 7), version)
"""


def killed_there(program, *arguments):
    """Runs a program until it says that it is there, and kills it by force."""
    root = str(Path(__file__).parents[3])
    child = subprocess.Popen(
        [sys.executable, "-c", program.format(path=[root]), *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "there\n"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait(30)
        child.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["writing", "noting", "moving"])
def test_a_kill_at_any_point_leaves_no_half_version(place, step):
    """Killed by force in the middle: no folder is there; the next start unpacks anew, and clears up."""
    write(place.base / "7.zip", SAVED_MODEL)
    killed_there(CHILD, str(place.base), step)
    assert place.files() == ["7.zip"]
    assert list((place.base / NOTES).glob("staging*"))
    place.prepare()
    assert place.files() == ["7", "7.zip"]
    assert not list((place.base / NOTES).glob("staging*"))


TIDYING = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from fallback_server.core import archive, notes
def hang(*_, **__):
    print("there", flush=True)
    time.sleep(600)
if sys.argv[2] == "noting":
    Path.unlink = hang
else:
    notes.shutil.rmtree = hang
archive.Unpacker(unpack_dir=Path(sys.argv[1])).tidy(())
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["noting", "deleting"])
def test_a_kill_while_something_is_deleted_leaves_no_half_version(tmp_path, step):
    """Its folder is gone at one instant; the next start deletes the rest."""
    place = Place(tmp_path, unpack_dir=tmp_path / "state")
    write(place.base / "7.zip", SAVED_MODEL)
    place.prepare()
    (place.base / "7.zip").unlink()
    killed_there(TIDYING, str(tmp_path / "state"), step)
    model = tmp_path / "state" / "m"
    assert [path.name for path in model.iterdir()] == [NOTES]
    assert list((model / NOTES).iterdir())
    Unpacker(unpack_dir=tmp_path / "state").tidy(())
    assert list((model / NOTES).iterdir()) == []
