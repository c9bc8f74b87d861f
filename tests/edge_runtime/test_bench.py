import io
import json
import math
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.climates import clock
from support.devices_roots import FakeRoot
from support.edge_models import publish_scale, scale_model, scale_signature
from support.edgetpu_models import edgetpu_model
from support.stateful_models import counting_model

from converter.artifact import Manifest, Package, Source, Variant, archive_path, decode_bench, publish
from converter.artifact.digest import file_entry
from devices import Machine
from edge_runtime import bench
from edge_runtime.bench_command import host_text
from edge_runtime.cli import main
from edge_runtime.environment import environment
from edge_runtime.profiles import ProfileBook

FAST = ["--seconds", "0.001", "--threads", "1", "--batch", "1"]


@pytest.fixture
def packages(tmp_path):
    root = tmp_path / "packages"
    publish_scale(root, 1, 2.0)
    publish_scale(root, 2, 3.0)
    return root


@pytest.fixture
def mixed(tmp_path):
    """A package of a variant that runs, one that is no model and one for an accelerator."""
    contents = {"float32": scale_model(2.0), "broken": b"no model", "int8-edgetpu": b"for the Edge TPU"}
    files = {f"{name}.tflite": tmp_path / f"{name}.tflite" for name in contents}
    for name, content in contents.items():
        files[f"{name}.tflite"].write_bytes(content)
    entries = {name: file_entry(path) for name, path in files.items()}
    manifest = Manifest(
        format_version=2,
        model="mixed",
        version=1,
        signatures=(scale_signature(),),
        variants=tuple(
            Variant(
                name=name,
                file=f"{name}.tflite",
                size_bytes=len(content),
                signatures=(scale_signature(),),
                delegate="edgetpu" if "edgetpu" in name else "cpu",
            )
            for name, content in contents.items()
        ),
        chosen={"default": "float32"},
        source=Source(format="saved_model", digest="sha256:none"),
        files=entries,
    )
    return publish(files, manifest, tmp_path / "packages").path


def times(text):
    found = decode_bench(text.encode())
    return found, {name: [one.threads for one in entries] for name, entries in found.variants.items()}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """What is cached goes nowhere else."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_json_is_the_bench_file(packages, capsys):
    """It names package, version, digest and this machine, and has one-sample times by number of threads, as ever."""
    arguments = ["--threads", "1,2", "--batch", "1,4", "--json", "--seconds", "0.001"]
    assert main(["bench", str(packages / "scale" / "1"), *arguments]) == 0
    found, threads = times(capsys.readouterr().out)
    assert (found.package, found.version, threads) == ("scale", 1, {"float32": [1, 2]})
    assert found.digest.startswith("sha256:")
    assert found.host
    assert all(one.runs >= bench.MIN_RUNS for one in found.variants["float32"])


def test_every_engine_is_held_against_the_bare_interpreter(packages, capsys):
    """By number of threads and rows: percentiles, throughput, and what the engine adds to a bare call."""
    arguments = ["--threads", "1,2", "--batch", "4,1", "--json", "--seconds", "0.01"]
    assert main(["bench", str(packages / "scale" / "1"), *arguments]) == 0
    found, _ = times(capsys.readouterr().out)
    assert [(one.device, one.variant, one.threads, one.rows) for one in found.engines] == [
        ("cpu", "float32", 1, 1),
        ("cpu", "float32", 1, 4),
        ("cpu", "float32", 2, 1),
        ("cpu", "float32", 2, 4),
    ]
    for one in found.engines:
        assert one.median_us <= one.p90_us <= one.p99_us
        assert one.ratio == pytest.approx(one.median_us / one.bare_median_us, rel=0.01)
        assert one.added_us == pytest.approx(one.median_us - one.bare_median_us, abs=0.01 * one.median_us)
        assert one.rows_per_s > 0


def test_by_default_one_two_and_four_threads_and_batches_are_tried(packages, capsys):
    """As far as there are cores, and rows can be joined."""
    assert main(["bench", "scale", "--store", str(packages), "--json", "--seconds", "0.001"]) == 0
    found, threads = times(capsys.readouterr().out)
    cores = len(os.sched_getaffinity(0))
    assert threads["float32"] == sorted({1, min(2, cores), min(4, cores)})
    assert {one.rows for one in found.engines} == {1, 2, 4, 8}


def test_a_bare_file_is_benched(tmp_path, capsys):
    """Also one of fixed size, whose rows can't be joined; its profile lies beside it."""
    path = tmp_path / "my-model.tflite"
    path.write_bytes(scale_model(2.0, batched=False))
    assert main(["bench", str(path), "--threads", "1", "--seconds", "0.001", "--json", "--save"]) == 0
    out, err = capsys.readouterr()
    found, threads = times(out)
    assert (found.package, threads) == ("my-model", {"my-model": [1]})
    assert [one.rows for one in found.engines] == [1]
    assert str(tmp_path / "my-model.tflite.profile.json") in err


