import logging
import os
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.interpreter_models import images, net_model, net_signature

from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.compiled import CompiledSession
from edge_runtime.engine.interpreter import InterpreterSession
from edge_runtime.engine.library import installed
from edge_runtime.engine.weights import Kept, WeightCache, superfluous

ROOT = Path(__file__).parents[3]
MODEL = net_model(hidden=2048, classes=256)
SIGNATURE = net_signature(classes=256)


def spec(folder=""):
    return SessionSpec(subject="net/1", signatures=(SIGNATURE,), weight_cache=str(folder))


def expected(x):
    session = InterpreterSession(spec(), MODEL)
    return session.run("serving_default", {"image": x})["scores"]


def answers(folder):
    session = CompiledSession(spec(folder), MODEL)
    try:
        return session.run("serving_default", {"image": images(2)})["scores"], repr(session)
    finally:
        session.close()


def packed(folder):
    return sorted(folder.glob("*.xnnpack"))


def test_weights_are_packed_once_and_read_again(tmp_path):
    """The second start reads what the first packed, and answers as an interpreter without it does."""
    folder = tmp_path / "cache"
    for _ in range(2):
        scores, shown = answers(folder)
        np.testing.assert_allclose(scores, expected(images(2)), atol=1e-5)
        assert "weights kept" in shown
    (file,) = packed(folder)
    assert file.stat().st_size > len(MODEL) / 2
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.iterdir()) == [file]


@pytest.mark.parametrize("damage", ["flipped", "short", "long", "empty", "foreign"])
def test_damaged_weights_are_never_used(tmp_path, caplog, damage):
    """LiteRT would answer wrong with weights that have changed: they are found out, thrown away and packed anew."""
    answers(tmp_path)
    (file,) = packed(tmp_path)
    good = file.read_bytes()
    bad = {
        "flipped": good[:500_000] + bytes(byte ^ 0x7F for byte in good[500_000:500_100]) + good[500_100:],
        "short": good[: len(good) // 2],
        "long": good + b"\0",
        "empty": b"",
        "foreign": os.urandom(5000),
    }[damage]
    file.chmod(0o600)
    file.write_bytes(bad)
    with caplog.at_level(logging.WARNING):
        scores, shown = answers(tmp_path)
    np.testing.assert_allclose(scores, expected(images(2)), atol=1e-5)
    assert "weights kept" in shown
    assert "are damaged, and are made again" in caplog.text
    (again,) = packed(tmp_path)
    assert again.read_bytes() == good


def test_other_file_and_other_library_have_other_weights(tmp_path):
    """What was packed for one model, or by one version of the library, is found for no other."""
    cache = WeightCache(tmp_path, "litert 1")
    memory = os.memfd_create("packed")
    os.write(memory, b"packed")
    cache.keep(b"model", memory)
    os.close(memory)
    opened = cache.open(b"model")
    assert os.read(opened, 10) == b"packed"
    os.close(opened)
    assert cache.open(b"model ") is None
    assert WeightCache(tmp_path, "litert 2").open(b"model") is None


def test_folder_that_cannot_be_had_costs_no_answer(tmp_path, caplog):
    """A session opens without kept weights where their folder can't be made, and says so."""
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        scores, shown = answers(tmp_path / "file")
    np.testing.assert_allclose(scores, expected(images(2)), atol=1e-5)
    assert "weights kept" not in shown
    assert "its packed weights can't be kept" in caplog.text


def test_folder_stays_within_its_bound(tmp_path):
    """What was used longest ago goes first, and so does what a process left behind that died while it wrote."""
    cache = WeightCache(tmp_path, "litert 1", max_total_bytes=2500)
    (tmp_path / ".0123.partial").write_bytes(bytes(1000))
    os.utime(tmp_path / ".0123.partial", (10, 10))
    memory = os.memfd_create("packed")
    os.write(memory, bytes(1000))
    for number in range(4):
        if number == 2:
            os.close(cache.open(b"0"))  # used again: not the oldest any more
        cache.keep(str(number).encode(), memory)
        os.utime(max(packed(tmp_path), key=lambda path: path.stat().st_mtime), (100 + number, 100 + number))
    os.close(memory)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2500
    assert not list(tmp_path.glob(".*"))


@given(
    st.lists(st.tuples(st.integers(0, 100), st.floats(0, 10)), max_size=8),
    st.integers(0, 300),
)
def test_what_goes_is_the_oldest_and_no_more_than_needed(files, bound):
    """The rest fits, the files that go were used before all that stay, and one fewer would not have done."""
    kept = [Kept(f"{number:02}", size, used_s) for number, (size, used_s) in enumerate(files)]
    gone = set(superfluous(kept, bound))
    stay = [one for one in kept if one.name not in gone]
    assert sum(one.size_bytes for one in stay) <= bound or len(stay) <= 1
    leave = sorted((one for one in kept if one.name in gone), key=lambda one: (one.used_s, one.name))
    assert all((left.used_s, left.name) < (one.used_s, one.name) for left in leave for one in stay)
    if leave:
        assert sum(one.size_bytes for one in stay) + leave[-1].size_bytes > bound


CHILD = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from support.interpreter_models import images, net_model, net_signature
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.compiled import CompiledSession
{before}
spec = SessionSpec(subject="net/1", signatures=(net_signature(classes=256),), weight_cache={folder!r})
session = CompiledSession(spec, net_model(hidden=2048, classes=256))
scores = session.run("serving_default", {{"image": images(2)}})["scores"]
print(repr(session), scores.tobytes().hex())
"""


def child(folder, before=""):
    script = CHILD.format(tests=str(ROOT / "tests"), root=str(ROOT), folder=str(folder), before=textwrap.dedent(before))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def scores_of(done):
    return np.frombuffer(bytes.fromhex(done.stdout.split()[-1]), np.float32).reshape(2, 256)


@pytest.mark.slow
def test_processes_that_start_at_once_all_answer(tmp_path):
    """However many pack the same weights at the same time, all answer right, and whole files are left."""
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(child, [tmp_path] * 4))
    assert [done.returncode for done in ended] == [0] * 4, ended[0].stderr[-2000:]
    for done in ended:
        np.testing.assert_allclose(scores_of(done), expected(images(2)), atol=1e-5)
    assert not list(tmp_path.glob(".*"))
    assert all(oct(path.stat().st_mode)[-3:] == "400" for path in packed(tmp_path))
    os.close(WeightCache(tmp_path, " ".join(installed())).open(MODEL))


@pytest.mark.slow
def test_full_disk_costs_no_answer(tmp_path):
    """LiteRT aborts if it can't write packed weights: a disk that is full gets none of them."""
    full = """
    import resource, signal
    from edge_runtime.engine.weights import WeightCache
    keep = WeightCache.keep
    def keep_on_a_full_disk(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        keep(*arguments)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    WeightCache.keep = keep_on_a_full_disk
    """
    done = child(tmp_path, full)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(scores_of(done), expected(images(2)), atol=1e-5)
    assert "its packed weights can't be kept" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_process_that_may_write_no_large_files_packs_none(tmp_path):
    """A limit on the size of files holds in memory too, where LiteRT would abort at it."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    done = child(tmp_path, limited)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(scores_of(done), expected(images(2)), atol=1e-5)
    assert not list(tmp_path.iterdir())
