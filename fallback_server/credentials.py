"""What the server shows of itself, and knows of its callers, as it holds now: out of files that are watched."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fallback_server.access.certificates import CertificateReader
from fallback_server.access.file import read_access
from fallback_server.access.guard import Guard, with_control
from fallback_server.access.known_lists import KnownLists
from fallback_server.access.revocations import RevocationList, Trust, check_newer, day, read_lists, trust_in
from fallback_server.access.rules import AccessRules
from fallback_server.config import ConfigInvalid, NetworkOptions, TlsFiles
from fallback_server.config_file import read_tls
from fallback_server.poller import ConfigWatcher
from fallback_server.tls_files import CA, CERTIFICATE, CRL, KEY, has_fewer, read_tls_dir
from fallback_server.transport.tls import TlsKeeper

_log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks at the files; what is new is taken at the second that sees it, within two seconds."""

_SOON_S = 30 * 86_400.0
"""A certificate that ends before then is worth a warning."""


_LOOKS = 2

_DOUBTFUL_LOOKS = 10
"""So many in a row must see the same where that may be a part of what is meant, and nothing else tells."""

_LIST_SOON_S = 86_400.0
"""Lists of revoked certificates are made every few days, or hours."""


class Watched:
    """Files, and whether they hold something else than what was taken last.

    Two looks in a row must see the same: what is written in place, as by `cp` or some editors, is seen in part
    meanwhile, and half of the rules may allow what the whole forbids.

    Args:
        path: What they are called, for messages.
        files: All of them; one that is not there counts as such.
        also: What else is looked at, as text: another makes them others.
        doubtful: Whether what they hold may be a part of what is meant, though it is sound.
    """

    def __init__(
        self,
        path: Path,
        files: tuple[Path, ...],
        also: Callable[[], str] = str,
        doubtful: Callable[[], bool] = bool,
    ) -> None:
        self.path = path
        self._files = files
        self._also = also
        self._doubtful = doubtful
        self._looks = 0
        self._taken = (
            b""  # Until `begin` and what it gives are called: what was read before this was made may have changed.
        )
        self._seen = b""

    def has_changed(self) -> bool:
        """Whether they do, and did at the looks before as they do now."""
        before, self._seen = self._seen, self._digest()
        self._looks = self._looks + 1 if self._seen == before else 1
        if self._seen == self._taken or self._looks < _LOOKS:
            return False
        return self._looks >= _DOUBTFUL_LOOKS or not self._doubtful()

    def begin(self) -> Callable[[], Callable[[], None]]:
        """Before they are read.

        Returns:
            Is called when they were; what that gives, when what was read is in force.
        """
        digest = self._digest()

        def read() -> Callable[[], None]:
            if self._digest() != digest:
                raise ConfigInvalid(f"{self.path} is being written: it changed while it was read")
            return taken

        def taken() -> None:
            self._taken = digest

        return read

    def _digest(self) -> bytes:
        made = hashlib.sha256(self._also().encode())
        for file in self._files:
            try:
                content = file.read_bytes()
            except OSError as error:
                content = f"errno {error.errno}".encode()
            made.update(hashlib.sha256(content).digest())
        return made.digest()