def test_what_is_saved_is_what_the_runtime_looks_for(packages, capsys):
    """Beside the package, by engine, with every number of rows; the package and its version stay as they were."""
    arguments = ["--threads", "1,2", "--batch", "1,4", "--seconds", "0.001", "--save"]
    assert main(["bench", "scale/1", "--store", str(packages), *arguments]) == 0
    assert f"saved for the runtime: {packages / 'scale' / '1.profile.json'}" in capsys.readouterr().out
    assert main(["list", str(packages)]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("scale/1", "scale/2"))
    file = json.loads((packages / "scale" / "1.profile.json").read_text())
    keys = [entry["key"] for entry in file["entries"]]
    assert [(key["device"], key["threads"], key["isolation"]) for key in keys] == [
        ("cpu", 1, "none"),
        ("cpu", 2, "none"),
    ]
    assert keys[0]["environment"]["cores"] == environment().cores
    assert [sorted(entry["profile"]["seconds"]) for entry in file["entries"]] == [["1", "4"]] * 2


def test_an_archives_profile_goes_into_the_cache(packages, tmp_path, capsys):
    """The folder that it was unpacked into is gone; an installed copy finds it by its digest."""
    archive = archive_path(packages, "scale", 1)
    assert main(["bench", str(archive), *FAST, "--save", "--json"]) == 0
    found, _ = times(capsys.readouterr().out)
    (place,) = (tmp_path / "cache" / "edge-runtime" / "profiles").iterdir()
    assert place.stem == found.digest.removeprefix("sha256:")
    assert place in ProfileBook(packages / "scale" / "1", found.digest, tmp_path / "cache" / "edge-runtime").places


def test_what_cannot_be_saved_is_told_after_the_table(packages, monkeypatch, capsys):
    """The measurement is not lost for it."""
    (packages / "scale" / "1.profile.json" / "in the way").mkdir(parents=True)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/dev/null")
    assert main(["bench", "scale/1", "--store", str(packages), *FAST, "--save"]) == 0
    out = capsys.readouterr().out
    assert "not saved: " in out
    assert "1.profile.json" in out


def test_a_package_is_a_folder_an_archive_or_installed(packages, capsys):
    """A store's package is its latest version unless one is named."""
    for arguments, version in (
        ([str(archive_path(packages, "scale", 1))], 1),
        (["scale", "--store", str(packages)], 2),
        (["scale/1", "--store", str(packages)], 1),
    ):
        assert main(["bench", *arguments, "--json", *FAST]) == 0
        assert times(capsys.readouterr().out)[0].version == version


@pytest.mark.slow
def test_stderr_has_no_notes_of_litert(mixed):
    """Unless they are asked for; what else was written there comes through."""

    def stderr(*flags):
        program = (
            "import os, sys; from edge_runtime.cli import main; from edge_runtime import bench; time = bench.bench\n"
        )
        program += "def told(*given, **named): os.write(2, b'told\\n'); return time(*given, **named)\n"
        program += "bench.bench = told; sys.exit(main())"
        command = [sys.executable, "-c", program, *flags, "bench", str(mixed), "--variant", "float32", *FAST]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert stderr() == "told\n"
    assert "INFO: Created TensorFlow Lite XNNPACK delegate" in stderr("--debug")


def test_one_variant_that_fails_stops_no_other(mixed, capsys):
    """It is told with its reason; what needs an accelerator is left out."""
    assert main(["bench", str(mixed), "--json", *FAST]) == 0
    found, threads = times(capsys.readouterr().out)
    assert threads == {"float32": [1]}
    assert list(found.failed) == ["broken"]
    assert [(one.device, one.variant) for one in found.refused] == [("cpu", "broken")]
    assert main(["bench", str(mixed), *FAST]) == 0
    out = capsys.readouterr().out
    assert "broken on cpu: not timed: " in out
    assert "edgetpu" not in out


