"""Who calls, by what is shown, and what is refused."""

import pytest

from fallback_server.access.attempts import Attempts, Reason
from fallback_server.access.certificates import Certificate
from fallback_server.access.guard import Guard, Shown, rules_without_file, with_control
from fallback_server.access.revocations import Trust
from fallback_server.access.rules import EVERYBODY, EVERYTHING, AccessRules, Grants, Scope, Token
from fallback_server.access.tokens import digest_of
from fallback_server.core.errors import PermissionDenied, Unauthenticated

RULES = AccessRules(
    tokens={
        digest_of("t-line"): Token(name="line-3", grants=Grants(predict=("press-*",), status=EVERYTHING)),
        digest_of("t-admin"): Token(name="release", grants=Grants(admin=EVERYTHING)),
    },
    certificates={"press-*": Grants(predict=("press-*",))},
    only={"press-secret": ("certificate:press-7", "token:release")},
)


def certificate(name="press-7", serial="7", until_s=1000.0, issuer=":"):
    return Certificate(name=name, serial=serial, until_s=until_s, issuer=issuer)


def guard_of(rules=RULES, **options):
    return Guard(rules, wall=lambda: 500.0, **options)


def test_who_is_a_stranger():
    """Whoever shows nothing that counts, where others may show something."""
    guard = guard_of(trust=Trust(revoked={":": frozenset({"d"})}))
    shown = (Shown(), Shown(token="t-wrong"), Shown(certificate=certificate(serial="d")))
    assert [guard.is_stranger(each) for each in shown] == [True] * 3
    assert not any(guard.is_stranger(each) for each in (Shown(token="t-line"), Shown(certificate=certificate())))
    assert not Guard(rules_without_file(certified=False, control=False)).is_stranger(Shown())


def test_what_is_granted_is_let_in():
    """By token, and by certificate."""
    guard = guard_of()
    guard.admit(Shown(token="t-line"), Scope.PREDICT, ["press-a", "press-b"])
    guard.admit(Shown(certificate=certificate()), Scope.PREDICT, ["press-a", "press-secret"])
    guard.admit_all(Shown(token="t-admin"), Scope.ADMIN, "Reload")
    guard.admit_any(Shown(token="t-line"), Scope.STATUS, "ServerMetadata")


@pytest.mark.parametrize(
    ("shown", "error", "words", "reason"),
    [
        (Shown(), Unauthenticated, "shows nothing", Reason.NOTHING_SHOWN),
        (Shown(token="t-wrong"), Unauthenticated, "not known here", Reason.UNKNOWN_TOKEN),
        (Shown(token="t-admin"), PermissionDenied, "token 'release' may not run", Reason.NOT_ALLOWED),
        (
            Shown(certificate=certificate("drill-1")),
            PermissionDenied,
            "certificate 'drill-1' may not run model 'press-a'",
            Reason.NOT_ALLOWED,
        ),
        (Shown(certificate=certificate(serial="d")), Unauthenticated, "number d, is revoked", Reason.REVOKED),
        (Shown(certificate=certificate(until_s=499.0)), Unauthenticated, "has expired", Reason.EXPIRED),
        # A token helps nobody whose connection is worth nothing any more.
        (Shown(token="t-line", certificate=certificate(serial="d")), Unauthenticated, "revoked", Reason.REVOKED),
    ],
)
def test_refusals_say_who_and_what_and_never_the_token(shown, error, words, reason):
    """And are counted by reason."""
    guard = guard_of(trust=Trust(revoked={":": frozenset({"d"})}))
    with pytest.raises(error, match=words) as caught:
        guard.admit(shown, Scope.PREDICT, ["press-a"])
    assert shown.token is None or shown.token not in str(caught.value)
    assert guard.attempts.counts() == {each: int(each is reason) for each in Reason}


def test_an_unknown_token_takes_nothing_away():
    """What everybody may do it may as well: proxies add headers of theirs."""
    guard = guard_of(AccessRules(anonymous=EVERYBODY))
    guard.admit(Shown(token="of somebody else's"), Scope.PREDICT, ["m"])
    with pytest.raises(Unauthenticated):
        guard.admit_all(Shown(token="of somebody else's"), Scope.ADMIN, "Reload")