class Credentials:
    """Lives from before a server listens until after it does no more. Any thread may call any method.

    Args:
        network: Which files there are, and what they hold.
        on_change: Called when something else is in force, before callers notice.
        wall: Seconds since 1970.

    Attributes:
        guard: Who may do what.
        tls: What is spoken; None for plain text.

    Raises:
        ConfigInvalid: the files are at fault.
    """

    def __init__(
        self,
        network: NetworkOptions,
        *,
        on_change: Callable[[], object] = lambda: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._network = network
        self._on_change = on_change
        self._wall = wall
        self._lock = threading.Lock()
        self._rules = network.rules
        tls = network.tls
        self._lists: tuple[RevocationList, ...] = ()
        trust = Trust()
        if tls is not None:
            self._lists = read_lists(tls.crl_pem, tls.client_ca_pem)
            trust = trust_in(tls.client_ca_pem, self._lists, trust)
        self._known = None if network.tls_state_file is None else KnownLists(network.tls_state_file)
        self._kept = True
        if self._known is not None and tls is not None:
            self._known.check(self._lists, tls.client_ca_pem)
        self.guard = Guard(self._rules, trust=trust, wall=wall)
        self.tls = None if tls is None else TlsKeeper(tls)
        self._tls_files = self._access_files = None
        self._watchers: list[ConfigWatcher] = []
        if tls is not None and network.tls_path is not None:
            files = _files_of(network.tls_path)
            self._tls_files = Watched(network.tls_path, files, self._ended, self._has_fewer)
            self._watchers.append(ConfigWatcher(self._tls_files, reload=self.reload_tls, wait_s=LOOK_S))
        if network.access_file is not None:
            self._access_files = Watched(network.access_file, (network.access_file,))
            self._watchers.append(ConfigWatcher(self._access_files, reload=self.reload_access, wait_s=LOOK_S))
        self._settle()

    @property
    def asks(self) -> bool:
        """Whether anybody need be asked who calls, to run or to see a model; it stays as it is at the start."""
        tls = self.tls
        return self._access_files is not None or not self._rules.open or (tls is not None and bool(tls.files.crl_pem))

    @property
    def rules(self) -> AccessRules:
        """Those that hold."""
        return self.guard.rules

    @property
    def trust(self) -> Trust:
        """Which clients' certificates count."""
        return self.guard.trust

    def start(self) -> None:
        """Looks at the files from now on."""
        for line in self.lines():
            _log.info("%s", line)
        if self.tls is not None:
            self._tell_ends(self.tls.files)
            self._keep()
        for watcher in self._watchers:
            watcher.start()

    def stop(self, *, timeout_s: float) -> None:
        """Looks no more."""
        for watcher in self._watchers:
            watcher.stop(timeout_s=timeout_s)

    def reload(self) -> None:
        """Takes all files anew.

        Raises:
            ConfigInvalid: some are at fault; what was in force of those, stays.
        """
        faults: list[str] = []
        for reload in (self.reload_tls, self.reload_access):
            try:
                reload()
            except ConfigInvalid as error:
                faults += error.faults
        if faults:
            raise ConfigInvalid(*faults)

    def reload_tls(self) -> None:
        """Takes key, certificates and what is revoked anew. Raises as `reload`."""
        if self._tls_files is None or self.tls is None:
            return
        with self._lock:
            read = self._tls_files.begin()
            path, before = self._tls_files.path, self.tls.files
            files = self._read_tls(path, before)
            if before.client_ca_pem and not files.client_ca_pem:
                raise ConfigInvalid(f"{path} has no {CA} any more, by which clients are known")
            if before.crl_pem and not files.crl_pem:
                raise ConfigInvalid(f"{path} has no {CRL} any more: those that it named would be let in again")
            if (before.client_verify, before.rest_clients) != (files.client_verify, files.rest_clients):
                raise ConfigInvalid(f"{path}: whether clients must show certificates changes by a restart alone")
            lists = read_lists(files.crl_pem, files.client_ca_pem)
            check_newer(lists, self._lists, files.client_ca_pem)
            taken = read()
            trust = trust_in(files.client_ca_pem, lists, self.guard.trust)
            self.tls.take(files, str(path))
            self.guard.take(self._rules, trust)
            self._lists = lists
            taken()
            self._keep()
        self._tell_ends(files)
        self._on_change()

    def reload_access(self) -> None:
        """Takes the rules anew. Raises as `reload`."""
        if self._access_files is None:
            return
        with self._lock:
            read = self._access_files.begin()
            rules = read_access(self._access_files.path)
            taken = read()
            self._rules = with_control(rules, control=self._network.allow_remote_control)
            self.guard.take(self._rules, self.guard.trust)
            taken()
        self._on_change()

    def lines(self) -> list[str]:
        """What holds, for the log."""
        network, tls = self._network, self.tls
        lines = []
        if tls is None:
            lines.append("plain text is spoken: whoever is on the way can read and change it")
        else:
            files = tls.files
            rest = {"require": "must", "allow": "may", "none": "need not"}.get(files.rest_clients or "", "")
            rest = f"REST speaks TLS, and its clients {rest} show one" if rest else "REST speaks plain text"
            verb = "must" if files.client_verify else "are not asked to"
            lines.append(f"gRPC speaks TLS, and its clients {verb} show a certificate; {rest}")
            if files.client_ca_pem and not files.crl_pem and network.tls_path is not None:
                lines.append("there is no list of revoked certificates: each is taken until it ends")
        if network.access_file is not None:
            lines.append(f"who may do what is as {network.access_file} says")
        if network.allow_remote_control:
            lines.append("callers who show nothing may change what is served: --allow_remote_control")
        if plain := network.plain_beyond():
            _log.warning(
                "--insecure: %s on %s in plain text, beyond this machine: everybody on the way may read requests, "
                "answers and tokens, and change them",
                " and ".join(plain),
                network.host,
            )
        return lines

    def _settle(self) -> None:
        """Has files that hold what is in force already count as taken, so that nobody is told that they have changed.

        They were read before this was made. What has come in between, or can't be read now, the first looks find.
        """
        tls, network = self.tls, self._network
        with contextlib.suppress(ConfigInvalid):
            if self._tls_files is not None and tls is not None:
                read = self._tls_files.begin()
                if self._read_tls(self._tls_files.path, tls.files) == tls.files:
                    read()()
        with contextlib.suppress(ConfigInvalid):
            if self._access_files is not None:
                read = self._access_files.begin()
                found = read_access(self._access_files.path)
                if with_control(found, control=network.allow_remote_control) == self._rules:
                    read()()

    def _keep(self) -> None:
        """Has it known after a restart which lists are in force."""
        if self._known is None:
            return
        try:
            self._known.keep(self._lists)
        except (OSError, ConfigInvalid) as error:
            if self._kept:
                _log.warning("after a restart an older list of revoked certificates would be taken: %s", error)
            self._kept = False
        else:
            self._kept = True

    def _read_tls(self, path: Path, before: TlsFiles) -> TlsFiles:
        if path.is_dir():
            return read_tls_dir(path, clients=self._network.tls_clients, tokens=not before.client_verify)
        return read_tls(path)

    def _has_fewer(self) -> bool:
        if self._tls_files is None or self.tls is None:
            return False
        before = self.tls.files
        try:
            return has_fewer(self._read_tls(self._tls_files.path, before), before)
        except ConfigInvalid:  # Whoever takes them is told.
            return False

    def _ended(self) -> str:
        """Which lists have ended: that another has is told, though no file has changed."""
        now_s = self._wall()
        return " ".join(each.issuer for each in self._lists if now_s > each.until_s)

    def _tell_ends(self, files: TlsFiles) -> None:
        now_s = self._wall()
        for each in self._lists:
            if now_s > each.until_s:
                _log.error(
                    "%s ended on %s: nobody can say who was revoked since, so no certificate of that authority is "
                    "taken until a later one is there",
                    each,
                    day(each.until_s),
                )
            elif each.until_s - now_s < _LIST_SOON_S:
                _log.warning(
                    "%s ends on %s; from then on no certificate of that authority is taken", each, day(each.until_s)
                )
        found = CertificateReader().read(files.certificate_pem)
        if found is None:
            return
        left_s = found.until_s - self._wall()
        until = day(found.until_s)
        if left_s < _SOON_S:
            _log.warning("the server's certificate ends on %s; a new one is taken without a restart", until)
        else:
            _log.info("the server's certificate ends on %s", until)


def _files_of(path: Path) -> tuple[Path, ...]:
    return tuple(path / name for name in (CERTIFICATE, KEY, CA, CRL)) if path.is_dir() else (path,)
