import threading
from pathlib import Path

import psutil
import pytest
from support import delegate_libraries, edge_delegates
from support.clock import FakeClock
from support.edge_delegates import COMPILER
from support.forks import forked
from support.loops import until

from devices import device_string
from edge_runtime.probing import BAD_KEPT_S, MAX_KEPT, Kept, Prober, find_library, is_kept, still_holds
from edge_runtime.trial import Trial

built = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="no C compiler to build a delegate's library with"),
]


class Lab:
    """A library that records each time that it is loaded, a folder for outcomes and a clock."""

    def __init__(self, folder):
        self.library = edge_delegates.build(folder)
        self.record = folder / "record"
        self.cache = folder / "cache"
        self.clock = FakeClock()

    def device(self, **options):
        return device_string(edge_delegates.device(self.library, record_file=self.record, **options))

    def prober(self, cache=None):
        return Prober(cache or self.cache, wall_clock=self.clock)

    @property
    def loads(self):
        return len(self.record.read_text().splitlines()) if self.record.exists() else 0


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


class TestKept:
    pytestmark = built

    def test_a_good_outcome_is_kept_over_a_restart(self, lab):
        """The library is loaded in a child once, whoever asks and however late."""
        prober = lab.prober()
        first = prober.probe(lab.device())
        lab.clock.advance(10 * BAD_KEPT_S)
        assert first.ok
        assert first.ran_model
        assert prober.probe(lab.device()) == first
        assert lab.prober().probe(lab.device()) == first
        assert lab.loads == 1

    def test_another_build_is_another_library(self, lab):
        """One byte more, at the same path, and it is probed again; so are other options."""
        prober = lab.prober()
        prober.probe(lab.device())
        with lab.library.open("ab") as file:
            file.write(b"\0")
        prober.probe(lab.device())
        assert lab.loads == 2
        prober.probe(lab.device(delay_ms=1))
        assert lab.loads == 3

    def test_a_crash_is_kept_for_a_while(self, lab):
        """It is not provoked again at each start, and gets another chance later."""
        crashed = lab.prober().probe(lab.device(abort_at=1))
        assert crashed.failure == "crashed"
        assert lab.prober().probe(lab.device(abort_at=1)) == crashed
        assert lab.loads == 1
        lab.clock.advance(BAD_KEPT_S)
        lab.prober().probe(lab.device(abort_at=1))
        assert lab.loads == 2

    def test_a_missing_device_is_not_kept(self, lab):
        """Once it is plugged in it is found, by the same prober."""
        prober, plugged_in = lab.prober(), lab.cache.with_name("device")
        assert prober.probe(lab.device(vanish_file=plugged_in)).failure == "refused"
        plugged_in.touch()
        assert prober.probe(lab.device(vanish_file=plugged_in)).ok

    @pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"key": []}', b'{"a":' * 5000])
    def test_a_damaged_record_is_replaced(self, lab, damage):
        """It is as if there were none."""
        lab.prober().probe(lab.device())
        (record,) = (lab.cache / "probes").iterdir()
        good = record.read_bytes()
        record.write_bytes(damage)
        assert lab.prober().probe(lab.device()).ok
        assert lab.loads == 2
        assert record.read_bytes() == good

    def test_a_folder_that_cant_be_written_is_told_once(self, lab, caplog):
        """Outcomes stay in memory then."""
        lab.cache.write_text("a file is no folder")
        prober = lab.prober()
        for _ in range(2):
            prober.probe(lab.device())
            prober.probe(lab.device(delay_ms=1))
        assert lab.loads == 2
        assert sum("can't be kept in" in record.message for record in caplog.records) == 1

    def test_the_number_of_records_is_bounded(self, lab):
        """The oldest go."""
        folder = lab.cache / "probes"
        folder.mkdir(parents=True)
        for number in range(MAX_KEPT + 5):
            (folder / f"{number}.json").write_text("{}")
        lab.prober().probe(lab.device())
        assert len(list(folder.iterdir())) == MAX_KEPT
        assert lab.prober().probe(lab.device()).ok
        assert lab.loads == 1

    def test_threads_that_ask_at_once_wait_for_one_trial(self, lab):
        """All get its outcome, one that is not kept as well."""
        prober, found, start = lab.prober(), [], threading.Barrier(4)
        device = lab.device(fail_at=1, delay_ms=200)

        def ask():
            start.wait()
            found.append(prober.probe(device))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert lab.loads == 1
        assert [one.failure for one in found] == ["refused"] * 4

    def test_a_library_by_name_is_probed_by_its_path(self, tmp_path, monkeypatch):
        """What was probed can be loaded from the same place."""
        library = edge_delegates.build_edgetpu(tmp_path)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
        trial = Prober(None).probe(device_string("edgetpu:usb:0"))
        assert (trial.ok, trial.library) == (True, str(library))


class TestClosing:
    pytestmark = built

    def test_who_waits_is_told(self, tmp_path):
        """Threads that wait for a library that hangs, its trial's own among them, are told, and no child is left."""
        prober, told = Prober(tmp_path / "cache"), []
        device = device_string(f"external:{delegate_libraries.build(tmp_path, 'HANG')}")
        threads = [threading.Thread(target=lambda: told.append(prober.probe(device))) for _ in range(3)]
        here, before = psutil.Process(), psutil.Process().children()
        for thread in threads:
            thread.start()
        until(lambda: set(here.children()) - set(before))
        (child,) = set(here.children()) - set(before)
        forked(prober.close)
        assert child.status() != psutil.STATUS_ZOMBIE
        prober.close()
        for thread in threads:
            thread.join()
        assert [(one.failure, one.error) for one in told] == [("refused", "the runtime was closed")] * 3
        assert not psutil.pid_exists(child.pid)
        assert not (tmp_path / "cache").exists()

    def test_nothing_is_probed_any_more(self, lab):
        """Not even what is known is told after it was closed, twice; the CPU needs no telling."""
        prober = lab.prober()
        prober.probe(lab.device())
        prober.close()
        prober.close()
        assert (prober.probe(lab.device()).ok, prober.probe(lab.device(delay_ms=1)).ok) == (False, False)
        assert prober.probe(device_string("cpu")).ok
        assert lab.loads == 1

    def test_a_forked_process_is_refused(self, lab):
        """A trial that the parent waits for is never told there."""
        prober = lab.prober()
        said = forked(lambda: prober.probe(lab.device()).error)
        assert "open a Runtime in each process" in said
        assert lab.loads == 0
        assert prober.probe(lab.device()).ok


def test_the_cpu_is_not_probed(tmp_path):
    """It comes with the interpreter, which is loaded in any case."""
    prober = Prober(tmp_path)
    assert prober.probe(device_string("cpu")).ok
    assert prober.digest("") == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ok", "failure", "kept"),
    [(True, "", True), (False, "crashed", True), (False, "stuck", True), (False, "refused", False)],
)
def test_what_is_kept(ok, failure, kept):
    """What the library did, not what was missing."""
    assert is_kept(Trial(name="edgetpu", ok=ok, failure=failure)) == kept


