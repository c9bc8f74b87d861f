"""Runs a version before it is AVAILABLE, so that no caller pays for what the first run of a shape sets up.

With the requests that were recorded for it, as TensorFlow Serving has them, else with zeros; and each in all the sizes
that batches will have.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from google.protobuf.message import DecodeError

from fallback_server.batching.options import BatchingOptions
from fallback_server.core.errors import ExecutionFailed, InvalidInput, LoadFailed, VersionNotReady, VersionRefused
from fallback_server.executors.base import Array, Executor, Signature
from fallback_server.executors.probing import made_up
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import decode
from fallback_server.validation import check_inputs
from fallback_server.warmup_records import RecordDamaged, read_records

_log = logging.getLogger(__name__)

RECORDS = Path("assets.extra", "tf_serving_warmup_requests")
"""In a version's folder, as TensorFlow Serving names it."""

MAX_RECORDS = 1000
"""As in TensorFlow Serving."""

MAX_ROWS = 64
"""Larger batches are warmed up only where they are an allowed size."""

MAX_BYTES = 2**26
"""Of the inputs of one run that is made up: larger ones take long by themselves."""

MAX_S = 5.0
"""After which no further size is tried; what is recorded is run in any case."""

DEFAULT_SIGNATURE = "serving_default"

Inputs = Mapping[str, Array]


@runtime_checkable
class StepsBack(Protocol):
    """An executor whose runs can make room for other models' requests."""

    def stepping_back(self) -> AbstractContextManager[None]:
        """Runs in here do."""
        ...


