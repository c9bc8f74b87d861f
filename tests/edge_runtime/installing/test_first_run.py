import msgspec
import pytest
from support.edge_models import publish_scale

from converter.artifact import Package
from edge_runtime import EngineFailed, PackageRefused
from edge_runtime.installing import first_run
from edge_runtime.trial import CALLED_OFF, Answer, Trials


def answer(failure="", error="", **fields):
    return Answer(fields=fields, failure=failure, error=error, printed="")


KILLED = Answer(fields={}, failure="refused", error="ended from outside, by SIGKILL", printed="", from_outside=True)


@pytest.fixture
def parted(tmp_path):
    """A package with two variants, by its manifest alone: no child reads it here."""
    package = publish_scale(tmp_path, 1, 1.0)
    other = msgspec.structs.replace(package.manifest.variants[0], name="other")
    manifest = msgspec.structs.replace(package.manifest, variants=(*package.manifest.variants, other))
    return Package(path=package.path, manifest=manifest, digest=package.digest)


@pytest.fixture
def asked(monkeypatch):
    """What the children were asked for, and how long each had; those for parts answer what a test says."""
    deeds = []

    def ask(deed, *, options, limit_s, **_options):
        deeds.append((options.get("variant", deed), options.get("signature"), limit_s))
        ask.now_s += ask.each_s
        return answer(place="device:cpu") if deed == first_run.DEED else ask.parts.get(deeds[-1][:2], answer(tried=1))

    ask.deeds, ask.parts, ask.now_s, ask.each_s = deeds, {}, 0.0, 0.0
    monkeypatch.setattr(first_run, "ask_child", ask)
    return ask


def test_parts_are_tried_where_there_is_more_than_one(tmp_path, parted, asked):
    """Each variant in a child that has its own time; one variant with one signature has had its run with the first."""
    assert first_run.try_package(parted, limit_s=7.0).place == "device:cpu"
    first, other = (one.name for one in parted.manifest.variants)
    assert asked.deeds == [(first_run.DEED, None, 7.0), (first, None, 7.0), (other, None, 7.0)]
    first_run.try_package(publish_scale(tmp_path / "one", 1, 1.0))
    assert [deed for deed, *_ in asked.deeds[3:]] == [first_run.DEED]


@pytest.mark.parametrize(("failure", "says"), [("crashed", "crashes its process"), ("stuck", "hangs")])
def test_a_part_that_crashes_or_hangs_refuses_the_package(parted, asked, failure, says):
    """Whatever the first child said."""
    asked.parts["other", None] = answer(failure, "of its own")
    with pytest.raises(PackageRefused, match=rf"{says} on its first run.*of its own"):
        first_run.try_package(parted)


def test_a_part_that_could_not_be_tried_refuses_the_package(parted, asked):
    """It may crash whoever asks for it."""
    asked.parts[parted.manifest.variants[0].name, None] = answer("refused", "array is too big")
    with pytest.raises(EngineFailed, match="no whole first run, so it is not installed: array is too big"):
        first_run.try_package(parted)


def test_a_part_for_which_there_is_no_memory_refuses_nothing_and_hides_nothing(parted, asked, caplog):
    """The kernel ends its process, and not the application; the log says what was not tried, and all else is."""
    first, other = parted.manifest.variants
    signature = first.signatures[0].name
    asked.parts |= {(first.name, None): KILLED, (first.name, signature): KILLED}
    assert first_run.try_package(parted).place == "device:cpu"
    assert f"not tried: {first.name}, {signature}: ended from outside" in caplog.text
    assert [deed[:2] for deed in asked.deeds[1:]] == [(first.name, None), (first.name, signature), (other.name, None)]


def test_a_part_behind_one_for_which_there_is_no_memory_is_tried(parted, asked):
    """By itself: it may be the one that crashes."""
    first = parted.manifest.variants[0]
    asked.parts |= {(first.name, None): KILLED, (first.name, first.signatures[0].name): answer("crashed", "SIGSEGV")}
    with pytest.raises(PackageRefused, match="crashes its process"):
        first_run.try_package(parted)


def test_all_children_together_have_an_hour(parted, asked):
    """However many variants there are, each slow."""
    asked.each_s = first_run.ALL_LIMIT_S - 5.0
    with pytest.raises(PackageRefused, match="its first runs take more than 3600 s"):
        first_run.try_package(parted, clock=lambda: asked.now_s)
    assert [limit_s for *_, limit_s in asked.deeds] == [first_run.FIRST_RUN_LIMIT_S, 5.0]


def test_a_first_run_that_is_called_off_installs_nothing(parted, asked):
    """Also between its children."""
    trials = Trials()
    trials.call_off()
    asked.parts["other", None] = answer("refused", CALLED_OFF)
    with pytest.raises(EngineFailed, match=CALLED_OFF):
        first_run.try_package(parted, trials=trials)
