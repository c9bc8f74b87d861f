import json
import os

import msgspec
import pytest
from support import edge_delegates
from support.delegate_libraries import COMPILER, build
from support.devices_roots import FakeRoot

from devices import CpuFrequency, Diagnosis, Interface, Temperature, Throttled, load_profiles, match, probe
from edge_runtime.doctor import (
    LOW_DISK_BYTES,
    DelegateReport,
    Report,
    as_dict,
    check_disk,
    check_interpreter,
    check_multicast,
    check_numpy,
    check_power,
    check_python,
    examine,
    render,
)
from edge_runtime.errors import InvalidConfig

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler to build a delegate's library with")

CPU = DelegateReport(name="cpu", state="runs", detail="a small model ran")
EDGETPU = DelegateReport(
    name="edgetpu", state="fails", detail="raw text\nmore", diagnosis=Diagnosis(cause="It is so.", cure="Do that.")
)


def report(root, *delegates, **changes):
    machine = probe(root)
    values = {
        "machine": machine,
        "match": match(machine, load_profiles()),
        "checks": (check_python(machine), check_multicast(machine)),
        "delegates": delegates,
        "temperatures": (),
        "throttled": None,
    }
    return Report(**values | changes)


def lines_of(text, label):
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.strip().startswith(f"{label} ")]


@pytest.mark.slow
def test_this_machine_is_examined():
    """Every delegate that needs no name is tried, and each that fails has a cause and a cure that are known."""
    found = examine()
    assert [delegate.name.partition(":")[0] for delegate in found.delegates] == ["cpu", "edgetpu", "gpu", "npu"]
    assert found.delegates[0].state == "runs"
    assert found.exit_code == 0
    for delegate in found.delegates:
        assert (delegate.state == "fails") == (delegate.diagnosis is not None)
        assert delegate.diagnosis is None or "not one that is known" not in delegate.diagnosis.cause


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [("SEGFAULT", "killed by SIGSEGV"), ("ABORT_IN_PREPARE", "killed by SIGABRT"), ("REFUSE", "another process holds")],
)
def test_a_library_that_crashes_is_a_diagnosis_and_not_the_end(tmp_path, behaviour, cause):
    """The doctor outlives it, tells it from a library that refuses, and the CPU still counts."""
    root = FakeRoot(tmp_path / "root")
    root.machine("x86_64")
    root.usb_coral(after_inference=False)
    library = build(tmp_path, behaviour)
    found = examine(root.path, libraries={"edgetpu": library})
    edgetpu = found.delegates[1]
    assert edgetpu.state == "fails"
    assert cause in edgetpu.diagnosis.cause
    assert found.exit_code == 0
    assert found.match.delegates == ("edgetpu:usb", "cpu")


@pytest.mark.slow
@needs_compiler
def test_a_hung_library_is_told_as_stuck(tmp_path):
    """The limit ends it."""
    found = examine(libraries={"edgetpu": build(tmp_path, "HANG")}, limit_s=3)
    assert "does not answer (no answer within 3 s)" in found.delegates[1].diagnosis.cause


@pytest.mark.slow
@needs_compiler
def test_libraries_that_the_user_names_are_tried_with_their_options(tmp_path):
    """Each under its device string, also one library with several sets of options."""
    library = edge_delegates.build(tmp_path)
    good, bad = edge_delegates.device(library), edge_delegates.device(library, nonsense=1)
    found = examine(delegates=[good, bad, good, "cpu"], libraries={"edgetpu": "/nowhere/libedgetpu.so.1"})
    states = {delegate.name: delegate.state for delegate in found.delegates}
    assert list(states) == ["cpu", "edgetpu", "gpu", "npu", good, bad]
    assert (states[good], states[bad]) == ("runs", "fails")
    assert "refused to start: unknown option" in found.delegates[-1].diagnosis.cause
    lines = render(found).splitlines()
    assert lines[lines.index(f"  {good}") + 1].startswith(" " * 16 + "runs:")


@pytest.mark.slow
@needs_compiler
def test_each_of_several_edge_tpus_is_tried(tmp_path, monkeypatch):
    """It is told which one it is that fails."""
    root = FakeRoot(tmp_path / "root")
    root.machine("x86_64")
    root.usb_coral(after_inference=False)
    root.pci_coral()
    monkeypatch.setenv("FAKE_EDGETPU", edge_delegates.environment(only="usb:0", refuse=1))
    found = examine(root.path, libraries={"edgetpu": str(edge_delegates.build_edgetpu(tmp_path))})
    states = {delegate.name: delegate.state for delegate in found.delegates if "edgetpu" in delegate.name}
    assert states == {"edgetpu:pci:0": "loads", "edgetpu:usb:0": "fails"}


def test_what_is_no_device_string_is_bad_input():
    """Nothing is tried then."""
    with pytest.raises(InvalidConfig, match="tpu"):
        examine(delegates=["tpu"])