def warm_up(
    executor: Executor,
    path: Path,
    options: BatchingOptions,
    *,
    enabled: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Warms a version up.

    Args:
        executor: Has it loaded.
        path: Its folder.
        options: What sizes its batches may have.
        enabled: Without, nothing is run.
        clock: Monotonic seconds.

    Returns:
        How many requests were run.

    Raises:
        VersionRefused: a recorded request can't be read, or the model refuses it; the text has its number, from 1 on.
        LoadFailed: the model, or its process, failed at a request.
    """
    if not enabled:
        return 0
    with executor.stepping_back() if isinstance(executor, StepsBack) else contextlib.nullcontext():
        return _warm_up(executor, path, options, clock)


def _warm_up(executor: Executor, path: Path, options: BatchingOptions, clock: Callable[[], float]) -> int:
    end_s = clock() + MAX_S
    file = path / RECORDS
    last: dict[str, Inputs] = {}
    count = 0
    if file.is_file():
        for name, inputs in _recorded(executor, file):
            last[name] = inputs
            count += 1
    else:
        last = _made_up(executor)
    for name, inputs in last.items():
        for size in sizes(executor.signatures[name], inputs, options):
            if clock() >= end_s:
                _log.info("%s: warmed up for %.0f s, and not yet with all sizes", path, MAX_S)
                return count
            try:
                executor.run(name, {key: _resized(value, size) for key, value in inputs.items()})
            except (ExecutionFailed, VersionNotReady) as error:
                raise LoadFailed(f"warm-up of signature {name!r} with {size} rows failed: {error}") from error
            except Exception as error:  # noqa: BLE001  the model may well refuse rows that nobody sent
                _log.info("%s: signature %r did not run on %d rows: %s", path, name, size, error)
                break
            count += 1
    return count


def sizes(signature: Signature, inputs: Inputs, options: BatchingOptions) -> tuple[int, ...]:
    """The numbers of rows that batches of a signature will have, and that these inputs have not. Pure.

    Those that are allowed; where any is, 1, 2, 4... to the largest batch or `MAX_ROWS`. None where requests are not
    merged, and none whose inputs would take more than `MAX_BYTES`.
    """
    if not (signature.batches and options.enabled) or not inputs:
        return ()
    largest = min(options.max_batch_size_rows, MAX_ROWS)
    powers = itertools.takewhile(lambda size: size < largest, (2**exponent for exponent in itertools.count()))
    wanted = options.allowed_batch_sizes or (*powers, largest)
    rows = len(next(iter(inputs.values())))
    if rows == 0:
        return ()
    row_bytes = sum(value.nbytes for value in inputs.values()) / rows
    return tuple(size for size in wanted if size != rows and size * row_bytes <= MAX_BYTES)


def _made_up(executor: Executor) -> dict[str, Inputs]:
    """One row of zeros for each signature that takes them; what loaded the model has run it with those."""
    made = {name: made_up(signature) for name, signature in executor.signatures.items()}
    return {name: inputs for name, inputs in made.items() if inputs is not None}


def recorded(executor: Executor, path: Path, signature: str, *, most: int) -> list[Inputs]:
    """The first requests of a signature that were recorded with a version; none where they can't be read.

    Args:
        executor: Has it loaded; runs none of them.
        path: Its folder.
        signature: Which.
        most: How many at most.
    """
    file = path / RECORDS
    if not file.is_file():
        return []
    found = (inputs for name, inputs in _recorded(executor, file, run=False) if name == signature)
    try:
        return list(itertools.islice(found, most))
    except (VersionRefused, LoadFailed) as error:
        _log.info("its recorded requests are passed over: %s", error)
        return []


def _recorded(executor: Executor, file: Path, *, run: bool = True) -> Iterator[tuple[str, Inputs]]:
    """Runs what a file has recorded, and gives it on."""
    number = 0
    try:
        for number, record in enumerate(read_records(file), 1):
            if number > MAX_RECORDS:
                raise VersionRefused(f"{file} has more than {MAX_RECORDS} records")  # noqa: TRY301  told with the file
            for name, inputs in _requests(executor, pb.PredictionLog.FromString(record)):
                if run:
                    executor.run(name, inputs)
                yield name, inputs
    except VersionRefused:
        raise
    except RecordDamaged as error:
        raise VersionRefused(f"{file}: {error}") from error
    except DecodeError as error:
        raise VersionRefused(f"warm-up record {number} of {file} is no PredictionLog") from error
    except (InvalidInput, ValueError) as error:
        raise VersionRefused(f"warm-up record {number} of {file} failed: {error}") from error
    except Exception as error:  # whatever a model says of it, the record is named
        raise LoadFailed(f"warm-up record {number} of {file} failed: {error}") from error


def _requests(executor: Executor, log: pb.PredictionLog) -> list[tuple[str, Inputs]]:
    """What one record asks for.

    Raises:
        InvalidInput: it does not fit the signature.
        TensorCodecError: a tensor in it can't be read.
        ValueError: it names a signature that is not there, or is of a kind that is not served.
    """
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        signature = _signature(executor, request.model_spec)
        inputs = {name: decode(tensor) for name, tensor in request.inputs.items()}
        check_inputs(signature, inputs)
        return [(signature.name, inputs)]
    if kind == "classify_log":
        asked, given = [log.classify_log.request.model_spec], log.classify_log.request.input
    elif kind == "regress_log":
        asked, given = [log.regress_log.request.model_spec], log.regress_log.request.input
    elif kind == "multi_inference_log":
        tasks = log.multi_inference_log.request.tasks
        asked, given = [task.model_spec for task in tasks], log.multi_inference_log.request.input
    else:
        raise ValueError(f"it holds no request that is served here, but {kind or 'nothing'}")
    examples = _examples(given)
    return [_with_examples(_signature(executor, spec), examples) for spec in asked]


def _signature(executor: Executor, spec: pb.ModelSpec) -> Signature:
    name = spec.signature_name or DEFAULT_SIGNATURE
    signature = executor.signatures.get(name)
    if signature is None:
        raise ValueError(f'Serving signature key "{name}" not found.')
    return signature


def _with_examples(signature: Signature, examples: Sequence[bytes]) -> tuple[str, Inputs]:
    array = np.empty(len(examples), object)
    array[:] = examples
    inputs = dict.fromkeys(signature.inputs, array)
    check_inputs(signature, inputs)
    return signature.name, inputs


def _examples(given: pb.Input) -> list[bytes]:
    """Serialized, with the context's bytes before each: so messages are merged."""
    if given.WhichOneof("kind") == "example_list_with_context":
        both = given.example_list_with_context
        context = both.context.SerializeToString()
        return [context + example.SerializeToString() for example in both.examples]
    return [example.SerializeToString() for example in given.example_list.examples]


def _resized(value: Array, rows: int) -> Array:
    """As many rows as asked for: those there are, again and again."""
    return np.ascontiguousarray(np.take(value, np.arange(rows) % len(value), axis=0))
