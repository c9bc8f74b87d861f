import json

import pytest
from support import edge_delegates
from support.edge_models import publish_scale
from support.edgetpu_models import publish_edgetpu

from converter.artifact import decode_bench
from devices import device_string
from edge_runtime.bench_engines import candidates, default_devices, single_devices
from edge_runtime.cli import main
from edge_runtime.errors import InvalidConfig

FAST = ["--seconds", "0.001", "--threads", "1", "--batch", "1,2", "--json"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """What is cached goes nowhere else."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def coral(tmp_path):
    return publish_edgetpu(tmp_path / "packages", 1, 2.0)


def named(found):
    return [(one.device, one.variant.name, one.threads) for one in found]


def test_the_cpu_has_every_variant_for_it_and_every_number_of_threads(coral):
    """What is compiled for an accelerator is left out, unless it is asked for: then that is told."""
    cpu = single_devices(["cpu"])
    plain = [one.name for one in coral.manifest.variants if one.delegate == "cpu"]
    found, refused = candidates(coral, cpu, [], [1, 2])
    assert named(found) == [("cpu", name, threads) for name in plain for threads in (1, 2)]
    assert refused == []
    (compiled,) = (one.name for one in coral.manifest.variants if one.delegate == "edgetpu")
    found, refused = candidates(coral, cpu, [compiled], [1])
    assert found == []
    assert "needs the delegate 'edgetpu'" in refused[0].reason


def test_an_accelerator_has_what_the_runtime_would_run_there(coral):
    """One variant, one thread; a device that the package has nothing for is told."""
    devices = [device_string(text) for text in ("edgetpu:usb:0", "gpu")]
    (compiled,) = (one.name for one in coral.manifest.variants if one.delegate == "edgetpu")
    found, refused = candidates(coral, devices, [], [1, 2])
    assert named(found)[0] == ("edgetpu:usb:0", compiled, 1)
    assert [one.device for one in found] == ["edgetpu:usb:0", "gpu"]
    assert refused == []


def test_a_package_without_a_variant_for_a_device_says_so(tmp_path):
    """With what could be done about it."""
    found, refused = candidates(publish_scale(tmp_path, 1, 2.0), single_devices(["edgetpu:usb:0"]), [], [1])
    assert found == []
    assert (refused[0].device, refused[0].variant) == ("edgetpu:usb:0", "")
    assert "no variant for an Edge TPU" in refused[0].reason


def test_a_cut_variant_takes_as_many_devices_as_it_has_segments(tmp_path):
    """Together they are one engine."""
    package = publish_edgetpu(tmp_path, 1, 2.0, segments=2, with_cpu_variant=False)
    devices = [device_string(f"edgetpu:usb:{number}") for number in range(2)]
    found, _ = candidates(package, devices, [], [1])
    assert [one.device for one in found] == ["edgetpu:usb:0+edgetpu:usb:1"]
    assert not found[0].on_cpu


def test_devices_are_single_and_each_once():
    """A device string that is none is refused with the grammar."""
    assert [one.text for one in single_devices(["cpu", "gpu", "cpu"])] == ["cpu", "gpu"]
    with pytest.raises(InvalidConfig, match="known are cpu"):
        single_devices(["tpu"])
    assert default_devices()[0] == "cpu"


@pytest.mark.slow
@pytest.mark.skipif(edge_delegates.COMPILER is None, reason="no C compiler")
def test_a_delegates_library_is_timed_in_a_process_of_its_own(tmp_path, capsys):
    """Beside the CPU, with every batch; its profile is kept under the library's digest."""
    publish_scale(tmp_path, 1, 2.0)
    library = edge_delegates.build(tmp_path)
    device = edge_delegates.device(library, delay_ms=1)
    arguments = ["bench", "scale", "--store", str(tmp_path), "--delegate", "cpu", "--delegate", device]
    assert main([*arguments, *FAST, "--save"]) == 0
    found = decode_bench(capsys.readouterr().out.encode())
    timed = [(one.device, one.rows, one.ratio is None) for one in found.engines]
    assert timed == [("cpu", 1, False), ("cpu", 2, False), (device, 1, True), (device, 2, True)]
    assert min(one.median_us for one in found.engines if one.device == device) >= 1000
    assert [one.threads for one in found.variants["float32"]] == [1]
    entries = json.loads((tmp_path / "scale" / "1.profile.json").read_text())["entries"]
    keys = {entry["key"]["device"]: entry["key"] for entry in entries}
    assert keys[device]["isolation"] == "process"
    assert keys[device]["library_digest"]
    assert keys["cpu"]["library_digest"] == ""


@pytest.mark.slow
@pytest.mark.skipif(edge_delegates.COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize("fault", [{"abort_at": 3}, {"fail_at": 3}, {"refuse": 1}])
def test_a_delegate_that_breaks_stops_no_other(tmp_path, capsys, fault):
    """It may abort, fail or refuse: the bench goes on, and says what happened."""
    publish_scale(tmp_path, 1, 2.0)
    device = edge_delegates.device(edge_delegates.build(tmp_path), **fault)
    arguments = ["bench", "scale", "--store", str(tmp_path), "--delegate", device, "--delegate", "cpu"]
    assert main([*arguments, *FAST]) == 0
    found = decode_bench(capsys.readouterr().out.encode())
    assert {one.device for one in found.engines} == {"cpu"}
    (refused,) = found.refused
    assert (refused.device, refused.variant) == (device, "float32")
    assert refused.reason


@pytest.mark.slow
@pytest.mark.skipif(edge_delegates.COMPILER is None, reason="no C compiler")
def test_an_edge_tpu_is_timed_with_its_own_variant(tmp_path, monkeypatch, capsys, coral):
    """One row a call, since it takes no more; its times stand with the variant in the bench file."""
    edge_delegates.build_edgetpu(tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert main(["bench", str(coral.path), "--delegate", "edgetpu:usb:0", *FAST]) == 0
    found = decode_bench(capsys.readouterr().out.encode())
    assert [(one.device, one.rows) for one in found.engines] == [("edgetpu:usb:0", 1)]
    (variant,) = found.variants
    assert coral.manifest.variant(variant).delegate == "edgetpu"