@pytest.mark.parametrize(
    ("ok", "age_s", "holds"),
    [
        (True, 1e9, True),
        (True, -1e9, True),
        (False, 0, True),
        (False, BAD_KEPT_S - 1, True),
        (False, BAD_KEPT_S, False),
        (False, -1, False),
    ],
)
def test_how_long_it_is_believed(ok, age_s, holds):
    """A good one always, a bad one for a while and never from the future."""
    kept = Kept(key=[], time_s=0.0, ok=ok, ran_model=False, detail="", error="", failure="" if ok else "crashed")
    assert still_holds(kept, age_s) == holds


def test_a_library_is_found_as_the_loader_finds_it(tmp_path, monkeypatch):
    """LD_LIBRARY_PATH before the system's folders, and no file that this processor can't run."""
    libc = find_library("libc.so.6")
    assert libc is not None
    other = tmp_path / "other"
    mine = tmp_path / "mine"
    for folder in (other, mine):
        folder.mkdir()
        (folder / "libc.so.6").write_bytes(Path(libc).read_bytes()[:64])
    header = bytearray((other / "libc.so.6").read_bytes())
    header[18] ^= 0xFF
    (other / "libc.so.6").write_bytes(header)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:{other}:{mine}")
    assert find_library("libc.so.6") == str(mine / "libc.so.6")
    assert find_library("libnobody-has-this.so.1") is None


def test_a_digest_is_that_of_the_file(tmp_path):
    """Read again when the file changes; empty where there is none."""
    prober, library = Prober(None), tmp_path / "lib.so"
    assert prober.digest(str(library)) == ""
    library.write_bytes(b"")
    assert prober.digest(str(library)) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    library.write_bytes(b"abc")
    assert prober.digest(str(library)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
