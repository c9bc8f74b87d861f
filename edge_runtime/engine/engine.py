"""One engine: a session of one variant behind the tensors that callers see."""

from __future__ import annotations

import numpy as np

from converter.artifact import VARIABLE, Signature, Variant
from edge_runtime.engine.base import Loss, Session, Worker
from edge_runtime.engine.quantization import Codec, codec
from edge_runtime.pixels import Pixels
from edge_runtime.types import Arrays


class Engine:
    """One variant, loaded on one device. One caller at a time, unless `slots` says otherwise.

    Attributes:
        place: What a reply says of it: `device:cpu`, `device:edgetpu:usb:0`.
        slots: How many callers may be in `run` at once.
        runs: How many runs have ended well. A count that callers of several threads may lose one of.
        workers: The processes that it runs in: several for a pipeline, none for one that runs in this process.
    """

    def __init__(
        self,
        session: Session,
        variant: Variant,
        signatures: tuple[Signature, ...],
        *,
        device: str = "cpu",
        pixels: Pixels | None = None,
    ) -> None:
        """Takes a session of the variant, which is closed with the engine.

        Args:
            session: Runs the variant's file.
            variant: What the manifest says of it: its own tensors.
            signatures: What callers see; names and order are the variant's.
            device: The device string.
            pixels: The inputs that may come as pixels.

        Raises:
            PackageRefused: dtypes differ, and nothing says how to bring one to the other.
        """
        self.place = f"device:{device}"
        self.slots = session.slots
        self.runs = 0
        self.workers: tuple[Worker, ...] = getattr(session, "workers", ())
        self._name = variant.name
        self._session = session
        self._codecs: dict[str, Codec | None] = {
            seen.name: codec(seen, own, variant.folded, (pixels or {}).get(seen.name))
            for seen, own in zip(signatures, variant.signatures, strict=True)
        }
        self._single = {
            seen.name: seen.batch_axis
            for seen, own in zip(signatures, variant.signatures, strict=True)
            if one_row_at_a_time(seen, own)
        }

    def __repr__(self) -> str:
        return f"<Engine {self._name} on {self.place}, {self._session!r}>"

    @property
    def loss(self) -> Loss | None:
        """Why it can run no more, where a worker process of its own has ended; else None."""
        return next((worker.loss for worker in self.workers if worker.loss is not None), None)

    def run(self, signature: str, inputs: Arrays, limit_s: float | None = None) -> Arrays:
        """Runs one signature. The outputs are copies: they stay valid after the next run.

        Args:
            signature: Its name.
            inputs: Arrays that fit the signature that callers see, or pixels.
            limit_s: See `Session.run`.

        Raises:
            EngineLost: the session is gone; close this engine and make another.
            EngineFailed: the run failed.
            InvalidInput: a value that is no number can't be quantized.
        """
        codec = self._codecs[signature]
        if codec is not None:
            inputs = codec.quantize(inputs)
        if signature in self._single:
            outputs = self._row_by_row(signature, inputs, limit_s)
        else:
            outputs = self._session.run(signature, inputs, limit_s)
        self.runs += 1
        return outputs if codec is None else codec.dequantize(outputs)

    def _row_by_row(self, signature: str, inputs: Arrays, limit_s: float | None) -> Arrays:
        """The file takes one row; what came has several. The limit is for each."""
        axis = self._single[signature] or 0
        count = next(iter(inputs.values())).shape[axis]
        if count == 1:
            return self._session.run(signature, inputs, limit_s)
        rows = [
            self._session.run(
                signature, {name: array.take([row], axis=axis) for name, array in inputs.items()}, limit_s
            )
            for row in range(count)
        ]
        return {name: np.concatenate([row[name] for row in rows], axis=axis) for name in rows[0]}

    def close(self) -> None:
        """Closes the session."""
        self._session.close()


def one_row_at_a_time(seen: Signature, own: Signature) -> bool:
    """Whether callers may give several rows where the file takes one: what is compiled for an Edge TPU is such."""
    axis = seen.batch_axis
    return axis is not None and any(
        outside.shape[axis] == VARIABLE and inside.shape[axis] == 1
        for outside, inside in zip(seen.inputs, own.inputs, strict=True)
    )
