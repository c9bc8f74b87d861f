import sys
import threading
import time

import camera
import numpy as np
import pytest
from camera import Answer, Answerer, Answering, Frame, Newest
from PIL import Image
from support.edge_models import scale_model
from support.picture_models import brightest_model, colours_detector, publish_file
from support.tflite_files import answers_in_order, shipped

from converter.artifact import InputPreprocess, Preprocess
from edge_runtime import DeadlineExceeded, EngineFailed, Runtime

FACES = shipped("fer", "emotion_model_quantized.tflite")


def frame(number, taken_s=0.0):
    return Frame(number, np.zeros((2, 2, 3), np.uint8), taken_s)


def test_the_newest_frame_wins():
    """One that was not taken gives way and is counted; a closed place still gives its last one."""
    newest = Newest()
    for number in range(3):
        newest.put(frame(number))
    assert (newest.take().number, newest.dropped) == (2, 2)
    newest.put(frame(3))
    newest.close()
    assert (newest.take().number, newest.take(), newest.dropped) == (3, None, 2)


def test_frames_are_put_while_an_answer_is_under_way():
    """The source is never held up, errors end nothing, and every frame is accounted for."""
    begun, go_on, seen = threading.Semaphore(0), threading.Semaphore(0), []

    def answer(one):
        seen.append(one.number)
        begun.release()
        assert go_on.acquire(timeout=20)
        if one.number == 2:
            raise EngineFailed("it is gone")
        if one.number == 4:
            raise DeadlineExceeded("frame", 1.0, {})
        return Answer(one, None, "", 0.0)

    shown = []
    with Answering(answer, shown.append) as answering:
        put = answering.newest.put
        put(frame(0))
        for later in ((1, 2), (3, 4), (5,), ()):
            assert begun.acquire(timeout=20)
            for number in later:
                put(frame(number))
            go_on.release()
    count = answering.count
    assert (count.answered, count.failed, count.late, count.error) == (2, 1, 1, "it is gone")
    assert count.dropped == 2
    assert [one.frame.number for one in shown] == [0, 5]
    assert seen == [0, 2, 4, 5]


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures, each with one bright quarter."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        pixels = np.zeros((64, 64, 3), np.uint8)
        row, column = divmod(number % 4, 2)
        pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 200
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "readme.txt").write_text("no picture")
    return folder


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["camera.py", *map(str, arguments)])
    code = camera.main()
    *lines, last = capsys.readouterr().out.splitlines()
    return code, lines, last


def test_a_bare_file_answers_a_folder(monkeypatch, capsys, tmp_path, pictures):
    """Pixels go in as they are, resized; the last frame is always answered, the others are or are dropped."""
    model, labels = tmp_path / "quarters.tflite", tmp_path / "labels.txt"
    model.write_bytes(brightest_model())
    labels.write_text("top left\ntop right\nbottom left\nbottom right\n")
    code, lines, last = run(monkeypatch, capsys, model, "--source", pictures, "--labels", labels, "--top", 1)
    assert code == 0
    assert lines[-1].startswith("frame 11: bottom right 0.")
    quarters = ["top left", "top right", "bottom left", "bottom right"]
    for line in lines:
        number, said = line.removeprefix("frame ").split(": ")
        assert said.startswith(f"{quarters[int(number) % 4]} 0.")
    taken, answered, dropped = (
        int(last.split(f" {word}")[0].split()[-1]) for word in ("frames", "answered", "dropped")
    )
    assert (taken, answered, answered + dropped) == (12, len(lines), 12)


@pytest.mark.skipif(not FACES, reason="fer is not installed")
def test_a_package_answers_as_the_bare_interpreter(monkeypatch, capsys, tmp_path, pictures):
    """A real network: gray, resized and scaled by the package, whose labels are shown."""
    labels = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    step = InputPreprocess(decode="image", resize=(64, 64), color="gray", scale=1 / 127.5, mean=(1.0,))
    package = publish_file(
        tmp_path / "packages", FACES, model="emotions", labels=labels, preprocess=Preprocess(inputs={"x": step})
    )
    code, lines, _ = run(monkeypatch, capsys, package.path, "--source", pictures, "--top", 1)
    assert code == 0
    with Image.open(pictures / "11.png") as picture:
        gray = np.asarray(picture)[np.newaxis, ..., :1].astype(np.float32) / 127.5 - 1
    (scores,) = answers_in_order(FACES, [gray])
    label, score = lines[-1].split()[2:4]
    assert labels[int(scores.argmax())] == label
    assert float(score) == pytest.approx(float(scores.max()), abs=2e-3)


