import logging
import multiprocessing
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import FakeClock
from support.devices_roots import FakeRoot
from support.edge_models import publish_scale

from converter.artifact import installed
from edge_runtime import profiles
from edge_runtime.profiles import (
    EngineKey,
    EngineProfile,
    Environment,
    ProfileBook,
    choose_threads,
    environment,
    measure_profile,
)
from edge_runtime.store.store import Store

HOST = Environment(cpu="a board", architecture="aarch64", cores=4, governor="ondemand")
KEY = EngineKey(
    device="cpu",
    variant="int8",
    variant_sha256="0" * 64,
    threads=1,
    isolation="none",
    interpreter="ai_edge_litert",
    interpreter_version="2.3.0",
    environment=HOST,
)
FOUND = EngineProfile(seconds={1: 0.004, 4: 0.012}, runs=20)
OTHER = EngineProfile(seconds={1: 0.002}, runs=3)
DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def version(tmp_path):
    path = tmp_path / "store" / "digits" / "3"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def unwritable(version):
    """A store that refuses to be written, also by root: its profile's name is taken by a folder that is not empty."""
    (version.parent / "3.profile.json" / "in the way").mkdir(parents=True)
    return version


def test_a_profile_comes_back_from_beside_the_package(version):
    """Another process finds it, under the same key only."""
    assert ProfileBook(version, DIGEST, None).read(KEY) is None
    place = ProfileBook(version, DIGEST, None).write(KEY, FOUND)
    assert place == version.parent / "3.profile.json"
    assert ProfileBook(version, DIGEST, None).read(KEY) == FOUND
    assert sorted(one.name for one in version.parent.iterdir()) == ["3", "3.profile.json"]


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "gpu"},
        {"variant": "float32"},
        {"variant_sha256": "f" * 64},
        {"threads": 2},
        {"isolation": "process"},
        {"interpreter": "tflite_runtime"},
        {"interpreter_version": "2.4.0"},
        {"library_digest": "abc"},
        {"environment": msgspec.structs.replace(HOST, governor="performance")},
        {"environment": msgspec.structs.replace(HOST, cores=2)},
    ],
)
def test_another_engine_library_or_governor_is_another_key(version, changes):
    """What was measured under other conditions is not found, and not lost."""
    book = ProfileBook(version, DIGEST, None)
    other = msgspec.structs.replace(KEY, **changes)
    book.write(KEY, FOUND)
    assert book.read(other) is None
    book.write(other, OTHER)
    assert (book.read(KEY), book.read(other)) == (FOUND, OTHER)


def test_a_profile_of_another_build_is_not_believed(version):
    """A version can be replaced on purpose; its profile then gives way as a whole."""
    ProfileBook(version, DIGEST, None).write(KEY, FOUND)
    replaced = ProfileBook(version, "sha256:" + "2" * 64, None)
    assert replaced.read(KEY) is None
    replaced.write(msgspec.structs.replace(KEY, threads=2), OTHER)
    assert ProfileBook(version, DIGEST, None).read(KEY) is None


@given(st.binary(max_size=100))
def test_damaged_profiles_are_measured_again(tmp_path_factory, data):
    """Whatever lies there: nothing is read from it, and it is replaced."""
    version = tmp_path_factory.mktemp("store") / "3"
    (version.parent / "3.profile.json").write_bytes(data)
    book = ProfileBook(version, DIGEST, None)
    assert book.read(KEY) is None
    book.write(KEY, FOUND)
    assert ProfileBook(version, DIGEST, None).read(KEY) == FOUND


@pytest.mark.parametrize(
    "change", [('"seconds": {', '"seconds": {"0": 1.0, '), ("0.004", "-0.004"), ("0.004", "1e999")]
)
def test_impossible_times_are_damage(version, change):
    """A sum in which they took part would be nonsense."""
    place = ProfileBook(version, DIGEST, None).write(KEY, FOUND)
    text = place.read_text()
    assert change[0] in text
    place.write_text(text.replace(*change))
    assert ProfileBook(version, DIGEST, None).read(KEY) is None


def test_a_store_that_cannot_be_written_leaves_it_to_the_cache(unwritable, tmp_path):
    """Under the package's digest, so that every copy of the package finds it."""
    cache = tmp_path / "cache"
    place = ProfileBook(unwritable, DIGEST, cache).write(KEY, FOUND)
    assert place == cache / "profiles" / f"{'1' * 64}.json"
    assert ProfileBook(None, DIGEST, cache).read(KEY) == FOUND


def test_of_two_places_the_later_measurement_counts(version, tmp_path):
    """An administrator's beside the package wins over an older one in the user's cache, even if the clock went back."""
    cache = tmp_path / "cache"
    ProfileBook(None, DIGEST, cache, now=lambda: 1000.0).write(KEY, FOUND)
    ProfileBook(version, DIGEST, cache, now=lambda: 0.0).write(KEY, OTHER)
    assert ProfileBook(version, DIGEST, cache).read(KEY) == OTHER


