"""What can go wrong on the server, named by fault; a transport translates them once, at its rim.

ServerError
├── InvalidInput          the request is at fault: a name, dtype, shape, value or label
├── SignatureNotFound     the version has no such signature
├── ModelNotFound         no such model or version here, or nothing of it could be loaded
├── NotReady              it will serve, or has served: wait or go elsewhere
│   ├── VersionNotReady   the version is loading or unloading
│   └── ServerStopping    the server takes no new work
├── QueueFull             refused at the door: more is waiting than is allowed
├── DeadlineExceeded      the caller's deadline passed before the answer
├── RequestCancelled      the caller is gone; nobody reads the answer
├── ExecutionFailed       the model failed on its own; the cause is in the log
└── LoadFailed            a version can't be loaded; seen in its status
"""


class ServerError(Exception):
    """Base of everything below. The text is meant for the caller."""


class InvalidInput(ServerError):
    """The same request would fail anywhere."""


class SignatureNotFound(ServerError):
    """The caller believes in a signature that this version doesn't have."""


class ModelNotFound(ServerError):
    """Another server may have it."""


class NotReady(ServerError):
    """Temporary, and nothing was run."""


class VersionNotReady(NotReady):
    """The text names the version's state."""


class ServerStopping(NotReady):
    """The server is on its way out."""


class QueueFull(ServerError):
    """The text names the bound."""


class DeadlineExceeded(ServerError):
    """The request was not run."""


class RequestCancelled(ServerError):
    """The request was not run."""


class ExecutionFailed(ServerError):
    """The text gives no detail away: what went wrong is the operator's to read."""


class LoadFailed(ServerError):
    """The text says which file or part is at fault."""