def test_a_package_that_does_not_resize_is_given_pictures_of_its_size(tmp_path):
    """Its scaling is applied to them."""
    path = tmp_path / "quarters.tflite"
    path.write_bytes(brightest_model())
    steps = Preprocess(inputs={"image": InputPreprocess(scale=0.5)})
    package = publish_file(tmp_path / "packages", path, model="quarters", preprocess=steps)
    pixels = np.full((10, 6, 3), 100, np.uint8)
    with Runtime.open(package.path) as runtime:
        answer = Answerer(runtime.model())(Frame(0, pixels, time.monotonic()))
    assert answer.reply.outputs["scores"].tolist() == [[50] * 4]


def test_a_frame_that_is_too_old_is_not_run(tmp_path):
    """The deadline counts from the taking of the frame."""
    path = tmp_path / "quarters.tflite"
    path.write_bytes(brightest_model())
    with Runtime.open(path) as runtime:
        answer = Answerer(runtime.model(), deadline_ms=1e6)
        assert answer(frame(0, time.monotonic())).text
        with pytest.raises(DeadlineExceeded, match=r"frame 0: no answer within 1000000.0 ms"):
            answer(frame(0, time.monotonic() - 1e4))


def test_models_that_take_no_pictures_are_named(monkeypatch, capsys, tmp_path, pictures):
    """Before the first frame."""
    path = tmp_path / "scale.tflite"
    path.write_bytes(scale_model(2.0))
    assert "scale takes float32[-1, 4]: no picture" in refused(monkeypatch, capsys, path, "--source", pictures)
    if FACES:
        assert "nothing says how pixels become that" in refused(monkeypatch, capsys, FACES, "--source", pictures)
    none = tmp_path / "none.tflite"
    assert "none.tflite: No such" in refused(monkeypatch, capsys, none, "--source", pictures)


def refused(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["camera.py", *map(str, arguments)])
    assert camera.main() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_models_that_are_no_classifiers_are_named(monkeypatch, capsys, tmp_path, pictures):
    """With what is needed, before the first frame: not once for each."""
    path = tmp_path / "colours.tflite"
    path.write_bytes(colours_detector())
    said = refused(monkeypatch, capsys, path, "--source", pictures)
    assert "colours gives float32[1, 4, 4], " in said
    assert "a classifier is needed, whose one output is scores [N, classes]; for a detector see docs/" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fps", "0"], "--fps: must be above 0 and finite, got 0"),
        (["--fps", "nan"], "--fps: must be above 0 and finite, got nan"),
        (["--deadline-ms", "0"], "--deadline-ms: must be above 0 and finite, got 0"),
        (["--deadline-ms=-5"], "--deadline-ms: must be above 0 and finite, got -5"),
        (["--deadline-ms", "nan"], "--deadline-ms: must be above 0 and finite, got nan"),
        (["--top", "0"], "--top: must be at least 1, got 0"),
        (["--labels", "nope"], "nope: can't be read: No such file"),
        (["--source", "{empty}"], "empty: there is no picture in it (.bmp, "),
    ],
)
def test_options_that_are_none_are_one_line(monkeypatch, capsys, tmp_path, pictures, options, says):
    """On stderr, with the code for bad input, before the first frame."""
    model, empty = tmp_path / "quarters.tflite", tmp_path / "empty"
    model.write_bytes(brightest_model())
    empty.mkdir()
    filled = [one.format(empty=empty) for one in options]
    assert says in refused(monkeypatch, capsys, model, "--source", pictures, *filled)


def test_a_picture_that_can_not_be_read_ends_nothing(monkeypatch, capsys, tmp_path, pictures):
    """It is told and counted; where none can be, that is a failure."""
    model = tmp_path / "quarters.tflite"
    model.write_bytes(brightest_model())
    whole = (pictures / "05.png").read_bytes()
    (pictures / "03.png").write_bytes(b"no picture")
    (pictures / "05.png").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(sys, "argv", ["camera.py", str(model), "--source", str(pictures)])
    assert camera.main() == 0
    out, err = capsys.readouterr()
    assert [line.partition(": ")[0] for line in err.splitlines()] == [
        str(pictures / f"{one}.png") for one in ("03", "05")
    ]
    *lines, last = out.splitlines()
    assert last.startswith("10 frames: ")
    assert last.endswith("; 2 pictures can't be read")
    assert lines[-1].startswith("frame 9: ")
    for path in pictures.glob("*.png"):
        path.write_bytes(b"")
    assert camera.main() == 1
    assert capsys.readouterr().out.startswith("0 frames: ")
