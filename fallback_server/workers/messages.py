"""What the first process and its workers say to each other, as msgpack; `channel` tells how it travels."""

from __future__ import annotations

import msgspec

from fallback_server.access.revocations import Trust
from fallback_server.access.rules import AccessRules
from fallback_server.batching.options import BatchingOptions
from fallback_server.config import TlsFiles
from fallback_server.counts import Gauge, MetricCounts, StatisticCounts
from fallback_server.workers.views import ModelRoutes

FIGURES_S = 1.0
"""Between two words of a worker."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all that is said."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what, and what TLS is spoken with.

    Attributes:
        rules: Who may do what.
        trust: Which certificates count.
        tls: What TLS is spoken with; None for plain text.
    """

    rules: AccessRules
    trust: Trust = Trust()
    tls: TlsFiles | None = None


class Begin(Message, frozen=True, kw_only=True):
    """To a worker, the first that it is told, with the memory of the `Epoch`: listen, and answer.

    Attributes:
        index: Its number, from 1.
        host: See `NetworkOptions`; likewise all that is not told here.
        port: Where the first process listens.
        native: What speaks gRPC; see `native.choice`.
        passes_to: The UNIX socket of the first process: whatever a worker doesn't answer goes there.
        secret: By which the first process believes who calls; see `transport.callers`.
        access: At the start; a `View` says when it is another.
        asks: Whether anybody need be asked who calls.
        inline_s: See `GrpcServer`.
        batching: How requests of all models are merged.
        check_method_names: See `ServerOptions`.
        log_level: What is logged.
    """

    index: int
    host: str
    port: int
    native: bool
    passes_to: str
    secret: bytes
    access: Access
    asks: bool = False
    max_message_bytes: int = 2**31 - 1
    message_threads: int = 2
    channel_arguments: tuple[tuple[str, int | str], ...] = ()
    tensor_content: bool = False
    inline_s: float = 1e-3
    batching: BatchingOptions
    check_method_names: bool = False
    log_level: int = 20


class Host(Message, frozen=True, kw_only=True):
    """To a worker, with the sealed file of a version's LiteRT form: load it. It answers once a `View` says so.

    Attributes:
        number: Of this load: a version may be loaded anew while what was loaded before still answers.
        name: The model.
        version: Its number.
        batching: How its requests are merged.
        rows: See `RunSizes`.
        threads: See `RunSizes`.
        run_threads: Of one run, as the first process found it best.
        whole: Signatures whose requests must not be merged.
        methods: Signature name -> its method.
        signature_defs: All signatures, as clients ask for them.
        fingerprint: Of its package; empty for none.
        preprocessing_fingerprint: Likewise.
    """

    number: int
    name: str
    version: int
    batching: BatchingOptions
    rows: tuple[int, ...]
    threads: int
    run_threads: int
    whole: tuple[str, ...]
    methods: dict[str, str]
    signature_defs: bytes
    fingerprint: str = ""
    preprocessing_fingerprint: str = ""


class Drop(Message, frozen=True, kw_only=True):
    """To a worker: what was loaded under a number is unloaded, once no request has it any more."""

    number: int


class View(Message, frozen=True, kw_only=True):
    """To a worker: who answers what. It holds while the epoch is this one.

    Attributes:
        epoch: See `Epoch`.
        models: Those that have changed.
        gone: Those that workers don't answer any more.
        access: Where that has changed.
    """

    epoch: int
    models: dict[str, ModelRoutes]
    gone: tuple[str, ...] = ()
    access: Access | None = None


class Drain(Message, frozen=True, kw_only=True):
    """To a worker: refuse what comes, and answer what is in flight."""

    grace_s: float


class End(Message, frozen=True, kw_only=True):
    """To a worker: end."""


class Listening(Message, frozen=True, kw_only=True):
    """From a worker: it takes connections."""


class Hosted(Message, frozen=True, kw_only=True):
    """From a worker: what it was told to load is loaded, or why not."""

    number: int
    why_not: str = ""


class Figures(Message, frozen=True, kw_only=True):
    """From a worker, every `FIGURES_S`, and at the end: what it has done since the last. Also its sign of life.

    Attributes:
        turned: Whether its event loop has turned for this. Only then is it a sign of life: other threads live on where
            that hangs, and clients get no answers.
        gauges: By the number of a load.
        statistics: Likewise; of those that did something.
        metrics: None where nothing was done.
    """

    turned: bool = False
    gauges: dict[int, Gauge] = {}
    statistics: dict[int, StatisticCounts] = {}
    metrics: MetricCounts | None = None


class Drained(Message, frozen=True, kw_only=True):
    """From a worker: nothing is in flight any more, or the grace is over."""
