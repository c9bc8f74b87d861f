import threading

import pytest
from support.clock import FakeClock
from support.fallback_stages import soon

from fallback_server.config_file import ConfigFile, list_models
from fallback_server.core.servable import ServableId
from fallback_server.core.source import SourceSnapshot
from fallback_server.flags import parse
from fallback_server.poller import PATIENCE_POLLS, ConfigWatcher, Poller
from fallback_server.settings import options_of


class FailingSource:
    """Fails at its first look, as a share may."""

    def __init__(self):
        self.polls = 0
        self.again = threading.Event()

    def poll(self):
        self.polls += 1
        if self.polls == 1:
            raise RuntimeError("the share")
        if self.polls > 3:
            self.again.set()
        return SourceSnapshot(aspired={}, unsettled=frozenset())


class Target:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def set_aspired(self, aspired):
        self.told.append(aspired)

    def wait_idle(self, *, timeout_s):
        del timeout_s
        return True

    def on_the_way(self):
        return frozenset()


def test_a_look_that_fails_ends_nothing(caplog):
    """It is logged, nothing is unloaded for it, and the next look is made."""
    source, target, ready = FailingSource(), Target(), threading.Event()
    poller = Poller(source=source, manager=target, wait_s=0.001, on_ready=ready.set)
    poller.start()
    assert ready.wait(10)
    assert source.again.wait(10)
    poller.stop(timeout_s=10)
    assert len(target.told) <= source.polls - 1
    assert "looking for versions failed" in caplog.text


class CountingSource:
    """Counts its looks; one version never settles."""

    def __init__(self, unsettled=()):
        self.polls = 0
        self.unsettled = frozenset(unsettled)

    def poll(self):
        self.polls += 1
        return SourceSnapshot(aspired={}, unsettled=self.unsettled)


def test_a_poller_that_looks_once_looks_again_when_it_is_woken():
    """With a wait of 0 the configuration's changes are looked at all the same."""
    source, ready = CountingSource(), threading.Event()
    poller = Poller(source=source, manager=Target(), wait_s=0, on_ready=ready.set)
    poller.start()
    assert ready.wait(30)
    assert source.polls == 1
    poller.wake()
    soon(lambda: source.polls == 2)
    poller.stop(timeout_s=30)
    assert source.polls == 2


def test_a_long_wait_between_looks_is_cut_short_by_a_wake_and_by_the_end():
    """Neither an operator nor a stop waits for the next look."""
    source, ready = CountingSource(), threading.Event()
    poller = Poller(source=source, manager=Target(), wait_s=3600, on_ready=ready.set)
    poller.start()
    assert ready.wait(30)
    poller.wake()
    soon(lambda: source.polls == 2)
    poller.stop(timeout_s=30)
    assert not poller._thread.is_alive()


def test_what_never_settles_holds_up_the_start_for_a_few_polls_alone():
    """A copy that has stalled is no reason to serve nothing."""
    source, ready = CountingSource({ServableId("m", 1)}), threading.Event()
    poller = Poller(source=source, manager=Target(), wait_s=0.001, on_ready=ready.set)
    poller.start()
    assert ready.wait(30)
    assert source.polls >= PATIENCE_POLLS
    poller.stop(timeout_s=30)


class Loading(Target):
    """Two loads; each look at them lets a minute pass."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.loading = {ServableId("m", 1), ServableId("n", 2)}
        self.looks = 0

    def wait_idle(self, *, timeout_s):
        del timeout_s
        self.looks += 1
        self.clock.advance(60)
        if self.looks == 5:
            self.loading.discard(ServableId("n", 2))
        return not self.loading

    def on_the_way(self):
        return frozenset(self.loading)


def test_a_load_that_hangs_keeps_the_start_waiting_for_so_long_alone(caplog):
    """From the last load that has ended; it is named; and the disk is looked at meanwhile, for it may be taken away."""
    clock = FakeClock()
    source, target, ready = CountingSource(), Loading(clock), threading.Event()
    poller = Poller(source=source, manager=target, wait_s=1, on_ready=ready.set, max_start_wait_s=300, clock=clock)
    poller.start()
    assert ready.wait(30)
    poller.stop(timeout_s=30)
    assert target.looks == 10
    assert source.polls >= 10
    assert "the server is ready, though no load has ended for 300 s: {name: m version: 1}" in caplog.text


@pytest.fixture(params=["models.config", "models.toml"])
def config_file(tmp_path, request):
    """A file of one kind, and what writes a model's name into it."""
    path = tmp_path / request.param
    text = {
        "models.config": 'model_config_list {{ config {{ name: "{}" base_path: "/m" }} }}',
        "models.toml": '[models.{}]\nbase_path = "/m"',
    }[request.param]

    def write(name):
        path.write_text(text.format(name))

    write("one")
    return path, write


def test_a_configuration_file_is_read_again_when_its_content_has_changed(config_file, caplog):
    """Also where its time and size are as before; a mistake is told once, tried again, and what was, stays."""
    caplog.set_level("INFO", "fallback_server.poller")
    path, write = config_file
    file, applied = ConfigFile(path, list_models(path).digest), []

    def reload():
        applied.extend(config.name for config in file.read())

    watcher = ConfigWatcher(file, reload=reload, wait_s=0.001)
    watcher.look()
    assert applied == [], "it holds what was read at the start"
    write("two")
    watcher.look()
    watcher.look()
    assert applied == ["two"]
    path.write_text("bad = {")
    for _ in range(3):
        watcher.look()
    path.unlink()
    watcher.look()
    told = [(record.levelname, record.getMessage().partition(": ")[0]) for record in caplog.records]
    refused = ("ERROR", f"{path} has changed and can't be applied; what was, stays")
    assert told == [("INFO", f"{path} has changed and was applied"), refused, refused]
    write("six")
    watcher.start()
    soon(lambda: applied[-1] == "six")
    watcher.stop(timeout_s=30)
    write("ten")
    reload()
    watcher.look()
    assert applied == ["two", "six", "ten"], "who asked for it has had it read"


def test_the_digest_is_of_what_was_read_at_the_start(config_file):
    """So that the first look undoes nothing that was set meanwhile, and misses nothing that was written meanwhile."""
    path, write = config_file
    flag = "config" if path.suffix == ".toml" else "model_config_file"
    source = options_of(parse([f"--{flag}={path}"])).source
    file = ConfigFile(source.config_file, source.config_digest)
    assert not file.has_changed()
    write("two")
    assert file.has_changed()
