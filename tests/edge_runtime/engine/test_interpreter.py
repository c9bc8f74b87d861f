import numpy as np
import pytest
from support import edge_delegates
from support.edge_models import publish_scale, rows, scale_model, scale_signature
from support.edgetpu_models import edgetpu_model
from support.interpreter_models import pair_model, pair_signature

from converter.artifact import Quantization, Signature, TensorSpec
from edge_runtime import EngineFailed, PackageRefused
from edge_runtime.engine.base import SessionSpec
from edge_runtime.engine.interpreter import InterpreterSession
from edge_runtime.errors import EngineLost


@pytest.fixture
def engine(tmp_path):
    package = publish_scale(tmp_path, 1, 2.0)
    variant = package.manifest.variants[0]
    spec = SessionSpec(subject="scale/1", signatures=variant.signatures)
    one = InterpreterSession(spec, package.read(variant.file))
    yield one
    one.close()


def test_answers_any_batch_size(engine):
    """A dynamic batch axis takes every number of rows, in any order, and again."""
    for count in (1, 5, 2, 8, 3, 7, 1, 5):
        x = rows(count, start=count)
        np.testing.assert_array_equal(engine.run("serving_default", {"x": x})["y"], x * 2)


def test_outputs_outlive_the_next_run(engine):
    """What a run returned stays as it was when the engine runs again."""
    first = engine.run("serving_default", {"x": rows(1)})["y"]
    before = first.copy()
    engine.run("serving_default", {"x": rows(1, start=50)})
    np.testing.assert_array_equal(first, before)


def test_takes_views_that_are_not_contiguous(engine):
    """A strided view is read as what it shows, not as the memory behind it."""
    x = rows(8)[::2]
    np.testing.assert_array_equal(engine.run("serving_default", {"x": x})["y"], x * 2)


def test_shapes_kept_are_bounded(engine):
    """However many batch sizes come, only a bounded number of interpreters is kept."""
    for count in range(1, 20):
        engine.run("serving_default", {"x": rows(count)})
    assert len(engine._calls) <= 4


def test_a_name_that_there_is_not_is_told(engine):
    """A signature or an input of another name fails the run with those that there are; the next one is answered."""
    with pytest.raises(
        EngineFailed, match="scale/1, signature 'other': there is none of that name, but 'serving_default'"
    ):
        engine.run("other", {"x": rows(1)})
    for _ in range(2):
        with pytest.raises(EngineFailed, match=r"signature 'serving_default': input 'x' is missing; given: 'z'"):
            engine.run("serving_default", {"z": rows(1)})
        np.testing.assert_array_equal(engine.run("serving_default", {"x": rows(1)})["y"], rows(1) * 2)


def test_repr_shows_state(engine):
    """The repr says for which shapes it is ready."""
    engine.run("serving_default", {"x": rows(2)})
    assert "[(2, 4)]" in repr(engine)


@pytest.mark.parametrize("content", [b"", b"no model at all", scale_model(2.0)[:200]])
def test_unreadable_model_is_refused(content):
    """A file that is no TFLite model is a named error, not a crash."""
    with pytest.raises(EngineFailed, match="broken/1"):
        InterpreterSession(SessionSpec(subject="broken/1", signatures=(scale_signature(),)), content)


def test_shape_in_use_is_kept(engine):
    """The interpreter for the shape that is used all the time is not the one that gives way to new shapes."""
    usual = ("serving_default", ((1, 4),))
    for count in range(2, 20):
        engine.run("serving_default", {"x": rows(1)})
        engine.run("serving_default", {"x": rows(count)})
        assert usual in engine._calls


def spec(name="y", dtype="float32", shape=(-1, 4), quantization=None):
    return TensorSpec(name=name, dtype=dtype, shape=shape, quantization=quantization)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (spec(name="z"), r"outputs \['y'\] in the file, \['z'\] in the manifest"),
        (spec(shape=(-1, 5)), r"'y': float32\[-1, 4\] in the file, float32\[-1, 5\] in the manifest"),
        (spec(dtype="int8"), r"float32\[-1, 4\] in the file, int8\[-1, 4\]"),
        (spec(quantization=Quantization(scales=(0.5,), zero_points=(0,))), "its quantization is not the manifest's"),
    ],
)
def test_file_that_is_not_what_the_manifest_says_is_refused(output, said):
    """A manifest that describes other tensors than the file has is refused before anything runs."""
    signature = Signature(name="serving_default", inputs=scale_signature().inputs, outputs=(output,), batch_axis=0)
    with pytest.raises(PackageRefused, match=said):
        InterpreterSession(SessionSpec(subject="v/1", signatures=(signature,)), scale_model(2.0))


def test_alternating_shapes_are_told_apart(engine):
    """A run like the last one takes the short way, and a run unlike it never does."""
    for count in (2, 2, 1, 1, 2, 1, 3, 3, 2):
        x = rows(count, start=count)
        answer = engine.run("serving_default", {"x": x})["y"]
        np.testing.assert_array_equal(answer, x * 2)


def pair(a=3.0, b=5.0):
    return {"a": np.full((1, 4), a, np.float32), "b": np.full((1, 4), b, np.float32)}


