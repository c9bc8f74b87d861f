import re

import pytest

from devices import ProfileInvalid, UnknownProfile, load_profiles, profile
from devices.profile import parse_profile

GOOD = 'name = "a"\ntitle = "A"\nkind = "board"\nmachine = "aarch64"\ndelegates = ["cpu"]\n'
ACCELERATOR = 'name = "a"\ntitle = "A"\nkind = "accelerator"\ndelegates = ["edgetpu:usb", "cpu"]\n'


def test_the_profiles_that_ship():
    """These names are what configurations and targets refer to."""
    assert [found.name for found in load_profiles()] == [
        "coral-dev-board",
        "coral-pcie",
        "coral-usb",
        "generic-aarch64",
        "generic-x86_64",
        "raspberry-pi-4",
        "raspberry-pi-5",
    ]


def test_every_architecture_has_exactly_one_fallback():
    """A board that is not known still gets a profile, and never one of two."""
    fallbacks = [found.machine for found in load_profiles() if found.kind == "board" and not found.models]
    assert sorted(fallbacks) == ["aarch64", "x86_64"]


def test_a_profile_by_name():
    """The values of the file arrive typed."""
    found = profile("raspberry-pi-5")
    assert (found.machine, found.cores, found.threads) == ("aarch64", 4, 4)
    assert found.delegates == ("cpu",)


def test_an_unknown_name_is_told_with_the_known_ones():
    """A misspelt target can be corrected from the message alone."""
    with pytest.raises(UnknownProfile, match=r"'raspberry-pi-6'.*raspberry-pi-4, raspberry-pi-5"):
        profile("raspberry-pi-6")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name = ", "x.toml: "),
        ('name = "a"', "x.toml: .*missing required field"),
        (GOOD + "core = 4", "unknown field `core`"),
        (GOOD + 'cores = "4"', r"Expected `int \| null`"),
        (GOOD + "cores = 0", "profile 'a': cores is 0, allowed is: at least 1"),
        (GOOD + "threads = -1", "threads is -1"),
        (GOOD.replace('"a"', '"A b"'), "name is 'A b'"),
        (GOOD.replace("aarch64", "armv7l"), "machine is 'armv7l', allowed is: one of aarch64, x86_64"),
        (GOOD.replace('"cpu"', '"npu"'), "cpu among them"),
        (GOOD.replace('"cpu"', '"cpu", "tpu"'), "profile 'a': delegate 'tpu'"),
        (GOOD.replace("board", "toaster"), "Invalid enum value 'toaster'"),
        (GOOD + 'usb_ids = ["1a6e-089a"]', "1a6e-089a"),
        (ACCELERATOR, "at least one id"),
        (ACCELERATOR + 'usb_ids = ["1a6e:089a"]\nmachine = "x86_64"', "none for an accelerator"),
        (GOOD + 'thermal = ["hand"]', "Invalid enum value 'hand'"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_value(text, told):
    """Every refusal names the file or profile, the field, and what came."""
    with pytest.raises(ProfileInvalid) as caught:
        parse_profile(text, origin="x.toml")
    assert re.search(told, str(caught.value))


@pytest.mark.parametrize(
    ("name", "cores", "threads"),
    [
        ("raspberry-pi-4", 4, 4),
        ("raspberry-pi-4", 2, 2),
        ("raspberry-pi-4", None, 4),
        ("generic-x86_64", 64, 4),
        ("generic-x86_64", 1, 1),
        ("coral-usb", None, 4),
    ],
)
def test_threads_never_exceed_the_cores(name, cores, threads):
    """The profile's number, or four, but no more than there are cores."""
    assert profile(name).threads_on(cores) == threads
