import msgspec
import pytest
from support.edge_models import publish_scale

from converter.artifact import Package
from edge_runtime import EngineFailed, PackageRefused
from edge_runtime.installing import first_run
from edge_runtime.trial import CALLED_OFF, Answer, Trials


def answer(failure="", error="", **fields):
    return Answer(fields=fields, failure=failure, error=error, printed="")


@pytest.fixture
def parted(tmp_path):
    """A package with two variants, by its manifest alone: no child reads it here."""
    package = publish_scale(tmp_path, 1, 1.0)
    other = msgspec.structs.replace(package.manifest.variants[0], name="other")
    manifest = msgspec.structs.replace(package.manifest, variants=(*package.manifest.variants, other))
    return Package(path=package.path, manifest=manifest, digest=package.digest)


@pytest.fixture
def asked(monkeypatch):
    """What the children were asked for; the second answers what a test says."""
    deeds = []

    def ask(deed, **_options):
        deeds.append(deed)
        return answer(place="device:cpu") if deed == first_run.DEED else ask.parts

    ask.deeds, ask.parts = deeds, answer(tried=2)
    monkeypatch.setattr(first_run, "ask_child", ask)
    return ask


def test_parts_are_tried_where_there_is_more_than_one(tmp_path, parted, asked):
    """A package of one variant with one signature has had its first run with the first child."""
    assert first_run.try_package(parted).place == "device:cpu"
    assert asked.deeds == [first_run.DEED, first_run.PARTS_DEED]
    first_run.try_package(publish_scale(tmp_path / "one", 1, 1.0))
    assert asked.deeds[2:] == [first_run.DEED]


@pytest.mark.parametrize(("failure", "says"), [("crashed", "crashes its process"), ("stuck", "hangs")])
def test_a_part_that_crashes_or_hangs_refuses_the_package(parted, asked, failure, says):
    """Whatever the first child said."""
    asked.parts = answer(failure, "of its own")
    with pytest.raises(PackageRefused, match=rf"{says} on its first run.*of its own"):
        first_run.try_package(parted)


def test_a_part_for_which_there_is_no_memory_refuses_nothing(parted, asked, caplog):
    """The kernel ends its process, and not the application; the log says what was not tried."""
    asked.parts = answer("refused", "ended from outside, by SIGKILL")
    assert first_run.try_package(parted).place == "device:cpu"
    assert "not all of its variants were tried: ended from outside" in caplog.text


def test_a_first_run_that_is_called_off_installs_nothing(parted, asked):
    """Also between its two children."""
    trials = Trials()
    trials.call_off()
    asked.parts = answer("refused", CALLED_OFF)
    with pytest.raises(EngineFailed, match=CALLED_OFF):
        first_run.try_package(parted, trials=trials)