def test_without_a_folder_it_is_kept_in_memory_and_said_once(unwritable, caplog):
    """The runtime goes on; the next start measures again."""
    caplog.set_level(logging.INFO, "edge_runtime.profiles")
    book = ProfileBook(unwritable, DIGEST, None)
    assert book.write(KEY, FOUND) is None
    assert book.write(msgspec.structs.replace(KEY, threads=2), OTHER) is None
    assert book.read(KEY) == FOUND
    assert [one.levelname for one in caplog.records if "in memory only" in one.message] == ["INFO"]
    assert ProfileBook(unwritable, DIGEST, None).read(KEY) is None


def test_what_killed_writers_leave_is_no_obstacle(version):
    """A half-written file is not read, and gives way."""
    (version.parent / ".3.profile.json.new").write_bytes(b"{")
    ProfileBook(version, DIGEST, None).write(KEY, FOUND)
    assert sorted(one.name for one in version.parent.iterdir()) == ["3", "3.profile.json"]


def test_the_entries_are_bounded_the_oldest_gives_way(version):
    """A device whose governor changes all day fills no disk."""
    book = ProfileBook(version, DIGEST, None, now=FakeClock())
    keys = [msgspec.structs.replace(KEY, interpreter_version=str(number)) for number in range(profiles.MAX_ENTRIES + 2)]
    for key in keys:
        book.write(key, FOUND)
    assert [key for key in keys if book.read(key) is None] == keys[:2]


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    """Versions come and go for years."""
    monkeypatch.setattr(profiles, "MAX_CACHED", 3)
    for number in range(5):
        place = ProfileBook(None, f"sha256:{number}", tmp_path).write(KEY, FOUND)
        os.utime(place, (number, number))
    assert sorted(one.name for one in (tmp_path / "profiles").iterdir()) == ["2.json", "3.json", "4.json"]


def _write_many(version, first):
    for number in range(first, first + 8):
        ProfileBook(version, DIGEST, None).write(msgspec.structs.replace(KEY, threads=number), FOUND)


@pytest.mark.slow
def test_processes_that_write_at_once_lose_nothing(version):
    """Each adds to what the others wrote."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(version, first)) for first in (1, 101)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    book = ProfileBook(version, DIGEST, None)
    assert all(book.read_threads(KEY, [*range(1, 9), *range(101, 109)]).values())
    assert len(book.read_threads(KEY, range(1, 200))) == 16


def test_a_store_does_not_count_profiles_as_versions(tmp_path):
    """Neither the store nor the package looks at them."""
    package = publish_scale(tmp_path, 1, 2.0)
    ProfileBook(package.path, package.digest, None).write(KEY, FOUND)
    assert installed(tmp_path) == Store(tmp_path).installed() == {"scale": [1]}
    assert Store(tmp_path).open("scale", 1).digest == package.digest


def test_a_package_in_the_current_folder_has_its_profile_beside_it(version, monkeypatch):
    """`edge-run bench .` names no folder."""
    monkeypatch.chdir(version)
    assert ProfileBook(version.relative_to(version), DIGEST, None).places == (version.parent / "3.profile.json",)


def test_the_environment_is_the_boards(tmp_path):
    """Its model, its cores and every clock governor; nothing where nothing is told."""
    root = FakeRoot(tmp_path)
    root.machine("aarch64", model="Raspberry Pi 5 Model B Rev 1.0")
    for core, governor in enumerate(("schedutil", "ondemand", "ondemand")):
        root.write(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", f"{governor}\n")
    found = environment(tmp_path)
    assert found == Environment(
        cpu="Raspberry Pi 5 Model B Rev 1.0", architecture="aarch64", cores=4, governor="ondemand,schedutil"
    )
    assert environment(tmp_path / "none") == Environment(cpu="", architecture="", cores=0, governor="")


def test_this_machines_environment_is_the_cores_that_may_be_used():
    """A process that is held to some cores is measured on these."""
    found = environment()
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.architecture
    assert found == environment()


def test_measuring_gives_a_profile():
    """The best of several runs, for every size within the budget."""
    clock = FakeClock()
    found = measure_profile(lambda rows: clock.advance(0.001 * rows), [1, 2, 4], clock, 10.0)
    assert found.seconds == pytest.approx({1: 0.001, 2: 0.002, 4: 0.004})
    assert found.runs >= len(found.seconds)


@pytest.mark.parametrize(
    ("medians", "threads"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 0.6, 4: 0.55}, 2),
        ({1: 1.0, 2: 0.6, 4: 0.4}, 4),
        ({1: 1.0, 2: 0.95, 4: 0.92}, 1),
        ({4: 0.5, 1: 1.0, 2: 1.2}, 4),
    ],
)
def test_the_fewest_threads_within_a_tenth_of_the_fastest_are_chosen(medians, threads):
    """Cores that gain next to nothing are left to others."""
    assert choose_threads(medians) == threads


@given(st.dictionaries(st.integers(1, 64), st.floats(1e-6, 10), min_size=1))
def test_the_choice_is_never_much_slower_than_the_best(medians):
    """Whatever was measured."""
    chosen = choose_threads(medians)
    assert medians[chosen] <= 1.1 * min(medians.values()) * (1 + 1e-9)
    assert all(medians[one] > 1.1 * min(medians.values()) for one in medians if one < chosen)
