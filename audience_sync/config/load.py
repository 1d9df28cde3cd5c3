"""Reading jobs.yaml whole: every mistake in it is found and told at once, with its place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy.engine import make_url

from audience_sync.config.keys import snake_key
from audience_sync.config.model import FUNCTIONS, Config
from audience_sync.config.rules import RULE_WORDS
from audience_sync.config.strict import did_you_mean
from audience_sync.config.yaml_file import Document, Path_, read_yaml
from audience_sync.database import IN_FILES
from audience_sync.errors import ConfigError, Problem
from audience_sync.state.tables import RELAY_EVENTS, RELAY_PEOPLE

_SECRET = ("url", "shared_secret", "source", "state", "write_keys", "webhook", "ping")
LONGEST_CHAIN = 50
"""How many audiences may stand in one another by `in:`, one inside the next."""
MOST_TOLD = 50
RESERVED_JOBS = ("relay", "forget")
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


def check_config(path: Path) -> None:
    """Raise ConfigError with what is wrong with a file wherever it may be used: variables that are not set here, as in
    CI, are no problem."""
    try:
        load_config(path)
    except ConfigError as error:
        problems = [problem for problem in error.problems() if not problem.of_environment]
        if problems:
            raise ConfigError(problems) from None


def load_config(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of a file; raises ConfigError with every problem found in it."""
    document = read_yaml(path, os.environ if environ is None else environ)
    unset = list(document.problems)
    config: Config | None = None
    if not isinstance(document.data, dict):
        raise ConfigError([document.problem((), "expected names with values, such as version: 1")])
    _read_relay(document)
    try:
        config = Config.model_validate(document.data, context=document)
    except ValidationError as error:
        told = {(problem.line, problem.column) for problem in unset}
        misspelt = [problem.where for problem in document.problems]
        for found in error.errors(include_url=False):
            problem = _problem(document, found)
            if found["type"] == "empty" and any(where.startswith(f"{problem.where} › ") for where in misspelt):
                continue  # it is empty only because what it holds is misspelt
            if (problem.line, problem.column) not in told:  # an unset variable explains itself
                document.problems.append(problem)
    document.problems.extend(_cross_check(document))
    if config is None or document.problems:
        unique = {str(problem): problem for problem in document.problems}
        told_ = sorted(unique.values(), key=lambda p: (p.file != document.file, p.file, p.line, p.column))
        if len(told_) > MOST_TOLD:
            told_[MOST_TOLD:] = [Problem(f"and {len(told_) - MOST_TOLD:,} more", "", document.file)]
        raise ConfigError(told_)
    resolved = config.model_copy(
        update={
            "source": config.source.model_copy(update={"url": _beside(config.source.url, path)}),
            "state": _beside(config.state, path),
            "workflows": {
                name: w.model_copy(update={"ca_file": str(path.parent / w.ca_file)}) if w.ca_file else w
                for name, w in config.workflows.items()
            },
        }
    )
    resolved._file, resolved._patterns = path, document.patterns
    if resolved.reads_relay and resolved.source.url != resolved.state:
        raise ConfigError(
            [
                document.problem(
                    ("source",),
                    "events: relay reads what came in through the relay, which is in state:, not in another database",
                    "leave source: out, or write events: with the tables of your source",
                )
            ]
        )
    resolved._document = document
    return resolved


def _read_relay(document: Document) -> None:
    """`events: relay` stands for the relay's own views in state, as events and, where none is given, as people."""
    data = document.data
    if data.get("events") != "relay":
        return
    events: dict[str, Any] = {"table": RELAY_EVENTS, "user_id": "user_id", "at": "at"}
    data["events"] = {"*": {**events, "name": "name", "properties": "properties"}}
    if data.get("people") is None:
        data["people"] = {"table": RELAY_PEOPLE, "user_id": "user_id", "traits": "traits"}
    if data.get("source") is None:
        data["source"] = data.get("state") or Config.model_fields["state"].default
    if data.get("relay") is None:
        document.problems.append(
            document.problem(
                ("events",),
                "events: relay reads what came in through the relay, which is not given",
                "add relay: {write_keys: [${RELAY_WRITE_KEY}]}",
            )
        )


def _beside(url: str, path: Path) -> str:
    """A database's relative path is taken from the folder of jobs.yaml, wherever the command is run."""
    parsed = make_url(url)
    if parsed.get_backend_name() in IN_FILES and parsed.database:
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
    hint = 'put it in "quotes" to make it text' if kind == "string_type" and written else ""
    if written and path and not set(path) & set(_SECRET):
        message = f"{written!r}: {message}"
    return document.problem(path, message, hint)


def _real_path(document: Document, loc: tuple[str | int, ...]) -> Path_:
    """Pydantic's location without the union tags and type names that it puts between the steps."""
    path: list[str | int] = []
    value: Any = document.data
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