@pytest.mark.parametrize(
    ("delegates", "code"),
    [
        ((CPU,), 0),
        ((CPU, EDGETPU), 0),
        ((DelegateReport(name="cpu", state="loads", detail=""),), 1),
        ((EDGETPU,), 1),
        ((), 1),
    ],
)
def test_the_exit_code_is_that_of_the_cpu(tmp_path, delegates, code):
    """0 exactly if a model ran on the CPU, whatever the accelerators do."""
    FakeRoot(tmp_path).machine("x86_64")
    assert report(tmp_path, *delegates).exit_code == code


def test_a_problem_that_stops_no_model_is_no_failure(tmp_path):
    """A weak supply or full disk has its line and cure; whoever starts models by the exit code can start them."""
    FakeRoot(tmp_path).machine("aarch64")
    found = report(tmp_path, CPU, checks=check_power(Throttled.from_mask(0x50005)))
    assert "PROBLEM" in render(found)
    assert found.exit_code == 0


@pytest.mark.parametrize("columns", [40, 80])
def test_the_text_is_as_wide_as_the_terminal(tmp_path, columns):
    """Lines are wrapped there, but for words that are longer, as paths; and never wider than is easy to read."""
    FakeRoot(tmp_path).machine("aarch64", model="Raspberry Pi 5 Model B Rev 1.0")
    found = report(tmp_path, CPU, EDGETPU, checks=check_power(Throttled.from_mask(0x50001)))
    wide = [line for line in render(found, columns).splitlines() if len(line) > columns]
    assert [line for line in wide if len(line.split()) > 1] == []
    assert render(found, 10_000) == render(found)
    assert render(found, columns).split() == render(found).split()


def test_the_text_says_what_this_is_and_what_to_do(tmp_path):
    """Machine, profile with reason, delegates with cause and cure, and the verdict."""
    root = FakeRoot(tmp_path)
    root.machine("aarch64", model="Raspberry Pi 5 Model B Rev 1.0")
    text = render(
        report(
            tmp_path,
            CPU,
            EDGETPU,
            temperatures=(Temperature(source="thermal_zone0", kind="cpu-thermal", celsius=51.5),),
            checks=check_power(Throttled.from_mask(0x50001)),
        )
    )
    assert lines_of(text, "profile") == ["raspberry-pi-5 (Raspberry Pi 5, 500 and Compute Module 5)"]
    assert lines_of(text, "because") == ["the device tree says 'Raspberry Pi 5 Model B Rev 1.0'"]
    assert lines_of(text, "temperature") == ["52 °C cpu-thermal"]
    assert lines_of(text, "power") == ["PROBLEM: under voltage, since boot under voltage, since boot throttled"]
    assert lines_of(text, "edgetpu") == ["fails: raw text"]
    assert lines_of(text, "why:") == ["It is so."]
    assert "Do that." in lines_of(text, "do:")
    assert text.endswith("\nModels run here.")


def test_the_text_shows_a_closed_stick(tmp_path):
    """The Edge TPU's line names bus, port, id, speed and who may open it."""
    root = FakeRoot(tmp_path)
    root.machine("x86_64")
    root.usb_coral(after_inference=True, mode=0o660)
    machine = probe(tmp_path, may_use=lambda _: False)
    text = " ".join(render(report(tmp_path, CPU, machine=machine)).split())
    assert "usb 2-1 (18d1:9302, 5000 Mbit/s), /dev/bus/usb/002/004, closed to this user (0660, group " in text


def test_the_text_fits_a_terminal_and_is_aligned(tmp_path):
    """No line is longer than the limit unless one word is, and continued lines stand below their text."""
    FakeRoot(tmp_path).machine("x86_64")
    long = DelegateReport(
        name="gpu", state="fails", detail="word " * 60, diagnosis=Diagnosis(cause="c " * 90, cure="d")
    )
    lines = render(report(tmp_path, long)).splitlines()
    assert max(map(len, lines)) <= 110
    assert all(line.startswith(" " * 16) for line in lines if line.strip().startswith(("word", "c c")))
    assert lines[-1].startswith("No model runs here")


def test_what_was_asked_for_must_work(tmp_path):
    """Whoever asks for a delegate is told by the code that it fails, and not that it may be left alone."""
    found = Diagnosis(cause="It is so.", cure="Do that.", unless="Without one nothing needs doing.")
    failing = DelegateReport(name="edgetpu", state="fails", detail="gone", diagnosis=found)
    unasked, asked = report(tmp_path, CPU, failing), report(tmp_path, CPU, failing, asked=("edgetpu",))
    assert (unasked.exit_code, asked.exit_code) == (0, 1)
    assert "do: Do that. Without one nothing needs doing." in " ".join(render(unasked).split())
    assert "nothing needs doing" not in render(asked)
    assert render(asked).endswith("Models run here. What was asked for fails: edgetpu.")
    assert report(tmp_path, CPU, asked=("cpu",)).exit_code == 0


