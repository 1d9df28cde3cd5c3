"""Each audience and trait as one SELECT of (user_id, value) over the source."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.changed import ChangedRows, changed_rows
from audience_sync.computations.compile import Compiler, Computation, SharedSet, without_values
from audience_sync.computations.definition import Earlier, fingerprint, written
from audience_sync.computations.incremental import Basis, Follower, follow
from audience_sync.computations.sharing import share, shared_sets
from audience_sync.computations.traits import compile_trait
from audience_sync.computations.words import in_words
from audience_sync.config.model import Audience, Config, Trait

__all__ = [
    "Basis",
    "Catalog",
    "ChangedRows",
    "Computation",
    "Follower",
    "SharedSet",
    "compile_computation",
    "in_words",
    "share",
    "shared_sets",
]


def compile_computation(config: Config, catalog: Catalog, computed: Audience | Trait, as_of: datetime) -> Computation:
    """Compile one audience or trait at instant `as_of`; ConfigError where the source lacks what it names."""
    compiler = Compiler(config, catalog, as_of)
    found: Any = None
    if isinstance(computed, Audience):
        members = compiler.audience(computed, count=True)
        # A user's SQL is never read in a transaction that may write; what `ids` selects may be.
        found = None if compiler.holds_sql else members
        rows = without_values(members)
    else:
        rows = compile_trait(compiler, computed)
    klass = "audience" if isinstance(computed, Audience) else "computed_trait"
    made = Computation(computed.key, computed.name, klass, fingerprint(config, computed), rows, compiler.skipped, found)
    made.follower = changed_rows(config, catalog, computed, as_of) or follow(config, catalog, computed, as_of)
    if isinstance(computed, Audience):
        made.rule = written(config, computed)
        made.earlier = Earlier(config, catalog, as_of).members
    return made