def _cross_check(document: Document) -> Iterator[Problem]:
    """What no single value can show: names that refer to other names.

    It reads the file as written, not the models, so that it has its say even when other things are wrong too.
    """
    data = document.data
    workflows, events = _mapping(data.get("workflows")), _mapping(data.get("events"))
    jobs = [(("jobs", j), _mapping(job)) for j, job in enumerate(_list(data.get("jobs")))]
    audiences: dict[str, Any] = {}
    seen_jobs: dict[str, str] = {}
    seen_keys: dict[str, str] = {}
    for here, job in jobs:
        name = str(job.get("name", ""))
        key = snake_key(name)
        if key in seen_jobs:
            yield document.problem(
                (*here, "name"), f"two jobs are called {key}", f"the other is {seen_jobs[key]!r}; rename one"
            )
        elif key in RESERVED_JOBS:
            yield document.problem(
                (*here, "name"), f"{key} is the name under which its own work stands in the history", "choose another"
            )
        elif key:
            seen_jobs[key] = name
        if job and not job.get("audiences") and not job.get("traits"):
            yield document.problem(here, "the job computes nothing", "give it audiences: or traits:")
        for w, workflow in enumerate(_list(job.get("workflows"))):
            if isinstance(workflow, str) and workflow not in workflows:
                yield document.problem(
                    (*here, "workflows", w),
                    f"there is no workflow {workflow!r}",
                    did_you_mean(workflow, workflows),
                )
        for group in ("audiences", "traits"):
            for i, computed in enumerate(map(_mapping, _list(job.get(group)))):
                name = str(computed.get("name", ""))
                field = "key" if computed.get("key") else "name"
                key = str(computed.get("key") or snake_key(name))
                if key in seen_keys:
                    yield document.problem(
                        (*here, group, i, field),
                        f"the key {key} is already that of {seen_keys[key]!r}",
                        "rename one, or give one of them a key:",
                    )
                elif key:
                    seen_keys[key] = name
                if group == "audiences" and name:
                    audiences.setdefault(name, computed)
                    audiences.setdefault(key, computed)
    names = [str(computed["name"]) for computed in {id(c): c for c in audiences.values()}.values()]
    circles = _circles(audiences)
    for here, job in jobs:
        for i, audience in enumerate(map(_mapping, _list(job.get("audiences")))):
            path = (*here, "audiences", i, "who")
            for place, rule in _rules(audience.get("who"), path):
                yield from _check_names(document, place, rule, events, audiences, names)
            circle = circles.get(id(audience))
            if circle:
                said = "goes round in a circle: " + " → ".join(circle)
                yield document.problem(path, said, "take one of these in: out")
            elif circle is not None:
                yield document.problem(path, f"its in: leads through more than {LONGEST_CHAIN} audiences")
        for i, trait in enumerate(map(_mapping, _list(job.get("traits")))):
            for function in FUNCTIONS:
                of = trait.get(function)
                event = of.get("event") if isinstance(of, dict) else of
                step = (function, "event") if isinstance(of, dict) else (function,)
                if isinstance(event, str):
                    yield from _check_event(document, (*here, "traits", i, *step), event, events)
    if "*" in events and not _mapping(events["*"]).get("name"):
        yield document.problem(
            ("events", "*"), "'*' needs name:, the column that holds the event's name", "add name: event"
        )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _rules(value: Any, path: Path_) -> Iterator[tuple[Path_, dict[str, Any]]]:
    """A rule and all the rules inside it, with their places."""
    if not isinstance(value, dict):
        return
    yield path, value
    for word in ("all", "any"):
        for i, part in enumerate(_list(value.get(word))):
            yield from _rules(part, (*path, word, i))
    for i, step in enumerate(_list(value.get("then"))):
        yield from _rules(step, (*path, "then", i))
    for word in ("not", "first", "last"):
        yield from _rules(value.get(word), (*path, word))


def _check_event(document: Document, path: Path_, event: str, events: dict[str, Any]) -> Iterator[Problem]:
    if event not in events and "*" not in events:
        hint = did_you_mean(event, events) if events else "add events: with its table, user_id and at"
        yield document.problem(path, f"the event {event!r} is not under events:", hint)


def _check_names(
    document: Document,
    path: Path_,
    rule: dict[str, Any],
    events: dict[str, Any],
    audiences: dict[str, Any],
    names: list[str],
) -> Iterator[Problem]:
    did, other = rule.get("did"), rule.get("in")
    if isinstance(did, str):
        yield from _check_event(document, (*path, "did"), did, events)
    if "has" in rule and not document.data.get("people"):
        yield document.problem(
            (*path, "has"), "has: reads people:, which is not given", "add people: {table: …, user_id: …}"
        )
    if isinstance(other, str) and other not in audiences:
        yield document.problem((*path, "in"), f"there is no audience {other!r}", did_you_mean(other, names))


def _circles(audiences: dict[str, Any]) -> dict[int, list[str]]:
    """By the id of an audience's mapping: the names from it back to itself, or a chain that is too long."""
    found: dict[int, list[str]] = {}
    done: dict[int, int] = {}
    trail: list[dict[str, Any]] = []

    def visit(audience: dict[str, Any]) -> int:
        """How many audiences its longest chain of `in:` leads through."""
        if id(audience) in done:
            return done[id(audience)]
        if any(step is audience for step in trail):
            start = next(i for i, step in enumerate(trail) if step is audience)
            found.setdefault(id(audience), [str(step.get("name")) for step in [*trail[start:], audience]])
            return 0
        if len(trail) > LONGEST_CHAIN:
            return 0
        trail.append(audience)
        named = [rule.get("in") for _, rule in _rules(audience.get("who"), ())]
        lengths = [visit(audiences[name]) for name in named if isinstance(name, str) and name in audiences]
        trail.pop()
        done[id(audience)] = 1 + max(lengths, default=0)
        return done[id(audience)]

    for audience in audiences.values():
        if visit(audience) > LONGEST_CHAIN and id(audience) not in found:
            found[id(audience)] = []
    return found
