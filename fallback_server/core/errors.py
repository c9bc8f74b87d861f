"""What can go wrong on the server, named by fault; a transport translates them once, at its rim.

ServerError
├── InvalidInput          the request is at fault: a name, dtype, shape, value or label
│   └── ConfigRefused     a configuration that can't be served: nothing of it was applied
├── SignatureNotFound     the version has no such signature
├── PreconditionFailed    the request is sound, and does not fit what is loaded here
│   └── LabelRefused      a label can't be moved there
├── Unauthenticated       nobody knows who calls, or what is shown for it is worth nothing
├── PermissionDenied      the operator of this server does not allow it to who calls
├── Unimplemented         the server has no such thing
├── ModelNotFound         no such model or version here, or nothing of it could be loaded
├── NotReady              it will serve, or has served: wait or go elsewhere
│   ├── VersionNotReady   the version is loading or unloading
│   └── ServerStopping    the server takes no new work
├── NotServed             a configuration was taken, and a model of it can't be loaded
├── QueueFull             refused at the door: more is waiting than is allowed
├── DeadlineExceeded      the caller's deadline passed before the answer
├── RequestCancelled      the caller is gone; nobody reads the answer
├── ExecutionFailed       the model failed on its own; the cause is in the log
│   └── ProcessLost       the model's process ended while it ran
├── DataLost              what is to be handed over can't be read to its end any more
└── LoadFailed            a version can't be loaded; seen in its status
    ├── NoMemory          it would not fit into memory
    └── VersionRefused    its files are at fault: the same ones would fail again
        └── ArchiveRefused    its archive is damaged, unsafe or no version
"""


class ServerError(Exception):
    """Base of everything below. The text is meant for the caller."""


class InvalidInput(ServerError):
    """The same request would fail anywhere."""


class ConfigRefused(InvalidInput):
    """The text names the model and the setting."""


class SignatureNotFound(ServerError):
    """The caller believes in a signature that this version doesn't have."""


class PreconditionFailed(ServerError):
    """The text names what is loaded."""


class LabelRefused(PreconditionFailed):
    """The text names label, version and model."""


class Unauthenticated(ServerError):
    """The text names what is needed, and never what was shown."""


class PermissionDenied(ServerError):
    """The text names who calls and what was asked for, or the flag that would allow it."""


class Unimplemented(ServerError):
    """The text names what was asked for."""


class ModelNotFound(ServerError):
    """Another server may have it."""


class NotReady(ServerError):
    """Temporary, and nothing was run."""


class VersionNotReady(NotReady):
    """The text names the version's state."""


class ServerStopping(NotReady):
    """The server is on its way out."""


class NotServed(ServerError):
    """The text names the models, and what their loads said."""


class QueueFull(ServerError):
    """The text names the bound."""


class DeadlineExceeded(ServerError):
    """The request was not run."""


class RequestCancelled(ServerError):
    """The request was not run."""


class ExecutionFailed(ServerError):
    """The text gives no detail away: what went wrong is the operator's to read."""


class ProcessLost(ExecutionFailed):
    """The text says how it ended."""


class DataLost(ServerError):
    """The text says what, and how much of it is left."""


class LoadFailed(ServerError):
    """The text says which file or part is at fault."""


class NoMemory(LoadFailed):
    """The text says how much is needed, and how much there is."""


class VersionRefused(LoadFailed):
    """The text says which file, and what in it is at fault."""


class ArchiveRefused(VersionRefused):
    """The text says which archive, and what in it is at fault."""