@pytest.mark.slow
def test_a_device_that_is_not_there_stops_no_other(mixed, capsys):
    """Nor one that the package has nothing for; each is told with its reason."""
    arguments = ["--delegate", "external:/none.so", "--delegate", "cpu", "--variant", "float32"]
    assert main(["bench", str(mixed), "--json", *arguments, *FAST]) == 0
    found, threads = times(capsys.readouterr().out)
    assert threads == {"float32": [1]}
    (refused,) = found.refused
    assert (refused.device, refused.variant) == ("external:/none.so", "float32")
    assert "none.so" in refused.reason
    assert found.failed == {}


def test_the_table_has_a_line_for_each_time(packages, capsys):
    """In the unit that fits, under headings."""
    assert main(["bench", str(packages / "scale" / "1"), "--threads", "1,2", "--batch", "1", "--seconds", "0.001"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scale version 1 on ")
    headings = "engine variant threads batch median p90 p99 rows/s bare ratio added"
    assert lines[2].split() == headings.split()
    assert [line.split()[:4] for line in lines[3:5]] == [["cpu", "float32", "1", "1"], ["cpu", "float32", "2", "1"]]
    assert lines[3].split()[5] == "µs"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{packages}/none"], 2, "give --store"),
        (["scale/3", "--store", "{packages}"], 2, "not installed; there are [1, 2]"),
        (["other", "--store", "{packages}"], 2, "there are ['mixed', 'scale']"),
        (["../scale", "--store", "{packages}"], 2, "'..'"),
        (["{package}", "--threads", "1,x"], 2, "'1,x'"),
        (["{package}", "--threads", "0"], 2, "from 1 to 256, got 0"),
        (["{package}", "--threads", "2,2"], 2, "different numbers"),
        (["{package}", "--batch", "1,0"], 2, "batch: must be from 1 to 1024, got 0"),
        (["{package}", "--batch", "two"], 2, "batch: numbers joined by commas"),
        (["{package}", "--seconds", "nan"], 2, "seconds: must be above 0"),
        (["{package}", "--delegate", "tpu"], 2, "delegate 'tpu': known are cpu"),
        (["{package}", "--variant", "int4"], 2, "there are float32, broken, int8-edgetpu"),
        (["{package}", "--variant", "int8-edgetpu"], 1, "needs the delegate 'edgetpu'"),
        (["{package}", "--variant", "broken"], 1, "no variant can be timed here: broken on cpu: "),
        (["{bare}"], 2, "no TFLite file"),
        (["{packages}/scale"], 2, "holds versions 1, 2 of one model: give the folder of packages"),
    ],
)
def test_what_cannot_be_timed_is_one_line_with_an_exit_code(packages, mixed, capsys, arguments, code, said):
    """As every other command's failure."""
    bare = packages / "bare.tflite"
    bare.write_bytes(b"no model at all")
    assert main(["bench", *(one.format(packages=packages, package=mixed, bare=bare) for one in arguments)]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def clock_of(steps):
    """A clock whose readings are these seconds apart; the last step for ever."""
    now_s, left = 0.0, list(steps)

    def clock():
        nonlocal now_s
        now_s += left.pop(0) if len(left) > 1 else left[0]
        return now_s

    return clock


def test_a_slow_model_is_still_called_often_enough():
    """Past its time a bench makes `MIN_RUNS` calls and no more, after one to warm up."""
    calls = io.StringIO()
    taken, bare = bench.time_pairs(lambda: calls.write("x"), lambda: calls.write("b"), 1.0, clock_of([10.0]))
    assert len(taken) == len(bare) == bench.MIN_RUNS
    assert calls.getvalue() == "xb" * (bench.MIN_RUNS + 1)


def test_a_fast_model_is_not_called_for_ever():
    """A clock that hardly moves ends at `MAX_RUNS`; without a bare interpreter there are no times of it."""
    taken, bare = bench.time_pairs(lambda: None, None, 1.0, clock_of([1e-9]))
    assert (len(taken), bare) == (bench.MAX_RUNS, [])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=120), st.lists(st.floats(0, 100), max_size=5))
