"""Answers a camera's frames, and never lets the camera wait for an answer.

    python examples/camera.py packages/birds/3                          the first camera, with OpenCV
    python examples/camera.py birds_edgetpu.tflite --source picamera2   a Raspberry Pi's
    python examples/camera.py packages/birds/3 --source frames/         a folder of pictures, in their names' order
    python examples/camera.py packages/birds/3 --show --deadline-ms 100

Frames come as fast as the source gives them. One is being answered, the newest waits, older ones are dropped and
counted: what is shown is never older than an answer takes, on a slow device too. A frame that could not be answered
within its deadline is given up before it runs.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from converter.artifact import InputPreprocess, TensorSpec
from edge_runtime import DeadlineExceeded, EdgeRuntimeError, Model, Reply, Runtime
from edge_runtime.tasks import classify, read_labels

Pixels = npt.NDArray[np.uint8]
"""[height, width, 3], RGB."""

Labels = Sequence[str] | Mapping[int, str]
"""By class."""

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")


@dataclass(frozen=True)
class Frame:
    """A picture, its number from 0, and the instant at which it was taken."""

    number: int
    pixels: Pixels
    taken_s: float


class Newest:
    """A place for one frame: a newer one takes it. Thread-safe.

    Attributes:
        dropped: Frames that were never taken out.
    """

    def __init__(self) -> None:
        """Empty."""
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._closed = False
        self.dropped = 0

    def put(self, frame: Frame) -> None:
        """Puts a frame in, at once."""
        with self._changed:
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify()

    def take(self) -> Frame | None:
        """Waits for a frame and takes it out; None once it is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closed)
            frame, self._frame = self._frame, None
            return frame

    def close(self) -> None:
        """No more frames come."""
        with self._changed:
            self._closed = True
            self._changed.notify()


@dataclass
class Count:
    """What became of the frames.

    Attributes:
        taken: From the source.
        dropped: For a newer one.
        answered: With a result.
        late: Given up at their deadline.
        failed: With another error; the last is in `error`.
        error: Its text.
    """

    taken: int = 0
    dropped: int = 0
    answered: int = 0
    late: int = 0
    failed: int = 0
    error: str = ""


@dataclass(frozen=True)
class Answer:
    """A frame's result.

    Attributes:
        frame: What was answered.
        reply: The answer.
        text: The best classes.
        age_s: From the taking of the frame to the answer.
    """

    frame: Frame
    reply: Reply
    text: str
    age_s: float


@dataclass
class Answering:
    """A thread that answers the newest frame, then the then newest, and so on.

    Use it with `with`: leaving it waits for the answer that is under way.

    Attributes:
        answer: Makes the answer of a frame, or raises an EdgeRuntimeError.
        shown: Called with each, in this thread.
        newest: Where frames are put.
        count: What became of them.
    """

    answer: Callable[[Frame], Answer]
    shown: Callable[[Answer], None]
    newest: Newest = field(default_factory=Newest)
    count: Count = field(default_factory=Count)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="edge-camera-answers", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.newest.close()
        self._thread.join()
        self.count.dropped = self.newest.dropped

    def _run(self) -> None:
        while (frame := self.newest.take()) is not None:
            try:
                answer = self.answer(frame)
            except DeadlineExceeded:
                self.count.late += 1
            except EdgeRuntimeError as error:
                # A camera goes on: the next frame may be answered, by another engine or a server.
                self.count.failed += 1
                self.count.error = str(error)
            else:
                self.count.answered += 1
                self.shown(answer)


