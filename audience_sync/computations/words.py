"""Rules as English sentences, for `validate`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from audience_sync.config.model import Audience, Trait
from audience_sync.config.rules import All, Any_, Did, Has, In, Not, Rule, Test


def in_words(computed: Audience | Trait) -> str:
    """`everyone who did Order Completed in the last 30 days`."""
    if isinstance(computed, Trait):
        return "for each user, the value that its SQL gives"
    if computed.who is not None:
        return "everyone who " + _rule(computed.who)
    if computed.table is not None:
        tests = _tests(computed.table.where or {}, "with")
        return f"everyone listed in the table {computed.table.name}{tests}"
    return "everyone whom its SQL gives"


def _rule(rule: Rule) -> str:
    if isinstance(rule, Did):
        return _did(rule)
    if isinstance(rule, Has):
        return "has " + _tests(rule.has, "").strip()
    if isinstance(rule, In):
        return f"is in {rule.in_}"
    if isinstance(rule, Not):
        inner = rule.not_
        if isinstance(inner, In):
            return f"is not in {inner.in_}"
        return f"is not one who {_nested(inner)}"
    parts = rule.all_ if isinstance(rule, All) else rule.any_
    word = ", and who " if isinstance(rule, All) else ", or who "
    return word.join(_nested(part) for part in parts)


def _nested(rule: Rule) -> str:
    return f"({_rule(rule)})" if isinstance(rule, (All, Any_)) else _rule(rule)


def _did(rule: Did) -> str:
    if rule.exactly == 0 or rule.at_most == 0:
        text = f"did not do {rule.did}"
    elif rule.exactly is not None:
        text = f"did {rule.did} exactly {_times(rule.exactly)}"
    elif rule.at_most is not None:
        least = f"at least {_times(rule.at_least)} and " if rule.at_least else ""
        text = f"did {rule.did} {least}at most {_times(rule.at_most)}"
    elif (rule.at_least or 1) > 1:
        text = f"did {rule.did} at least {_times(rule.at_least or 1)}"
    else:
        text = f"did {rule.did}"
    if rule.within is not None:
        text += f" in the last {rule.within}"
    if rule.between is not None:
        text += f" between {rule.between[0]} and {rule.between[1]} ago"
    if rule.since is not None:
        text += f" since {_moment(rule.since)}"
    if rule.until is not None:
        text += f" until {_moment(rule.until)}"
    text += _tests(rule.where or {}, "with")
    for word, title in (
        ("sum", "a total"),
        ("avg", "an average"),
        ("min", "a smallest"),
        ("max", "a largest"),
    ):
        for name, test in (getattr(rule, word) or {}).items():
            text += f", with {title} {name} {_test(test)}"
    return text


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d") if moment.time() == moment.min.time() else moment.strftime("%Y-%m-%d %H:%M UTC")


def _tests(tests: dict[str, Test], word: str) -> str:
    if not tests:
        return ""
    return f" {word} " + " and ".join(f"{name} {_test(test)}" for name, test in tests.items())


def _test(test: Test) -> str:
    shown: dict[str, Callable[[Any], str]] = {
        "eq": lambda v: f"{v}",
        "ne": lambda v: f"other than {v}",
        "gt": lambda v: f"over {v}",
        "gte": lambda v: f"of {v} or more",
        "lt": lambda v: f"under {v}",
        "lte": lambda v: f"of {v} or less",
        "in_": lambda v: _either(v),
        "not_in": lambda v: f"none of {_either(v)}",
        "contains": lambda v: f"containing {v!r}",
        "starts_with": lambda v: f"starting with {v!r}",
        "ends_with": lambda v: f"ending with {v!r}",
        "exists": lambda v: "given" if v else "missing",
        "before": lambda v: f"before {_moment(v)}",
        "after": lambda v: f"after {_moment(v)}",
        "within": lambda v: f"in the last {v}",
    }
    return " and ".join(say(getattr(test, word)) for word, say in shown.items() if getattr(test, word) is not None)


def _either(values: list[object]) -> str:
    words = [str(value) for value in values]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else "nothing"
