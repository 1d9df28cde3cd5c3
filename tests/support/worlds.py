"""Hostile small worlds for the rules: tables with rows, configurations that read them, and databases that hold them.

Times stand at and around the edges of the windows that the rules have; texts and ids are chosen to be mistaken.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql

from audience_sync.computations import compile_computation, passes, share, shared_sets
from audience_sync.computations.catalog import Catalog
from audience_sync.config import Config
from audience_sync.config.durations import parse_duration
from audience_sync.snapshot.shared import fill
from support.oracle import Oracle, Row, back

Tables = dict[str, list[Row]]
INSTANTS = [datetime(2024, 3, 31, 12, 0, tzinfo=UTC), datetime(2024, 5, 1, tzinfo=UTC)]
DURATIONS = ["1 second", "1 hour", "1 day", "7 days", "30 days", "60 days", "1 month", "2 months", "1 year"]
TEXTS = [
    "a",
    "A",
    "a ",
    " a",
    "ä",
    "a\u0308",
    "%",
    "_",
    "",
    " ",
    "'",
    "\\",
    '"',
    "'; DROP TABLE people; --",
    "名",
    "🙂",
]
TEXTS += ["a\nb", "12", "12.0", "true", "NULL", "a%", ":x", "{}"]
IDS = ["u", "u", "u", "7", "7", "07", "7 ", "10", "1e1", "u", "U", "ü", "x'y", "名", "", None]
MONEY = [Decimal(text) for text in ("0", "0.10", "0.20", "0.30", "12.50", "49.99", "50", "50.01", "-1", "1000000")]

Text = sa.Text().with_variant(sa.String(100), "mysql", "mariadb")  # whose default collation takes A for a
Moment = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
Zoned = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
metadata = sa.MetaData()
people = sa.Table(
    "people",
    metadata,
    sa.Column("id", Text),
    sa.Column("country", Text),
    sa.Column("age", sa.Integer),
    sa.Column("vip", sa.Boolean),
    sa.Column("born", sa.Date),
)
orders = sa.Table(
    "orders",
    metadata,
    sa.Column("customer", Text),
    sa.Column("at", Moment),
    sa.Column("revenue", sa.Numeric(10, 2)),
    sa.Column("units", sa.Integer),
    sa.Column("category", Text),
    sa.Column("gift", sa.Boolean),
    sa.Column("shipped", sa.Date),
)
visits = sa.Table("visits", metadata, sa.Column("who", sa.Integer), sa.Column("on", sa.Date), sa.Column("page", Text))
tracks = sa.Table(
    "tracks",
    metadata,
    sa.Column("user_id", Text),
    sa.Column("event", Text),
    sa.Column("sent_at", Text),
    sa.Column("score", sa.Double),
)
clicks = sa.Table("clicks", metadata, sa.Column("who", Text), sa.Column("epoch", sa.BigInteger), sa.Column("ad", Text))
signups = sa.Table("signups", metadata, sa.Column("who", Text), sa.Column("at", Zoned), sa.Column("via", Text))

EVENTS = {
    "Order": {"table": "orders", "user_id": "customer", "at": "at"},
    "Visit": {"table": "visits", "user_id": "who", "at": "on"},
    "Click": {"table": "clicks", "user_id": "who", "at": "epoch"},
    "Signup": {"table": "signups", "user_id": "who", "at": "at"},
    "*": {"table": "tracks", "user_id": "user_id", "name": "event", "at": "sent_at"},
}
PROPERTIES: dict[str, dict[str, str]] = {
    "Order": {
        "revenue": "number", "units": "number", "category": "text",
        "gift": "boolean", "shipped": "date", "at": "time",
    },
    "Visit": {"page": "text", "on": "date"},
    "Click": {"ad": "text", "epoch": "number"},
    "Signup": {"via": "text", "at": "time"},
    "Track": {"score": "number"},
    "track": {"score": "number"},
}  # fmt: skip
TRAITS = {"country": "text", "age": "number", "vip": "boolean", "born": "date"}


def edges(as_of: datetime) -> list[datetime]:
    """Instants at, just before and just after the ends of every window."""
    found = [as_of, as_of + timedelta(days=1)]
    for text in DURATIONS:
        edge = back(as_of, parse_duration(text))
        found += [edge, edge - timedelta(microseconds=1), edge + timedelta(microseconds=1), edge + timedelta(days=2)]
    found += [as_of + timedelta(microseconds=1), as_of - timedelta(microseconds=1), datetime(2024, 2, 29, tzinfo=UTC)]
    return found


ALL_EDGES = [edge for instant in INSTANTS for edge in edges(instant)]
moments = st.sampled_from(ALL_EDGES)
naive_moments = moments.map(lambda moment: moment.replace(tzinfo=None))
dates = moments.map(lambda moment: moment.date())


def spelled(moment: datetime, way: int) -> str:
    """One of the ways in which systems write the same instant."""
    east = moment.astimezone(UTC) + timedelta(hours=2)
    day = moment.replace(tzinfo=None)
    return [
        day.isoformat(" ", "microseconds"),
        day.isoformat("T") + "Z",
        day.isoformat("T") + "+00:00",
        east.replace(tzinfo=None).isoformat(" ") + "+02:00",
        east.replace(tzinfo=None).isoformat(" ") + "+02",
        east.replace(tzinfo=None).isoformat("T", "microseconds") + "+0200",
        "soon",
        moment.date().isoformat(),
        (day + timedelta(seconds=0)).isoformat(" ", "seconds"),
    ][way]


texts = st.sampled_from(TEXTS)
ids = st.sampled_from(IDS)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy, strategy, strategy)


def rows(most: int, **columns: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Row]]:
    return st.lists(st.fixed_dictionaries(columns), min_size=most // 2, max_size=most)


numbers = st.integers(-3, 60)
worlds: st.SearchStrategy[Tables] = st.fixed_dictionaries(
    {
        "people": rows(
            5, id=ids, country=maybe(texts), age=maybe(numbers), vip=maybe(st.booleans()), born=maybe(dates),
        ),
        "orders": rows(
            12, customer=ids, at=maybe(naive_moments), revenue=maybe(st.sampled_from(MONEY)), units=maybe(numbers),
            category=maybe(texts), gift=maybe(st.booleans()), shipped=maybe(dates),
        ),
        "visits": rows(6, who=st.sampled_from([7, 7, 10, 12, None]), on=maybe(dates), page=maybe(texts)),
        "tracks": rows(
            8, user_id=ids, event=st.sampled_from(["Track", "track", "Track ", "Other"]),
            sent_at=maybe(st.builds(spelled, moments, st.integers(0, 8))),
            score=maybe(st.sampled_from([0.1, 0.2, 1.5, 7.0])),
        ),
        "clicks": rows(5, who=ids, epoch=maybe(moments.map(lambda m: int(m.timestamp()))), ad=maybe(texts)),
        "signups": rows(5, who=ids, at=maybe(moments), via=maybe(texts)),
    }
)  # fmt: skip

# -- configurations ---------------------------------------------------------------------------------------------------

durations = st.sampled_from(DURATIONS)
iso = moments.map(lambda moment: moment.isoformat())


def test_of(kind: str) -> st.SearchStrategy[Any]:
    """A test that a column of this kind can be asked."""
    exists = st.fixed_dictionaries({"exists": st.booleans()})
    if kind == "boolean":
        return st.one_of(st.booleans(), st.fixed_dictionaries({"ne": st.booleans()}), exists)
    if kind in ("date", "time"):
        compared = [st.fixed_dictionaries({word: iso}) for word in ("eq", "ne", "gte", "lt", "before", "after")]
        lists = [st.fixed_dictionaries({word: st.lists(iso, max_size=2)}) for word in ("in", "not_in")]
        lengths = [st.fixed_dictionaries({word: durations}) for word in ("within", "anniversary")]
        return st.one_of(exists, *compared, *lists, *lengths)
    if kind == "number":
        values = st.one_of(numbers, st.sampled_from([0.1, 0.3, 12.5, 49.99, 50.01]))
    else:
        values = st.one_of(texts, texts, st.sampled_from([12, True, 12.0]))
    words = ["eq", "ne", "gt", "gte", "lt", "lte"]
    tests = [values, st.lists(values, min_size=1, max_size=3), exists]
    tests += [st.fixed_dictionaries({word: values}) for word in words]
    tests += [st.fixed_dictionaries({word: st.lists(values, max_size=3)}) for word in ("in", "not_in")]
    if kind == "text":
        tests += [st.fixed_dictionaries({word: texts}) for word in ("contains", "starts_with", "ends_with")]
    else:
        tests.append(st.fixed_dictionaries({"gte": values, "lt": values}))
    return st.one_of(tests)


@st.composite
def tests(draw: st.DrawFn, columns: dict[str, str]) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, max_size=2, unique=True))
    return {name: draw(test_of(columns[name])) for name in names}


@st.composite
def windows(draw: st.DrawFn, *, must: bool = False, later: bool = False) -> dict[str, Any]:
    window: dict[str, Any] = {}
    how = draw(st.sampled_from([*([] if must else [""]), "within", "between", "since", "until", "all"]))
    if how in ("within", "all") or (later and how == "between"):
        window["within"] = draw(durations)
    elif how == "between":
        window["between"] = [draw(durations), draw(durations)]
    if how in ("since", "all"):
        window["since"] = draw(iso)
    if how == "until":
        window["until"] = draw(iso)
    return window


@st.composite
def occurrences(draw: st.DrawFn, **how: bool) -> dict[str, Any]:
    event = draw(st.sampled_from(["Order", "Order", "Order", "Visit", "Click", "Signup", "Track", "track"]))
    found = {"did": event, **draw(windows(**how))}
    if draw(st.integers(0, 2)) == 0:
        found["where"] = draw(tests(PROPERTIES[event]))
    return found


@st.composite
def dids(draw: st.DrawFn) -> dict[str, Any]:
    rule = draw(occurrences())
    kind = draw(st.sampled_from(["", "", "at_least", "at_most", "exactly", "both", "total", "total"]))
    count = st.integers(1, 3)
    if kind in ("at_least", "both"):
        rule["at_least"] = draw(count)
    if kind in ("at_most", "both"):
        rule["at_most"] = draw(st.integers(0, 3))
    if kind == "exactly":
        rule["exactly"] = draw(st.integers(0, 3))
    measured = {name for name, kind in PROPERTIES[rule["did"]].items() if kind == "number"} - {"epoch"}
    if kind == "total" and measured:
        word = draw(st.sampled_from(["sum", "avg", "min", "max"]))
        rule[word] = {draw(st.sampled_from(sorted(measured))): draw(test_of("number"))}
    return rule


@st.composite
def sequences(draw: st.DrawFn) -> dict[str, Any]:
    first = draw(occurrences())
    return {"then": [first, *draw(st.lists(occurrences(later=True), min_size=1, max_size=2))]}


leaves = st.one_of(
    dids(),
    dids(),
    dids(),
    st.builds(lambda found: {"has": found}, tests(TRAITS)),
    st.builds(lambda found: {"in": found}, st.sampled_from(["Listed", "First"])),
    sequences(),
    st.builds(lambda found: {"first": found}, occurrences(must=True)),
    st.builds(lambda found: {"last": found}, occurrences(must=True)),
)


def rules(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    if depth == 0:
        return leaves
    inner = rules(depth - 1)
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        leaves,
        st.builds(lambda parts: {"all": parts}, several),
        st.builds(lambda parts: {"any": parts}, several),
        st.builds(lambda part: {"not": part}, inner),
    )


FUNCTIONS = ["count", "sum", "avg", "min", "max", "most_frequent", "first", "last", "unique_list", "unique_count"]


@st.composite
def traits(draw: st.DrawFn) -> dict[str, Any]:
    function = draw(st.sampled_from(FUNCTIONS))
    event = draw(st.sampled_from(sorted(PROPERTIES)))
    kinds = PROPERTIES[event]
    if function in ("sum", "avg"):
        kinds = {name: kind for name, kind in kinds.items() if kind == "number"}
    if function in ("min", "max"):
        kinds = {name: kind for name, kind in kinds.items() if kind != "boolean"}
    if not kinds:
        function = "count"
    found = {"name": "Trait", **draw(windows())}
    found[function] = (
        event if function == "count" else {"event": event, "property": draw(st.sampled_from(sorted(kinds)))}
    )
    if draw(st.integers(0, 2)) == 0:
        found["where"] = draw(tests(PROPERTIES[event]))
    return found


def without_people(rule: Any) -> Any:
    """The rule with something else for each `has`, which asks of people."""
    if isinstance(rule, list):
        return [without_people(part) for part in rule]
    if not isinstance(rule, dict):
        return rule
    if "has" in rule:
        return {"did": "Visit"}
    return {word: without_people(part) for word, part in rule.items()}


def config_of(rules: list[dict[str, Any]], traits: list[dict[str, Any]], *, with_people: bool) -> Config:
    """The first rule is the audience First, which the others may name."""
    audiences: list[dict[str, Any]] = [
        {"name": "Listed", "table": {"name": "people", "user_id": "id", "where": {"country": "a"}}},
        {"name": "First", "who": {"did": "Order", "at_least": 2}},
    ]
    rules = rules if with_people else without_people(rules)
    audiences += [{"name": f"Rule {number}", "who": rule} for number, rule in enumerate(rules)]
    found: dict[str, Any] = {
        "version": 1,
        "source": "sqlite:///source.db",
        "events": EVENTS,
        "workflows": {"w": {"url": "http://127.0.0.1:1/"}},
        "jobs": [
            {"name": "J", "audiences": audiences, "traits": [t | {"name": f"T{n}"} for n, t in enumerate(traits)]}
        ],
    }
    if with_people:
        found["people"] = {"table": "people", "user_id": "id"}
    return Config.model_validate(found)


# -- databases --------------------------------------------------------------------------------------------------------


class World:
    """The tables in one database, filled anew for each example."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.connection = engine.connect()
        metadata.create_all(self.connection)
        self.connection.commit()
        self.catalog = Catalog(engine)

    def fill(self, tables: Tables) -> None:
        with_zones = self.engine.dialect.name in ("postgresql", "duckdb")
        with self.connection.begin():
            for name, table in metadata.tables.items():
                self.connection.execute(sa.delete(table))
                found = tables[name]
                if name == "signups" and not with_zones:
                    found = [row | {"at": row["at"] and row["at"].replace(tzinfo=None)} for row in found]
                if found:
                    self.connection.execute(sa.insert(table), found)

    def agrees(self, config: Config, tables: Tables, as_of: datetime) -> None:
        """Every audience and trait gives what the oracle gives."""
        oracle = Oracle(config, tables, as_of)
        job = config.jobs[0]
        compiled = [compile_computation(config, self.catalog, computed, as_of) for computed in job.computed]
        for computed, computation in zip(job.computed, compiled, strict=True):
            with self.connection.begin():
                rows = self.connection.execute(computation.rows).all()
            assert len({row.user_id for row in rows}) == len(rows), "a user twice"
            if computed in job.audiences:
                assert {row.user_id for row in rows} == oracle.members(computed.name), computed
            else:
                assert {row.user_id: json.loads(row.value) for row in rows} == oracle.values(computed), computed

    def agrees_when_shared(self, config: Config, tables: Tables, as_of: datetime) -> None:
        """So do those that read what they share with others, with the same rows left out for want of a user id."""
        job, oracle = config.jobs[0], Oracle(config, tables, as_of)
        compiled = [compile_computation(config, self.catalog, computed, as_of) for computed in job.audiences]
        with mock.patch.object(passes, "FEWEST", 1):
            share(config, self.catalog, job, as_of, compiled)
        with self.connection.begin():
            for one in shared_sets(compiled):
                one.table.create(self.connection, checkfirst=True)
                self.connection.execute(sa.delete(one.table))
                fill(self.connection, one)
            for audience, alone in zip(job.audiences, compiled, strict=True):
                if alone.shared is not None:
                    found = self.connection.execute(alone.shared.rows).scalars().all()
                    assert sorted(found) == sorted(oracle.members(audience.name)), audience
                    skipped = [
                        sum(self.connection.execute(count).scalar_one() for count in form.skipped)
                        for form in (alone, alone.shared)
                    ]
                    assert skipped[0] == skipped[1], audience

    def close(self) -> None:
        self.connection.close()
        self.engine.dispose()