class Answerer:
    """Answers a frame: preprocessing by the package, or for a bare file its pixels as they are, resized."""

    def __init__(
        self, model: Model, *, deadline_ms: float | None = None, labels: Labels | None = None, top: int = 3
    ) -> None:
        """Takes the model; SystemExit where it takes no pictures, or where nothing says how to make its input."""
        self._model, self._deadline_ms, self._labels, self._top = model, deadline_ms, labels or model.labels, top
        self._steps = steps_for(model)

    def __call__(self, frame: Frame) -> Answer:
        """The answer; raises an EdgeRuntimeError, DeadlineExceeded where the frame has become too old."""
        model = self._model
        inputs = model.preprocess(self._prepared(frame.pixels))
        left_ms = None
        if self._deadline_ms is not None:
            age_ms = (time.monotonic() - frame.taken_s) * 1e3
            left_ms = self._deadline_ms - age_ms
            if left_ms <= 0:
                raise DeadlineExceeded(f"frame {frame.number}", self._deadline_ms, {"waiting and preparing": age_ms})
        reply = model.predict(inputs, deadline_ms=left_ms)
        best = classify(reply, top_k=self._top, labels=self._labels, row=0, signature=model.signature)
        text = "  ".join(f"{one.label or one.id} {one.score:.3f}" for one in best)
        return Answer(frame, reply, text, time.monotonic() - frame.taken_s)

    def _prepared(self, pixels: Pixels) -> Any:
        """What the package's preprocessing takes: the picture itself, if it resizes, else one of the model's size."""
        if self._steps is None:
            return pixels
        step, spec = self._steps
        return step.apply(pixels, spec)


def steps_for(model: Model) -> tuple[InputPreprocess, TensorSpec] | None:
    """How frames are brought to the model's size, and as what; None where its package does it.

    A package that does not resize is given uint8 pixels of the model's size, and scales them. A bare file says nothing
    of its numbers: only one that takes uint8 takes pixels as they are. SystemExit for any other.
    """
    spec, *others = model.signature.inputs
    package = model.target.package if model.target else None
    step = package.manifest.preprocess.inputs.get(spec.name) if package else None
    if step is not None and step.kind == "image" and (step.resize or step.crop):
        return None
    channels = {1: "gray", 3: "rgb"}
    if others or len(spec.shape) != 4 or min(spec.shape[1:]) < 1 or spec.shape[3] not in channels:
        raise SystemExit(
            f"{model.name} takes {', '.join(map(str, (spec, *others)))}: no picture [N, height, width, 1 or 3]"
        )
    if step is None and spec.dtype != "uint8":
        raise SystemExit(f"{model.name} takes {spec}, and nothing says how pixels become that: wrap it into a package")
    _, height, width, depth = spec.shape
    resize = InputPreprocess(resize=(height, width), antialias=True, color="gray" if depth == 1 else "rgb")
    return resize, TensorSpec(name=spec.name, dtype="uint8", shape=(1, height, width, depth))


def frames_of(source: str, fps: float | None) -> Generator[Pixels, None, None]:
    """The source's pictures: a folder's, `picamera2`, or whatever OpenCV opens (a number, a file, an address)."""
    if Path(source).is_dir():
        return from_folder(Path(source), fps)
    return from_picamera2() if source == "picamera2" else from_opencv(source)


def from_folder(folder: Path, fps: float | None) -> Generator[Pixels, None, None]:
    """Its pictures by name, so many a second; without `fps` as fast as they can be read."""
    from PIL import Image  # noqa: PLC0415  only for who uses it

    next_s = time.monotonic()
    for path in sorted(one for one in folder.iterdir() if one.suffix.lower() in _SUFFIXES):
        with Image.open(path) as picture:
            yield np.asarray(picture.convert("RGB"))
        if fps is not None:
            next_s += 1 / fps
            time.sleep(max(next_s - time.monotonic(), 0.0))


def from_opencv(source: str) -> Generator[Pixels, None, None]:
    """A camera by its number, a film or a stream."""
    import cv2  # noqa: PLC0415  likewise

    camera = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    try:
        if not camera.isOpened():
            raise SystemExit(f"OpenCV can't open {source!r}")
        while True:
            taken, pixels = camera.read()
            if not taken:
                return
            yield pixels[..., ::-1]
    finally:
        camera.release()


