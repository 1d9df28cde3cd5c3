"""Reading jobs.yaml whole: every mistake in it is found and told at once, with its place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy.engine import make_url

from audience_sync.config.model import Audience, Config
from audience_sync.config.rules import RULE_WORDS, All, Any_, Did, Has, In, Not, Rule
from audience_sync.config.strict import did_you_mean
from audience_sync.config.yaml_file import Document, Path_, read_yaml
from audience_sync.errors import ConfigError, Problem

_SECRET = ("url", "shared_secret", "source", "state")
_EXPECTED = {
    "missing": "is missing",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "list_type": "expected a list: lines that start with - or [a, b]",
    "tuple_type": "expected two lengths of time, such as [30 days, 60 days]",
    "dict_type": "expected names with values below them",
    "model_type": "expected names with values below it",
    "model_attributes_type": "expected names with values below it",
    "string_type": "expected text",
    "too_short": "expected at least one",
    "union_tag_invalid": "",
    "union_tag_not_found": "",
}


def load_config(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of a file; raises ConfigError with every problem found in it."""
    document = read_yaml(path, os.environ if environ is None else environ)
    unset = list(document.problems)
    config: Config | None = None
    if not isinstance(document.data, dict):
        raise ConfigError([document.problem((), "expected names with values, such as version: 1")])
    try:
        config = Config.model_validate(document.data, context=document)
    except ValidationError as error:
        told = {(problem.line, problem.column) for problem in unset}
        for found in error.errors(include_url=False):
            problem = _problem(document, found)
            if (problem.line, problem.column) not in told:  # an unset variable explains itself
                document.problems.append(problem)
    else:
        document.problems.extend(_cross_check(config, document))
    if config is None or document.problems:
        unique = {str(problem): problem for problem in document.problems}
        raise ConfigError(sorted(unique.values(), key=lambda p: (p.file, p.line, p.column)))
    resolved = config.model_copy(
        update={
            "source": _beside(config.source, path),
            "state": _beside(config.state, path),
            "workflows": {
                name: w.model_copy(update={"ca_file": str(path.parent / w.ca_file)}) if w.ca_file else w
                for name, w in config.workflows.items()
            },
        }
    )
    resolved._file = path
    return resolved


def _beside(url: str, path: Path) -> str:
    """A relative SQLite path is taken from the folder of jobs.yaml, wherever the command is run."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        parsed = parsed.set(database=str((path.resolve().parent / parsed.database).resolve()))
    return parsed.render_as_string(hide_password=False)


def _problem(document: Document, found: Any) -> Problem:
    path = _real_path(document, found["loc"])
    kind = found["type"]
    if kind == "missing":
        field = str(found["loc"][-1])
        return document.problem(path, f"{field}: is missing", "")
    if kind.startswith("union_tag"):
        value = _value(document, path)
        keys = list(value) if isinstance(value, dict) else []
        hint = did_you_mean(str(keys[0]), RULE_WORDS) if keys else f"known here: {', '.join(RULE_WORDS)}"
        return document.problem(path, "expected a rule such as {did: Order Completed, within: 30 days}", hint)
    if kind in _EXPECTED:
        message = _EXPECTED[kind]
    elif kind in ("greater_than_equal", "less_than_equal"):
        bound = found["ctx"].get("ge", found["ctx"].get("le"))
        message = f"expected a number of {'at least' if 'ge' in found['ctx'] else 'at most'} {bound}"
    else:
        message = str(found["msg"])
    written = document.place(path).written
    if written and path and path[-1] not in _SECRET:
        message = f"{written!r}: {message}"
    return document.problem(path, message)


def _real_path(document: Document, loc: tuple[str | int, ...]) -> Path_:
    """Pydantic's location without the union tags and type names that it puts between the steps."""
    path: list[str | int] = []
    value = document.data
    for step in loc:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            continue
        path.append(step)
    return tuple(path)


def _value(document: Document, path: Path_) -> Any:
    value = document.data
    for step in path:
        value = value[step]
    return value


