"""Rules and traits as English sentences, for `validate`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from audience_sync.config.model import Audience, Trait
from audience_sync.config.rules import All, Any_, Did, First, Has, In, Last, Not, Occurrence, Rule, Test, Then, Window


def in_words(computed: Audience | Trait) -> str:
    """`everyone who did Order Completed in the last 30 days`."""
    if isinstance(computed, Trait):
        return _trait(computed)
    if computed.who is not None:
        return "everyone " + _whose(computed.who)
    if computed.table is not None:
        return f"everyone listed in the table {computed.table.name}{_with(computed.table.where)}"
    return "everyone whom its SQL gives" + _followed(computed)


def _followed(computed: Audience | Trait) -> str:
    return f", followed by {computed.changed_since}" if computed.changed_since is not None else ""


def rule_in_words(rule: Rule) -> str:
    """`did Order Completed in the last 30 days`: what is said of one who is in the rule."""
    if isinstance(rule, Did):
        return _did(rule)
    if isinstance(rule, Has):
        return "has " + _and(f"{name} {_test(test)}" for name, test in rule.has.items())
    if isinstance(rule, In):
        return f"is in {rule.in_}"
    if isinstance(rule, First):
        return f"did {_occurrence(rule.first)} for the first time"
    if isinstance(rule, Last):
        return f"did {_occurrence(rule.last)} for the last time"
    if isinstance(rule, Then):
        return _then(rule)
    if isinstance(rule, Not):
        return _not(rule.not_)
    if isinstance(rule, All):
        return ", and ".join(_nested(part) for part in rule.all_)
    return ", or ".join(_nested(part) for part in rule.any_)


def _whose(rule: Rule) -> str:
    """With its pronoun: `who did X`, `whose country is DE`, and so on through `all` and `any`."""
    if isinstance(rule, Has):
        return "whose " + _and(f"{name} {_is(test)}" for name, test in rule.has.items())
    if isinstance(rule, All):
        return ", and ".join(_bracketed(part) for part in rule.all_)
    if isinstance(rule, Any_):
        return ", or ".join(_bracketed(part) for part in rule.any_)
    return "who " + rule_in_words(rule)


def _bracketed(rule: Rule) -> str:
    return f"({_whose(rule)})" if _is_compound(rule) else _whose(rule)


def _nested(rule: Rule) -> str:
    return f"({rule_in_words(rule)})" if _is_compound(rule) else rule_in_words(rule)


def _is_compound(rule: Rule) -> bool:
    return (isinstance(rule, All) and len(rule.all_) > 1) or (isinstance(rule, Any_) and len(rule.any_) > 1)


def _not(inner: Rule) -> str:
    if isinstance(inner, In):
        return f"is not in {inner.in_}"
    if isinstance(inner, Did) and set(inner.model_fields_set) <= {
        "did",
        "within",
        "between",
        "since",
        "until",
        "where",
    }:
        return f"did not do {_occurrence(inner)}"
    return f"is not one {_bracketed(inner)}"


def _did(rule: Did) -> str:
    what, when = rule.did + _with(rule.where), _window(rule)
    if rule.exactly == 0 or rule.at_most == 0:
        text = f"did not do {what}{when}"
    elif rule.exactly is not None:
        text = f"did {what} exactly {_times(rule.exactly)}{when}"
    elif rule.at_most is not None:
        least = f"at least {_times(rule.at_least)} and " if rule.at_least else ""
        text = f"did {what} {least}at most {_times(rule.at_most)}{when}"
    elif (rule.at_least or 1) > 1:
        text = f"did {what} at least {_times(rule.at_least or 1)}{when}"
    else:
        text = f"did {what}{when}"
    totals = []
    for word, title in (("sum", "a total"), ("avg", "an average"), ("min", "a smallest"), ("max", "a largest")):
        totals += [f"{title} {name} {_test(test)}" for name, test in (getattr(rule, word) or {}).items()]
    return text + (f", with {_and(totals)}" if totals else "")


def _then(rule: Then) -> str:
    parts = []
    for number, step in enumerate(rule.then):
        within = step.within if number else None
        seen = step if within is None else step.model_copy(update={"within": None})
        parts.append(_occurrence(seen) + (f" less than {within} after that" if within is not None else ""))
    return "did " + ", and then ".join(parts)


def _occurrence(rule: Occurrence) -> str:
    return rule.did + _with(rule.where) + _window(rule)


def _trait(trait: Trait) -> str:
    if trait.function == "sql":
        return "for each user, the value that its SQL gives" + _followed(trait)
    what = {
        "count": f"how often they did {trait.event}",
        "sum": f"the total {trait.property} of {trait.event}",
        "avg": f"the average {trait.property} of {trait.event}",
        "min": f"the smallest {trait.property} of {trait.event}",
        "max": f"the largest {trait.property} of {trait.event}",
        "most_frequent": f"the most frequent {trait.property} of {trait.event}",
        "first": f"the {trait.property} of their first {trait.event}",
        "last": f"the {trait.property} of their last {trait.event}",
        "unique_list": f"the list of every {trait.property} of {trait.event}",
        "unique_count": f"how many different values {trait.property} of {trait.event} has",
    }[trait.function]
    return f"for each user, {what}{_with(trait.where)}{_window(trait)}"


def _window(window: Window) -> str:
    text = ""
    if window.within is not None:
        text += f" in the last {window.within}"
    if window.between is not None:
        text += f" between {window.between[0]} and {window.between[1]} ago"
    if window.since is not None:
        text += f" since {_moment(window.since)}"
    if window.until is not None:
        text += f" until {_moment(window.until)}"
    return text


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d") if moment.time() == moment.min.time() else moment.strftime("%Y-%m-%d %H:%M UTC")


def _with(tests: dict[str, Test] | None) -> str:
    return " with " + _and(f"{name} {_test(test)}" for name, test in tests.items()) if tests else ""


def _test(test: Test) -> str:
    """After a noun: `with revenue of 50 or more`."""
    shown: dict[str, Callable[[Any], str]] = {
        "eq": lambda v: f"{v}",
        "ne": lambda v: f"other than {v}",
        "gt": lambda v: f"over {v}",
        "gte": lambda v: f"of {v} or more",
        "lt": lambda v: f"under {v}",
        "lte": lambda v: f"of {v} or less",
        "in_": lambda v: _either(v),
        "not_in": lambda v: f"other than {_either(v)}",
        "contains": lambda v: f"containing {v!r}",
        "starts_with": lambda v: f"starting with {v!r}",
        "ends_with": lambda v: f"ending with {v!r}",
        "exists": lambda v: "given" if v else "missing",
        "before": lambda v: f"before {_moment(v)}",
        "after": lambda v: f"after {_moment(v)}",
        "within": lambda v: f"in the last {v}",
        "anniversary": lambda v: f"with its day of the year in the next {v}",
    }
    return _said(test, shown)


def _is(test: Test) -> str:
    """After a subject: `whose country is DE or AT`."""
    shown: dict[str, Callable[[Any], str]] = {
        "eq": lambda v: f"is {v}",
        "ne": lambda v: f"is not {v}",
        "gt": lambda v: f"is over {v}",
        "gte": lambda v: f"is {v} or more",
        "lt": lambda v: f"is under {v}",
        "lte": lambda v: f"is {v} or less",
        "in_": lambda v: f"is {_either(v)}",
        "not_in": lambda v: f"is not {_either(v)}",
        "contains": lambda v: f"contains {v!r}",
        "starts_with": lambda v: f"starts with {v!r}",
        "ends_with": lambda v: f"ends with {v!r}",
        "exists": lambda v: "is known" if v else "is not known",
        "before": lambda v: f"is before {_moment(v)}",
        "after": lambda v: f"is after {_moment(v)}",
        "within": lambda v: f"is in the last {v}",
        "anniversary": lambda v: f"comes round in the next {v}",
    }
    return _said(test, shown)


def _said(test: Test, shown: dict[str, Callable[[Any], str]]) -> str:
    return _and(say(getattr(test, word)) for word, say in shown.items() if getattr(test, word) is not None)


def _and(parts: Any) -> str:
    return " and ".join(parts)


def _either(values: list[object]) -> str:
    words = [str(value) for value in values]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else "nothing"
