"""Each audience and trait as one SELECT of (user_id, value) over the source."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.compile import Compiler, Computation
from audience_sync.computations.traits import compile_trait
from audience_sync.computations.words import in_words
from audience_sync.config.model import Audience, Config, Trait

__all__ = ["Catalog", "Computation", "compile_computation", "in_words"]


def compile_computation(config: Config, catalog: Catalog, computed: Audience | Trait, as_of: datetime) -> Computation:
    """Compile one audience or trait at instant `as_of`; ConfigError where the source lacks what it names."""
    compiler = Compiler(config, catalog, as_of)
    found: Any = None
    if isinstance(computed, Audience):
        found = compiler.audience(computed, count=True)
        ids = found.subquery()
        null = sa.cast(sa.null(), sa.Text)
        rows: Any = sa.select(ids.c.user_id, null.label("value"), null.label("other"))
    else:
        rows = compile_trait(compiler, computed)
    klass = "audience" if isinstance(computed, Audience) else "computed_trait"
    return Computation(computed.key, computed.name, klass, computed.definition, rows, compiler.skipped, found)