def _cross_check(config: Config, document: Document) -> Iterator[Problem]:
    """What no single value can show: names that refer to other names."""
    seen_jobs: dict[str, str] = {}
    seen_keys: dict[str, str] = {}
    audiences: dict[str, Audience] = {}
    for j, job in enumerate(config.jobs):
        here: Path_ = ("jobs", j)
        if job.key in seen_jobs:
            yield document.problem(
                (*here, "name"), f"two jobs are called {job.key}", f"the other is {seen_jobs[job.key]!r}; rename one"
            )
        seen_jobs.setdefault(job.key, job.name)
        if not job.audiences and not job.traits:
            yield document.problem(here, "the job computes nothing", "give it audiences: or traits:")
        for w, workflow in enumerate(job.workflows or []):
            if workflow not in config.workflows:
                yield document.problem(
                    (*here, "workflows", w),
                    f"there is no workflow {workflow!r}",
                    did_you_mean(workflow, config.workflows),
                )
        for group, members in (("audiences", job.audiences), ("traits", job.traits)):
            for i, computed in enumerate(members):
                if computed.key in seen_keys:
                    field = "key" if computed.given_key else "name"
                    yield document.problem(
                        (*here, group, i, field),
                        f"the key {computed.key} is already that of {seen_keys[computed.key]!r}",
                        "rename one, or give one of them a key:",
                    )
                seen_keys.setdefault(computed.key, computed.name)
                if isinstance(computed, Audience):
                    audiences.setdefault(computed.name, computed)
    for j, job in enumerate(config.jobs):
        for i, audience in enumerate(job.audiences):
            path: Path_ = ("jobs", j, "audiences", i, "who")
            if audience.who is not None:
                yield from _check_rule(config, document, audience.who, path)
                if cycle := _cycle(config, audience, []):
                    yield document.problem(
                        path, "goes round in a circle: " + " → ".join(cycle), "take one of these in: out"
                    )


def _check_rule(config: Config, document: Document, rule: Rule, path: Path_) -> Iterator[Problem]:
    if isinstance(rule, Did):
        if rule.did not in config.events and "*" not in config.events:
            known = [name for name in config.events]
            yield document.problem(
                (*path, "did"),
                f"the event {rule.did!r} is not under events:",
                did_you_mean(rule.did, known) if known else "add events: with its table, user_id and at",
            )
        elif rule.did not in config.events and config.events["*"].name is None:
            yield document.problem(
                ("events", "*"), "'*' needs name:, the column that holds the event's name", "add name: event"
            )
    elif isinstance(rule, Has):
        if config.people is None:
            yield document.problem(
                (*path, "has"), "has: reads people:, which is not given", "add people: {table: …, user_id: …}"
            )
    elif isinstance(rule, In):
        if config.audience(rule.in_) is None:
            known = [a.name for job in config.jobs for a in job.audiences]
            yield document.problem((*path, "in"), f"there is no audience {rule.in_!r}", did_you_mean(rule.in_, known))
    elif isinstance(rule, All):
        for i, part in enumerate(rule.all_):
            yield from _check_rule(config, document, part, (*path, "all", i))
    elif isinstance(rule, Any_):
        for i, part in enumerate(rule.any_):
            yield from _check_rule(config, document, part, (*path, "any", i))
    elif isinstance(rule, Not):
        yield from _check_rule(config, document, rule.not_, (*path, "not"))


def _references(rule: Rule) -> Iterator[str]:
    if isinstance(rule, In):
        yield rule.in_
    elif isinstance(rule, Not):
        yield from _references(rule.not_)
    elif isinstance(rule, (All, Any_)):
        for part in rule.all_ if isinstance(rule, All) else rule.any_:
            yield from _references(part)


def _cycle(config: Config, audience: Audience, trail: list[str]) -> list[str] | None:
    if audience.name in trail:
        return [*trail[trail.index(audience.name) :], audience.name] if audience.name == trail[0] else None
    if audience.who is None:
        return None
    for name in _references(audience.who):
        other = config.audience(name)
        if other is not None and (found := _cycle(config, other, [*trail, audience.name])):
            return found
    return None
