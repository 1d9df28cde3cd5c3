"""What a computation computes, as state keeps it: a fingerprint that tells a changed rule from a renamed one, and the
rule itself, so that a later sync can ask it again and say whose change is the rule's doing and whose is time's.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.compile import Compiler, Ids
from audience_sync.config.model import Audience, Config, Job, Trait
from audience_sync.config.rules import Has, Rule, audiences_named, events_named, parts_of
from audience_sync.errors import ConfigError


def fingerprint(config: Config, computed: Audience | Trait) -> str:
    """Of what is computed, the audiences that its rule names included; names and keys of one's own do not count."""
    named = _named(config, computed) if isinstance(computed, Audience) else []
    parts = [_body(config, computed), *sorted(_body(config, other) for other in named)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def written(config: Config, audience: Audience) -> str | None:
    """The audience and those that its rule names, as text; None where SQL of a user's own is among them, which is not
    asked again: what it would do today nobody has checked."""
    chain = [audience, *_named(config, audience)]
    if any(one.sql is not None for one in chain):
        return None
    return json.dumps([one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in chain])


@dataclass(frozen=True)
class Earlier:
    """Asks an earlier rule again, of today's tables and at today's T."""

    config: Config
    catalog: Catalog
    as_of: datetime

    def members(self, text: str) -> Ids | None:
        """The user ids of the rule that `written` gave; None where jobs.yaml or the source has not what it asks of."""
        audiences = [Audience.model_validate(one) for one in json.loads(text)]
        asked = set().union(*(events_named(one.who) for one in audiences if one.who is not None))
        if (asked - set(self.config.events) and "*" not in self.config.events) or (
            self.config.people is None and any(one.who is not None and _asks_people(one.who) for one in audiences)
        ):
            return None
        alone = Job.model_construct(name="Earlier", audiences=audiences, traits=[])
        then = self.config.model_copy(update={"jobs": [alone]})
        try:
            return Compiler(then, self.catalog, self.as_of, prefix="earlier").audience(audiences[0], count=False)
        except ConfigError:
            return None


def _named(config: Config, audience: Audience) -> list[Audience]:
    """The audiences that stand in an audience's rule, and in theirs; each once."""
    found: dict[str, Audience] = {}

    def visit(one: Audience) -> None:
        for name in sorted(audiences_named(one.who)) if one.who is not None else ():
            other = config.audience(name)
            if other is not None and other.key not in found:
                found[other.key] = other
                visit(other)

    visit(audience)
    return list(found.values())


def _body(config: Config, computed: Audience | Trait) -> str:
    how = {"name", "given_key", "changed_since"}  # none of which changes who is in
    body = computed.model_dump(mode="json", by_alias=True, exclude=how, exclude_none=True)
    return json.dumps(_by_key(config, body), sort_keys=True)


def _by_key(config: Config, value: Any) -> Any:
    """Audiences that a rule names by their keys, so that another's new name changes nothing."""
    if isinstance(value, list):
        return [_by_key(config, item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"in"} and isinstance(value["in"], str):
        other = config.audience(value["in"])
        return {"in": other.key if other is not None else value["in"]}
    return {name: _by_key(config, item) for name, item in value.items()}


def _asks_people(rule: Rule) -> bool:
    return isinstance(rule, Has) or any(_asks_people(part) for part in parts_of(rule))
