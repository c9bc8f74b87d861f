"""Who may do what: the pure part."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback_server.access.rules import (
    EVERYBODY,
    EVERYTHING,
    AccessRules,
    Grants,
    Kind,
    Principal,
    Scope,
    Token,
    allows_all,
    allows_any,
    key_of,
    matches,
    sight,
)

TEXTS = st.text("ab*", max_size=12)


@given(TEXTS, st.text("ab", max_size=12))
def test_a_star_stands_for_any_characters(pattern, name):
    """A pattern matches what the regular expression matches that has `.*` for each star."""
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert matches(pattern, name) == bool(re.fullmatch(expression, name, re.DOTALL))


@given(st.text(max_size=20))
def test_a_name_without_stars_matches_itself(name):
    """And nothing that is longer."""
    if "*" not in name:
        assert matches(name, name)
        assert not matches(name, name + "x")


PATTERNS = st.lists(st.text("ab*", min_size=1, max_size=4), max_size=3).map(tuple)
GRANTS = st.builds(Grants, predict=PATTERNS, status=PATTERNS, admin=PATTERNS)
NAMES = st.sampled_from(["a", "b", "ab", "ba", "aab"])
KEYS = st.builds(key_of, st.sampled_from([Kind.TOKEN, Kind.CERTIFICATE]), NAMES)


@given(GRANTS, GRANTS, st.dictionaries(NAMES, st.lists(KEYS).map(tuple)), NAMES, NAMES, st.sampled_from(Scope))
def test_showing_something_never_takes_anything_away(anonymous, more, only, who, model, scope):
    """Whoever is known may do all that callers may who show nothing."""
    rules = AccessRules(
        anonymous=anonymous, tokens={"d": Token(name=who, grants=more)}, certificates={who: more}, only=only
    )
    if rules.allows(rules.nobody(), scope, model):
        assert rules.allows(rules.bearer("d"), scope, model)
        assert rules.allows(rules.certified(who), scope, model)


@given(GRANTS, st.lists(KEYS).map(tuple), NAMES, NAMES, st.sampled_from(Scope))
def test_a_models_own_rule_lets_nobody_else_in(grants, only, who, model, scope):
    """Only those may whom it names, and they no more than they are granted."""
    known = {"d": Token(name=who, grants=grants)}
    rules = AccessRules(anonymous=grants, certificates={"*": grants}, tokens=known, only={model: only})
    free = AccessRules(anonymous=grants, certificates={"*": grants})
    assert not rules.allows(rules.nobody(), scope, model)
    may = free.allows(free.certified(who), scope, model)
    assert rules.allows(rules.certified(who), scope, model) == (f"certificate:{who}" in only and may)
    assert rules.allows(rules.bearer("d"), scope, model) == (f"token:{who}" in only and may)


def test_what_concerns_every_model_is_for_those_whom_no_model_keeps_out():
    """A star is not enough where a model has a rule of its own."""
    all_of_them = Grants(status=("*",))
    rules = AccessRules(
        anonymous=all_of_them, certificates={"*": all_of_them}, only={"payroll": ("certificate:press-7",)}
    )
    assert not allows_all(rules, rules.nobody(), Scope.STATUS)
    assert not allows_all(rules, rules.certified("press-8"), Scope.STATUS)
    assert allows_all(rules, rules.certified("press-7"), Scope.STATUS)
    assert not allows_all(rules, rules.certified("press-7"), Scope.ADMIN)
    free = AccessRules(anonymous=all_of_them)
    assert allows_all(free, free.nobody(), Scope.STATUS)


@given(GRANTS, NAMES)
def test_the_machines_operator_may_do_everything(grants, model):
    """Whatever the rules say of a model."""
    rules = AccessRules(anonymous=grants, only={model: ()})
    operator = Principal(name="", kind=Kind.LOCAL, grants=Grants())
    assert all(rules.allows(operator, scope, model) for scope in Scope)
    assert allows_all(rules, operator, Scope.ADMIN)
    assert allows_any(operator, Scope.STATUS)


@given(GRANTS, GRANTS, st.dictionaries(NAMES, st.lists(KEYS).map(tuple)), NAMES, NAMES)
def test_who_has_one_sight_sees_the_same(one, other, only, who, whom):
    """So that a list that is made for one may be given to the other."""
    rules = AccessRules(certificates={who: one, whom: other}, only=only)
    callers = [rules.nobody(), rules.certified(who), rules.certified(whom)]
    for first in callers:
        for second in callers:
            if sight(rules, first) == sight(rules, second):
                seen = [[rules.allows(each, Scope.STATUS, name) for name in "ab"] for each in (first, second)]
                assert seen[0] == seen[1]


def test_several_patterns_of_certificates_add_up():
    """A certificate has what every pattern that its name matches gives."""
    rules = AccessRules(
        certificates={"press-*": Grants(predict=("a",)), "*-7": Grants(status=("b",)), "other": Grants(admin=("*",))}
    )
    assert rules.certified("press-7").grants == Grants(predict=("a",), status=("b",))
    assert rules.bearer("unknown") is None


@pytest.mark.parametrize(
    ("rules", "open_"),
    [
        (AccessRules(anonymous=EVERYBODY), True),
        (AccessRules(anonymous=Grants(predict=("*", "a"), status=EVERYTHING)), True),
        (AccessRules(anonymous=Grants(predict=EVERYTHING)), False),
        (AccessRules(anonymous=Grants(predict=("a*",), status=EVERYTHING)), False),
        (AccessRules(anonymous=EVERYBODY, only={"m": ()}), False),
        (AccessRules(), False),
    ],
)
def test_rules_are_open_where_nobody_need_be_asked(rules, open_):
    """Everybody may run and see everything, and no model has a rule of its own."""
    assert rules.open is open_