def test_the_machines_operator_is_known_by_the_local_token():
    """Which no rule names; without one nobody has it."""
    guard = guard_of()
    with pytest.raises(Unauthenticated):
        guard.admit_all(Shown(token="t-local"), Scope.ADMIN, "Reload")
    guard.local = digest_of("t-local")
    guard.admit_all(Shown(token="t-local"), Scope.ADMIN, "Reload")
    guard.admit(Shown(token="t-local"), Scope.ADMIN, ["press-secret"])
    assert guard.who(Shown(token="t-local", peer="ipv4:1:2")) == "the operator of this machine, ipv4:1:2"
    assert guard.who(Shown(peer="ipv4:1:2")) == "ipv4:1:2"


def test_lists_leave_out_what_may_not_be_seen():
    """By the status that is granted, and models' own rules."""
    guard = guard_of()
    names = ["press-a", "press-secret", "other"]
    assert [name for name in names if guard.seen_by(Shown(token="t-line"))(name)] == ["press-a", "other"]
    assert not any(map(guard.seen_by(Shown()), names))


def test_new_rules_hold_at_once():
    """For whoever was let in a moment ago too."""
    guard = guard_of()
    shown = Shown(certificate=certificate())
    guard.admit(shown, Scope.PREDICT, ["press-a"])
    guard.take(AccessRules(), Trust())
    with pytest.raises(PermissionDenied):
        guard.admit(shown, Scope.PREDICT, ["press-a"])
    guard.take(RULES, Trust(revoked={":": frozenset({"7"})}))
    with pytest.raises(Unauthenticated, match="revoked"):
        guard.admit(shown, Scope.PREDICT, ["press-a"])


def test_a_nameless_request_is_for_whoever_answers_to_refuse():
    """Where the caller may run something; others learn nothing."""
    guard = guard_of()
    guard.admit(Shown(token="t-line"), Scope.PREDICT, [""])
    with pytest.raises(Unauthenticated):
        guard.admit(Shown(), Scope.PREDICT, [""])


def test_without_a_file_certificates_let_in_where_they_are_asked_for():
    """Else everybody may run and see, and nobody may change, unless that was said."""
    free, strict = (Guard(rules_without_file(certified=each, control=False)) for each in (False, True))
    free.admit(Shown(), Scope.PREDICT, ["m"])
    with pytest.raises(Unauthenticated):
        strict.admit(Shown(), Scope.PREDICT, ["m"])
    strict.admit(Shown(certificate=certificate(until_s=float("inf"))), Scope.STATUS, ["m"])
    for guard in (free, strict):
        with pytest.raises(Unauthenticated):
            guard.admit(Shown(), Scope.ADMIN, ["m"])
    Guard(rules_without_file(certified=False, control=True)).admit_all(Shown(), Scope.ADMIN, "Reload")
    assert with_control(RULES, control=True).only == RULES.only


def test_the_log_tells_of_a_caller_once_a_second(caplog):
    """And of all together of ten; the others are counted in the next line."""
    now = [0.0]
    attempts = Attempts(clock=lambda: now[0])
    for _ in range(5):
        attempts.note(Reason.NOT_ALLOWED, "ipv4:10.0.0.7", "no\nmore")
    assert [record.message for record in caplog.records] == ["refused ipv4:10.0.0.7: no\\nmore"]
    now[0] = 2.0
    attempts.note(Reason.NOT_ALLOWED, "ipv4:10.0.0.7", "no")
    assert "(4 more were refused since the last line)" in caplog.messages[-1]
    for index in range(2000):
        attempts.note(Reason.REVOKED, f"ipv4:{index}", "no")
    assert len(caplog.records) == 11
    assert attempts.counts()[Reason.REVOKED] == 2000
    for index in range(3000):
        now[0] += 1
        attempts.note(Reason.REVOKED, f"ipv4:{index}", "no")
    assert len(attempts._told) <= 1024