def test_the_statistics_are_the_calls(taken_s, bare_s):
    """So many of the calls are within the percentiles; without bare calls nothing is said of them."""
    found = bench.engine_time("cpu", "int8", 1, 4, taken_s=taken_s, bare_s=bare_s)
    assert found.runs == len(taken_s)
    for share, value_us in ((0.5, found.median_us), (0.9, found.p90_us), (0.99, found.p99_us)):
        assert sum(one * 1e6 <= value_us * 1.001 + 0.01 for one in taken_s) >= math.floor(share * len(taken_s))
    assert (found.ratio is None) == (not bare_s)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=120).map(sorted), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values(ordered, share):
    """The smallest that at least this share of them keeps to."""
    found = bench.percentile(ordered, share)
    assert sum(one <= found for one in ordered) >= share * len(ordered)
    assert sum(one < found for one in ordered) <= share * len(ordered)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": "Raspberry Pi 5", "cores": 4}, "Raspberry Pi 5, aarch64, 4 cores"),
        ({"cpu_model": "Xeon"}, "Xeon, aarch64"),
        ({}, "aarch64"),
    ],
)
def test_the_host_is_told_in_a_few_words(changes, text):
    """The board where it says what it is, else its processor."""
    described = dict.fromkeys(Machine.__struct_fields__) | {"architecture": "aarch64"} | changes
    assert host_text(Machine(**described)) == text


def test_json_goes_through_the_usual_tools(packages, capsys):
    """It is one JSON object on stdout, and nothing else is."""
    assert main(["bench", "scale/1", "--store", str(packages), "--json", *FAST]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == 1


def test_what_is_saved_has_always_one_row(packages, capsys):
    """The runtime compares the rest with it: it is timed also where it was not asked for."""
    arguments = ["--threads", "1", "--batch", "2", "--seconds", "0.001"]
    assert main(["bench", "scale/1", "--store", str(packages), *arguments, "--save", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [one.rows for one in times(out)[0].engines] == [1, 2]
    assert "saved for the runtime: " in err
    (entry,) = json.loads((packages / "scale" / "1.profile.json").read_text())["entries"]
    assert sorted(entry["profile"]["seconds"]) == ["1", "2"]
    assert main(["bench", "scale/1", "--store", str(packages), *arguments, "--json"]) == 0
    assert [one.rows for one in times(capsys.readouterr().out)[0].engines] == [2]


def test_a_model_that_keeps_state_is_timed_as_a_stream_too(tmp_path, capsys):
    """A line says why the engine's own time is so long; what the runtime uses is the engine's."""
    path = tmp_path / "count.tflite"
    path.write_bytes(counting_model())
    assert main(["bench", str(path), *FAST, "--save"]) == 0
    out = capsys.readouterr().out
    assert "count keeps state: each run of an engine begins anew, with a fresh interpreter" in out
    assert main(["bench", str(path), *FAST, "--json"]) == 0
    found, threads = times(capsys.readouterr().out)
    assert [(one.device, one.variant, one.rows) for one in found.engines] == [
        ("cpu", "count", 1),
        ("cpu stream", "count", 1),
    ]
    assert threads == {"count": [1]}
    anew, streamed = found.engines
    assert found.variants["count"][0].median_us == anew.median_us
    assert streamed.bare_median_us
    entries = json.loads((tmp_path / "count.tflite.profile.json").read_text())["entries"]
    assert [one["key"]["device"] for one in entries] == ["cpu"]


def test_a_file_for_an_edge_tpu_says_what_it_needs(tmp_path, capsys):
    """Where no Edge TPU is among the devices."""
    path = tmp_path / "scale_edgetpu.tflite"
    path.write_bytes(edgetpu_model(2.0))
    assert main(["bench", str(path), "--delegate", "cpu", *FAST]) == 1
    err = capsys.readouterr().err
    assert "no variant can be timed here: cpu: scale_edgetpu is compiled for an Edge TPU, and runs on nothing el" in err
    assert "Ask for it (--delegate edgetpu" in err


def test_what_is_saved_is_at_full_clock(packages, tmp_path):
    """A board that was hot when it was timed is not slow for good; its times are shown as they were, with a note."""
    board = FakeRoot(tmp_path / "board")
    clock(board, allowed=90, maximal=1800)
    package = Package.open(packages / "scale" / "1")
    found = bench.bench(package, host="here", clock=time.perf_counter, batches=(1, 4), seconds=0.01, root=board.path)
    (profile,) = found.profiles.values()
    medians_s = {one.rows: one.median_us / 1e6 for one in found.bench.engines}
    assert sorted(profile.seconds) == [1, 4]
    assert all(profile.seconds[rows] <= medians_s[rows] / 19 for rows in (1, 4))
    assert [note for note in found.notes if note.startswith("cpu was throttled: runs took up to 20.0 times as long")]
    clock(board)
    found = bench.bench(package, host="here", clock=time.perf_counter, seconds=0.01, root=board.path)
    assert not found.notes
