"""Takes samples from a Python function of the user's."""

from __future__ import annotations

from collections.abc import Mapping

from converter.data.dataset import LABELS
from converter.data.samples import SampleWriter
from converter.errors import DataInvalid
from converter.named_functions import load_named


def read(text: str, writer: SampleWriter) -> None:
    """Calls the function without arguments and takes the dicts that it yields.

    Raises:
        OptionInvalid: there is no such function.
        DataInvalid: it raises, yields anything but dicts, or a sample does not fit.
    """
    function = load_named(text)
    has_labels = LABELS not in [spec.name for spec in writer.signature.inputs]
    try:
        samples = iter(function())
    except Exception as error:
        raise DataInvalid(f"{text} raised {type(error).__name__}: {_line(error)}") from error
    while True:
        try:
            sample = next(samples)
        except StopIteration:
            return
        except Exception as error:
            raise DataInvalid(
                f"{text} raised {type(error).__name__} after {writer.samples} samples: {_line(error)}"
            ) from error
        if not isinstance(sample, Mapping):
            raise DataInvalid(
                f"{text}: sample {writer.samples} is a {type(sample).__name__}; a dict by input name is needed"
            )
        values = dict(sample)
        writer.add(values, values.pop(LABELS, None) if has_labels else None)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
