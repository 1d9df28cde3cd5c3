"""The events that a rule or trait speaks of: rows of one table, in a window, of which `where` holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from audience_sync.computations.catalog import Catalog
from audience_sync.computations.expressions import equals_text, has_id, id_text, meets
from audience_sync.computations.properties import Property
from audience_sync.computations.times import TimeColumn
from audience_sync.config.model import Config
from audience_sync.config.rules import Tests, Window


@dataclass(frozen=True)
class Events:
    """The table that an event stands in; `named` tells its rows from those of other events."""

    table: sa.Table
    user_id: ColumnElement[Any]
    at: TimeColumn
    named: tuple[ColumnElement[bool], ...]
    properties: str | None

    @property
    def has_id(self) -> ColumnElement[bool]:
        return has_id(self.user_id, self.at.dialect)

    @property
    def id_text(self) -> ColumnElement[str]:
        return id_text(self.user_id, self.at.dialect)


def events(config: Config, catalog: Catalog, event: str) -> Events:
    """Where an event stands: under its own name in `events:`, or under "*"."""
    name = event if event in config.events else "*"
    source = config.events[name]
    where = f"events: {name}"
    table = catalog.table(source.table, where)
    at = TimeColumn(catalog.column(table, source.at, where), catalog.dialect)
    named: list[ColumnElement[bool]] = []
    if source.name is not None:
        column = catalog.column(table, source.name, where)
        named.append(equals_text(column, event, catalog.dialect))
    return Events(table, catalog.column(table, source.user_id, where), at, tuple(named), source.properties)


def in_window(window: Window, at: TimeColumn, as_of: datetime) -> list[ColumnElement[bool]]:
    """An event at t is within W of T when T − W < t ≤ T; nothing after T is seen."""
    latest = as_of
    conditions = []
    if window.within is not None:
        conditions.append(at.after(window.within.before(as_of)))
    if window.between is not None:
        instants = sorted(duration.before(as_of) for duration in window.between)
        conditions.append(at.after(instants[0]))
        latest = min(latest, instants[1])
    if window.since is not None:
        conditions.append(at.since(window.since))
    if window.until is not None:
        latest = min(latest, window.until)
    return [*conditions, at.until(latest)]


def column_of(catalog: Catalog, found: Events, name: str, where: str) -> ColumnElement[Any] | Property:
    return catalog.property(found.table, name, found.properties, where)


def tested(
    catalog: Catalog, table: sa.Table, tests: Tests | None, as_of: datetime, where: str, json: str | None
) -> list[ColumnElement[bool]]:
    return [
        meets(catalog.property(table, name, json, where), test, as_of, catalog.dialect, f"{where}: {name}")
        for name, test in (tests or {}).items()
    ]
