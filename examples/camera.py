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
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from camera_sources import Pixels, frames_of

from converter.artifact import InputPreprocess, TensorSpec
from edge_runtime import DeadlineExceeded, EdgeRuntimeError, InvalidConfig, InvalidInput, Model, Reply, Runtime
from edge_runtime.tasks import classify, read_labels

Labels = Sequence[str] | Mapping[int, str]
"""By class."""


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
        unreadable: Pictures of a folder that can't be read; they are not among those taken.
        error: Its text.
    """

    taken: int = 0
    dropped: int = 0
    answered: int = 0
    late: int = 0
    failed: int = 0
    unreadable: int = 0
    error: str = ""

    def unread(self, why: str) -> None:
        """A picture of the folder was passed over."""
        self.unreadable += 1
        print(why, file=sys.stderr)

    def __str__(self) -> str:
        became = f"{self.answered} answered, {self.dropped} dropped, {self.late} late, {self.failed} failed"
        unreadable = f"; {self.unreadable} pictures can't be read" if self.unreadable else ""
        return f"{self.taken} frames: {became}{unreadable}" + (f" ({self.error})" if self.error else "")


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
        """Takes the model.

        Raises:
            InvalidInput: it takes no pictures, nothing says how to make its input, or it gives no scores of classes.
        """
        self._model, self._deadline_ms, self._labels, self._top = model, deadline_ms, labels or model.labels, top
        self._steps = steps_for(model)
        check_classifier(model)

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
    of its numbers: only one that takes uint8 takes pixels as they are.

    Raises:
        InvalidInput: it is any other.
    """
    spec, *others = model.signature.inputs
    package = model.target.package if model.target else None
    step = package.manifest.preprocess.inputs.get(spec.name) if package else None
    if step is not None and step.kind == "image" and (step.resize or step.crop):
        return None
    channels = {1: "gray", 3: "rgb"}
    if others or len(spec.shape) != 4 or min(spec.shape[1:]) < 1 or spec.shape[3] not in channels:
        raise InvalidInput(
            f"{model.name} takes {', '.join(map(str, (spec, *others)))}: no picture [N, height, width, 1 or 3]"
        )
    if step is None and spec.dtype != "uint8":
        raise InvalidInput(
            f"{model.name} takes {spec}, and nothing says how pixels become that: wrap it into a package"
        )
    _, height, width, depth = spec.shape
    resize = InputPreprocess(resize=(height, width), antialias=True, color="gray" if depth == 1 else "rgb")
    return resize, TensorSpec(name=spec.name, dtype="uint8", shape=(1, height, width, depth))


def check_classifier(model: Model) -> None:
    """Raises InvalidInput where the model gives anything but scores of classes, which is all that is shown here."""
    outputs = model.signature.outputs
    shapes = [spec.shape for spec in outputs]
    if len(shapes) != 1 or len(shapes[0]) < 2 or any(size not in (1, -1) for size in shapes[0][1:-1]):
        raise InvalidInput(
            f"{model.name} gives {', '.join(map(str, outputs))}: a classifier is needed, whose one output is scores "
            "[N, classes]; for a detector see docs/from-pycoral.md"
        )
    if not outputs[0].dtype.startswith("float") and outputs[0].quantization is None:
        raise InvalidInput(f"{model.name} gives {outputs[0]}, and nothing says what these integers stand for")


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


def watch(
    answer: Callable[[Frame], Answer], source: Iterable[Pixels], count: Count, *, window: Window | None = None
) -> None:
    """Puts frames in and prints answers until the source ends; counts what became of the frames."""
    last: list[Answer] = []

    def shown(one: Answer) -> None:
        last[:] = [one]
        print(f"frame {one.frame.number}: {one.text}  ({one.reply.place}, {one.age_s * 1e3:.0f} ms old)", flush=True)

    with Answering(answer, shown, count=count) as answering:
        newest = answering.newest
        for pixels in source:
            frame = Frame(count.taken, pixels, time.monotonic())
            count.taken += 1
            newest.put(frame)
            if window is not None and not window.show(frame, last[0] if last else None, newest.dropped):
                break


def parsed() -> argparse.Namespace:
    """The command's options.

    Raises:
        InvalidConfig: one is out of its bounds.
    """
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
    for name, value in (("--fps", arguments.fps), ("--deadline-ms", arguments.deadline_ms)):
        if value is not None and not 0 < value < math.inf:
            raise InvalidConfig(f"{name}: must be above 0 and finite, got {value:g}")
    if arguments.top < 1:
        raise InvalidConfig(f"--top: must be at least 1, got {arguments.top}")
    return arguments


def run(arguments: argparse.Namespace) -> Count:
    """Answers the source's frames until it ends; what became of them.

    Raises:
        EdgeRuntimeError: the model can't be used, or the source or the labels can't be read.
        ImportError: what reads the source is not installed.
    """
    options = {"delegates": arguments.delegate} if arguments.delegate else {}
    labels = None if arguments.labels is None else read_labels(arguments.labels)
    count = Count()
    with Runtime.open(arguments.model, **options) as runtime:
        model = runtime.model()
        answer = Answerer(model, deadline_ms=arguments.deadline_ms, labels=labels, top=arguments.top)
        with closing(frames_of(arguments.source, arguments.fps, count.unread)) as source:
            watch(answer, source, count, window=Window() if arguments.show else None)
    return count


def main() -> int:
    """The command above: 0 where frames were answered, 1 where none could be, 2 for bad input."""
    try:
        count = run(parsed())
    except (InvalidConfig, InvalidInput) as error:
        print(error, file=sys.stderr)
        return 2
    except (EdgeRuntimeError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(count)
    return 0 if count.answered or not count.taken + count.unreadable else 1


if __name__ == "__main__":
    sys.exit(main())