def test_several_signatures_answer_in_turn():
    """Each signature has its own graph, whichever ran before it."""
    both = SessionSpec(subject="pair/1", signatures=(pair_signature("add"), pair_signature("mul")))
    session = InterpreterSession(both, pair_model(kinds=("ADD", "MUL")))
    for name, result in (("add", 8), ("mul", 15), ("mul", 15), ("add", 8)):
        assert session.run(name, pair())["c"].tolist() == [[result] * 4]


def test_only_signature_may_be_of_a_later_graph():
    """Where the manifest has but one signature, and it is not of the file's first graph, that one runs."""
    one = SessionSpec(subject="pair/1", signatures=(pair_signature("mul"),))
    session = InterpreterSession(one, pair_model(kinds=("ADD", "MUL")))
    assert session.run("mul", pair())["c"].tolist() == [[15] * 4]


def test_file_without_signatures_runs_by_its_tensors_names():
    """A segment, or a bare compiled file, has one signature without a name."""
    session = InterpreterSession(SessionSpec(subject="bare"), pair_model(signed=False, tensors=("p", "q", "r")))
    x = np.full((1, 4), 2, np.float32)
    assert session.run("", {"q": x, "p": x})["r"].tolist() == [[4] * 4]


def test_compiled_file_without_its_device_says_what_it_needs():
    """What is compiled for the Edge TPU is refused when it is loaded, in words that say why."""
    with pytest.raises(EngineFailed, match=r"edgetpu-custom-op.*it is compiled for the Edge TPU, and runs on nothing"):
        InterpreterSession(SessionSpec(subject="coral/1"), edgetpu_model(2.0, signature=None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if edge_delegates.COMPILER is None:
        pytest.skip("no C compiler")
    return tmp_path_factory.mktemp("delegates")


def delegated(folder, *, rows=1, **options):
    """A session with a library of its own, whose runs nobody else counts."""
    library = edge_delegates.build(folder, f"lib{len(list(folder.iterdir()))}.so")
    spec = SessionSpec(
        subject="pair/1",
        delegate="external",
        device="external:lib",
        signatures=(pair_signature(rows=rows),),
        library=str(library),
        options={name: str(value) for name, value in options.items()},
    )
    return InterpreterSession(spec, pair_model(rows=rows))


@pytest.mark.slow
def test_delegate_runs_the_file(folder, tmp_path):
    """The library is given its options, and it is the one that runs: it counts."""
    session = delegated(folder, count_file=tmp_path / "count", device="usb:7")
    for _ in range(3):
        assert session.run("add", pair())["c"].tolist() == [[8] * 4]
    assert edge_delegates.count(tmp_path / "count", "7") == 3
    session.close()


@pytest.mark.slow
def test_delegate_that_takes_other_shapes_is_given_them(folder):
    """Batches go through a delegate that can be resized."""
    session = delegated(folder, rows=-1)
    for count in (1, 3, 1, 2):
        x = np.ones((count, 4), np.float32)
        assert session.run("add", {"a": x, "b": x})["c"].tolist() == [[2] * 4] * count


@pytest.mark.slow
def test_run_that_the_delegate_fails_is_an_error_and_the_next_may_work(folder):
    """One failed run costs one answer: the session is used again."""
    session = delegated(folder, fail_at=2)
    session.run("add", pair())
    with pytest.raises(EngineFailed, match="pair/1, signature 'add'") as caught:
        session.run("add", pair())
    assert not isinstance(caught.value, EngineLost)
    assert session.run("add", pair())["c"].tolist() == [[8] * 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"refuse": 1}, "external:lib: Failed to load delegate from .*refused"),
        ({"refuse_model": 1}, "external:lib can't load it: the delegate refuses the model"),
    ],
)
def test_refusal_is_told_in_the_librarys_words(folder, options, said):
    """What the library says stands in the error."""
    with pytest.raises(EngineFailed, match=said):
        delegated(folder, **options)


@pytest.mark.parametrize(
    ("library", "said"),
    [
        ("libnosuch.so.9", "libnosuch.so.9: cannot open shared object file"),
        (__file__, "invalid ELF header|file too short"),
        ("libm.so.6", "libm.so.6 is no delegate"),
    ],
)
def test_what_is_no_delegate_is_refused(library, said, recwarn):
    """A library that is missing, no library or another kind of library is told apart, with nothing left to clean up."""
    spec = SessionSpec(subject="v/1", signatures=(scale_signature(),), device="external:x", library=library)
    with pytest.raises(EngineFailed, match=said):
        InterpreterSession(spec, scale_model(2.0))
    assert not recwarn.list


@pytest.mark.slow
def test_device_that_vanished_is_lost(folder, tmp_path):
    """After the run that it fails, a device that can't be opened any more is gone, not merely failing."""
    there = tmp_path / "there"
    there.touch()
    session = delegated(folder, vanish_file=there)
    session.run("add", pair())
    there.unlink()
    with pytest.raises(EngineFailed):
        session.run("add", pair())
    with pytest.raises(EngineLost) as caught:
        session.run("add", pair())
    assert caught.value.cause == "vanished"
