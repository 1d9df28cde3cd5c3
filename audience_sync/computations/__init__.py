"""Each audience and trait as one SELECT of (user_id, value) over the source."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.compile import Compiler, Computation
from audience_sync.computations.definition import Earlier, fingerprint, written
from audience_sync.computations.incremental import Basis, Follower, follow
from audience_sync.computations.traits import compile_trait
from audience_sync.computations.words import in_words
from audience_sync.config.model import Audience, Config, Trait
from audience_sync.config.rules import audiences_named

__all__ = ["Basis", "Catalog", "Computation", "Follower", "compile_computation", "in_words"]


def compile_computation(config: Config, catalog: Catalog, computed: Audience | Trait, as_of: datetime) -> Computation:
    """Compile one audience or trait at instant `as_of`; ConfigError where the source lacks what it names."""
    compiler = Compiler(config, catalog, as_of)
    found: Any = None
    if isinstance(computed, Audience):
        members = compiler.audience(computed, count=True)
        # A user's SQL is never read in a transaction that may write; what `ids` selects may be.
        found = None if _holds_sql(config, computed) else members
        ids = members.subquery()
        null = sa.cast(sa.null(), sa.Text)
        rows: Any = sa.select(ids.c.user_id, null.label("value"), null.label("other"))
    else:
        rows = compile_trait(compiler, computed)
    klass = "audience" if isinstance(computed, Audience) else "computed_trait"
    made = Computation(computed.key, computed.name, klass, fingerprint(config, computed), rows, compiler.skipped, found)
    made.follower = follow(config, catalog, computed, as_of)
    if isinstance(computed, Audience):
        made.rule = written(config, computed)
        made.earlier = Earlier(config, catalog, as_of).members
    return made


def _holds_sql(config: Config, audience: Audience) -> bool:
    """Whether a user's own SQL is in it, or in an audience that its rule names."""
    if audience.who is None:
        return audience.sql is not None
    named = [config.audience(name) for name in audiences_named(audience.who)]
    return any(_holds_sql(config, other) for other in named if other is not None)
