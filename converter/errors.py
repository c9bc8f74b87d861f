"""What can go wrong in the converter.

ConverterError
├── BadInput              what the user gave can't be worked with; the command ends with 2
│   ├── OptionInvalid     an option is out of its bounds
│   ├── SourceInvalid     no SavedModel, or not the signature that was asked for
│   ├── DataInvalid       calibration or evaluation data don't fit the model
│   └── ToolMissing       TensorFlow or LiteRT is not installed
├── VariantUnusable       a variant was written, but is not what the package promises
│   └── OperatorsUnsupported   the model has operators that LiteRT lacks: no variant of it can run
├── NothingFits           no variant is within the budget for a target; the command ends with 3
├── NoVariantMade         every variant failed or was refused; the command ends with 4
└── TaskFailed            a child process gave no result
    ├── TaskCrashed       it was ended by a signal, or ended itself
    ├── TaskTimedOut      it ran past its time limit and was killed
    ├── TaskOutOfMemory   it asked for more than its memory limit
    └── TaskRaised        its function raised
"""

from __future__ import annotations

import signal

from converter.findings import Findings
from converter.result import PackageResult

EXIT_DONE = 0
EXIT_BAD_INPUT = 2
EXIT_NOTHING_FITS = 3
EXIT_NO_VARIANT = 4


class ConverterError(Exception):
    """Base of everything that the converter refuses or reports."""


class BadInput(ConverterError):
    """What the user gave can't be worked with."""


class OptionInvalid(BadInput):
    """An option is out of its bounds; the message says the option, the bound and the value."""


class SourceInvalid(BadInput):
    """There is no SavedModel there, or it lacks what was asked for, or it can't run."""


class DataInvalid(BadInput):
    """Calibration or evaluation data, labels or preprocessing don't fit the model."""


class ToolMissing(BadInput):
    """A library that the step needs is not installed."""


class VariantUnusable(ConverterError):
    """The file of a variant can't stand in for the original: other names, another batch axis, impossible values."""


class OperatorsUnsupported(VariantUnusable):
    """The model has operators that LiteRT lacks; the message names each, the layers it comes from and a way out."""


class NothingFits(ConverterError):
    """Variants were made, but for some target none is within the budget; nothing was published.

    Attributes:
        result: What became of each variant; the message says what came closest.
        findings: What was found out about them.
    """

    def __init__(self, message: str, result: PackageResult, findings: Findings) -> None:
        super().__init__(message)
        self.result = result
        self.findings = findings


class NoVariantMade(ConverterError):
    """Nothing could be published; the message lists each variant with its reason.

    Attributes:
        result: What became of each variant.
    """

    def __init__(self, message: str, result: PackageResult) -> None:
        super().__init__(message)
        self.result = result


class TaskFailed(ConverterError):
    """A child process gave no result.

    Attributes:
        log: The end of what the child wrote to its output and error streams.
    """

    def __init__(self, message: str, *, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class TaskCrashed(TaskFailed):
    """The child was ended by a signal, or ended without giving a result.

    Attributes:
        exit_code: As of `multiprocessing.Process`: the negative signal number, or what it exited with.
    """

    def __init__(self, *, exit_code: int, log: str = "") -> None:
        super().__init__(_ending(exit_code), log=log)
        self.exit_code = exit_code


class TaskTimedOut(TaskFailed):
    """The child ran past its time limit and was killed."""


class TaskOutOfMemory(TaskFailed):
    """The child asked for more memory than its limit."""


class TaskRaised(TaskFailed):
    """The function raised; the message holds the exception's type and text, `log` its traceback."""


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code} and no result"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = " (so the kernel ends a process when memory runs out)" if -exit_code == signal.SIGKILL else ""
    return f"its process was killed by {name}{hint}"