def test_the_report_is_json(tmp_path):
    """Plain values only, the exit code among them."""
    root = FakeRoot(tmp_path)
    root.machine("x86_64")
    root.usb_coral(after_inference=False)
    decoded = json.loads(json.dumps(as_dict(report(tmp_path, CPU, EDGETPU))))
    assert decoded["exit_code"] == 0
    assert decoded["match"]["profile"]["name"] == "generic-x86_64"
    assert decoded["machine"]["edge_tpus"][0]["node"]["path"] == "/dev/bus/usb/002/004"
    assert decoded["delegates"][1]["diagnosis"] == {"cause": "It is so.", "cure": "Do that."}


def interface(name, *, up=True, loopback=False, multicast=True):
    return Interface(name=name, up=up, loopback=loopback, multicast=multicast)


@pytest.mark.parametrize(
    ("interfaces", "ok"),
    [
        ((), False),
        ((interface("lo", loopback=True),), False),
        ((interface("eth0", up=False),), False),
        ((interface("ppp0", multicast=False),), False),
        ((interface("lo", loopback=True), interface("wlan0")), True),
    ],
)
def test_mdns_needs_multicast_on_an_interface_that_leads_outside(tmp_path, interfaces, ok):
    """Loopback, what is down and what carries no multicast do not count."""
    check = check_multicast(msgspec.structs.replace(probe(tmp_path), interfaces=interfaces))
    assert check.ok == ok
    assert bool(check.cure) != ok


def test_a_32_bit_python_is_told(tmp_path):
    """Its kernel may have 64 bits; the wheels are missing all the same."""
    machine = probe(tmp_path)
    assert check_python(machine).ok
    check = check_python(msgspec.structs.replace(machine, python_bits=32))
    assert not check.ok
    assert "64-bit" in check.cure


def test_the_software_that_is_installed_is_found():
    """Versions come from the installed distributions, without importing them."""
    assert check_interpreter().detail.startswith("ai-edge-litert ")
    assert check_numpy().ok


def test_disk_is_that_of_the_nearest_folder(tmp_path):
    """A package folder that is still to be made is on its parent's disk."""
    stat = os.statvfs(tmp_path)
    check = check_disk(tmp_path / "not" / "yet")
    assert str(tmp_path) in check.detail
    assert check.ok == (stat.f_bavail * stat.f_frsize >= LOW_DISK_BYTES)


@pytest.mark.parametrize(
    ("mask", "ok", "cure"),
    [
        (0x0, True, ""),
        (0x1, False, "power supply"),
        (0x10000, False, "power supply"),
        (0x50005, False, "power supply"),
        (0x4, False, "Cool the board"),
        (0x80000, False, "Cool the board"),
    ],
)
def test_a_weak_supply_and_heat_are_told_apart(mask, ok, cure):
    """What throttles under a weak supply is cured by a better one; without it, by cooling."""
    (check,) = check_power(Throttled.from_mask(mask))
    assert check.ok is ok
    assert check.cure.startswith(cure) or cure in check.cure
    assert check_power(None) == ()


def frequency(current, allowed):
    return CpuFrequency(policy="policy0", cores=4, current_mhz=current, allowed_mhz=allowed, maximal_mhz=1800)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, []),
        ({"frequencies": (frequency(600, 1800),)}, ["CPU at up to 1800 of 1800 MHz"]),
        ({"frequencies": (frequency(600, 600),)}, ["CPU at up to 600 of 1800 MHz: throttled, predictions x3.0"]),
        (
            {
                "frequencies": (frequency(1800, 1800),),
                "throttled": Throttled.from_mask(4),
                "arm_clock_mhz": 900.0,
            },
            ["CPU at up to 900 of 1800 MHz: throttled, predictions x2.0"],
        ),
    ],
)
def test_the_clock_and_what_it_does_to_predictions(tmp_path, changes, line):
    """Nothing where the clock is not scaled; the firmware's cap where it is known."""
    root = FakeRoot(tmp_path)
    root.machine("aarch64")
    assert lines_of(render(report(tmp_path, CPU, **changes)), "clock") == line


def test_an_edge_tpus_trips_are_told(tmp_path):
    """Where its clock is lowered, where it is now, and that a driver does not care."""
    root = FakeRoot(tmp_path)
    root.machine("aarch64")
    card = Temperature(source="apex_0", kind="edgetpu", celsius=91.0, trips_celsius=(85.0, 90.0, 95.0))
    careless = Temperature(source="apex_1", kind="edgetpu", celsius=91.0, trips_celsius=(85.0,), governed=False)
    assert lines_of(render(report(tmp_path, CPU, temperatures=(card,))), "temperature") == [
        "91 °C edgetpu (clock 125 MHz; lowered at 85, 90, 95 °C)"
    ]
    assert lines_of(render(report(tmp_path, CPU, temperatures=(careless,))), "temperature") == [
        "91 °C edgetpu (clock 500 MHz; its driver does not lower it at 85 °C)"
    ]