def from_picamera2() -> Generator[Pixels, None, None]:
    """A Raspberry Pi's camera."""
    from picamera2 import Picamera2  # noqa: PLC0415  likewise

    with Picamera2() as camera:
        # Its "BGR888" has red first in memory.
        camera.configure(camera.create_video_configuration(main={"size": (640, 480), "format": "BGR888"}))
        camera.start()
        while True:
            yield camera.capture_array()


class Window:
    """Shows frames with the last answer over them, by OpenCV. For the main thread."""

    def __init__(self) -> None:
        """Opens nothing yet."""
        import cv2  # noqa: PLC0415  likewise

        self._cv2 = cv2

    def show(self, frame: Frame, answer: Answer | None, dropped: int) -> bool:
        """Whether to go on: not after the key q."""
        picture = np.ascontiguousarray(frame.pixels[..., ::-1])
        lines = [f"frame {frame.number}, {dropped} dropped"]
        if answer is not None:
            lines += [answer.text, f"frame {answer.frame.number}, {answer.age_s * 1e3:.0f} ms old when answered"]
        for place, line in enumerate(lines, start=1):
            for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                self._cv2.putText(picture, line, (8, 20 * place), 0, 0.5, color, thickness)
        self._cv2.imshow("camera", picture)
        return bool(self._cv2.waitKey(1) & 0xFF != ord("q"))


def watch(answer: Callable[[Frame], Answer], source: Iterable[Pixels], *, window: Window | None = None) -> Count:
    """Puts frames in and prints answers until the source ends; what became of the frames."""
    last: list[Answer] = []

    def shown(one: Answer) -> None:
        last[:] = [one]
        print(f"frame {one.frame.number}: {one.text}  ({one.reply.place}, {one.age_s * 1e3:.0f} ms old)", flush=True)

    with Answering(answer, shown) as answering:
        count, newest = answering.count, answering.newest
        for pixels in source:
            frame = Frame(count.taken, pixels, time.monotonic())
            count.taken += 1
            newest.put(frame)
            if window is not None and not window.show(frame, last[0] if last else None, newest.dropped):
                break
    return count


def main() -> int:
    """The command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a package's directory, or a bare .tflite that takes uint8 pictures")
    parser.add_argument(
        "--source", default="0", help="0, 1...; a film; picamera2; or a folder of pictures (default: 0)"
    )
    parser.add_argument("--fps", type=float, help="of a folder: pictures a second")
    parser.add_argument("--deadline-ms", type=float, help="frames that are older are not answered")
    parser.add_argument("--labels", type=Path, help="a line for each class; a package has its own")
    parser.add_argument("--top", type=int, default=3, help="classes to show (default: 3)")
    parser.add_argument("--delegate", action="append", help="where to run: edgetpu, cpu...; may be repeated")
    parser.add_argument("--show", action="store_true", help="a window with the frames, by OpenCV; q ends it")
    arguments = parser.parse_args()
    options = {"delegates": arguments.delegate} if arguments.delegate else {}
    labels = None if arguments.labels is None else read_labels(arguments.labels)
    try:
        with Runtime.open(arguments.model, **options) as runtime:
            model = runtime.model()
            answer = Answerer(model, deadline_ms=arguments.deadline_ms, labels=labels, top=arguments.top)
            with closing(frames_of(arguments.source, arguments.fps)) as source:
                count = watch(answer, source, window=Window() if arguments.show else None)
    except (EdgeRuntimeError, ImportError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        return 130
    became = f"{count.answered} answered, {count.dropped} dropped, {count.late} late, {count.failed} failed"
    print(f"{count.taken} frames: {became}" + (f" ({count.error})" if count.error else ""))
    return 0 if count.answered or not count.taken else 1


if __name__ == "__main__":
    sys.exit(main())
