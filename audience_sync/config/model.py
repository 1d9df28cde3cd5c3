"""What jobs.yaml may say, as types (DESIGN, "jobs.yaml")."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from audience_sync.config.durations import Duration, DurationField
from audience_sync.config.keys import snake_key
from audience_sync.config.rules import Rule, Tests, Window
from audience_sync.config.schedule import local_zone, trigger
from audience_sync.config.sql_text import problem_of
from audience_sync.config.strict import Strict, did_you_mean
from audience_sync.config.yaml_file import Document
from audience_sync.database import IN_FILES, SESSIONS
from audience_sync.errors import ConfigError, Problem
from audience_sync.state.tables import RELAY_EVENTS

MOST_WORKFLOWS = 10


SOURCES = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "duckdb": "duckdb",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    **{name: name for name in SESSIONS},
}
"""The databases a source may be, each with the driver that a bare name stands for."""
STATES = {name: SOURCES[name] for name in ("sqlite", "postgresql")}
WAREHOUSES = ("duckdb", "postgresql", *SESSIONS)
"""Those of them that can keep each audience's last snapshot themselves (`synced: warehouse`)."""


def _source_url(value: str) -> str:
    return _database_url(value, SOURCES)


def _state_url(value: str) -> str:
    return _database_url(value, STATES)


def _database_url(value: str, drivers: dict[str, str]) -> str:
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise PydanticCustomError(
            "database_url",
            "not a database URL; expected one such as sqlite:///shop.db or postgresql://user@host/shop",
        ) from None
    if url.drivername == "postgres":
        url = url.set(drivername="postgresql")
    backend = url.get_backend_name()
    if backend not in drivers:
        raise PydanticCustomError(
            "database_url",
            "{name} is not a database this version knows here; expected one of {known}",
            {"name": backend, "known": ", ".join(drivers)},
        )
    if url.drivername == backend:
        url = url.set(drivername=drivers[backend])
    if backend in IN_FILES and url.database in (None, "", ":memory:"):
        raise PydanticCustomError(
            "database_url",
            "a database in memory forgets everything; expected a file: {name}:///name.db",
            {"name": backend},
        )
    return url.render_as_string(hide_password=False)


def _web_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f]", value):
        raise PydanticCustomError("web_url", "not a web address; expected one that starts with https://")
    return value


def calls_a_second(value: object) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(s|sec|second|m|min|minute|h|hour))?\s*", str(value).lower())
    if not match or float(match[1]) <= 0:
        raise PydanticCustomError("rate", "expected a number of calls per time, such as 200/s or 5000/min")
    return float(match[1]) / {"s": 1, "m": 60, "h": 3600}[(match[2] or "s")[0]]


def _guard(value: object) -> float | None:
    if value is False or str(value).lower() == "off":
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", str(value))
    if not match:
        raise PydanticCustomError("guard", "expected a share such as 50%, or off")
    return float(match[1]) / 100


def _on_remove(value: object) -> str:
    if value in ("keep", "send false"):
        return str(value)
    raise PydanticCustomError("on_remove", "expected keep, or send false")


def _seconds(value: object) -> float:
    match = re.fullmatch(
        r"\s*(\d+(?:\.\d+)?)\s*(ms|s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)?\s*", str(value).lower()
    )
    if not match or float(match[1]) <= 0:
        raise PydanticCustomError("seconds", "expected a time such as 15 s or 2 minutes")
    unit = match[2] or "s"
    return float(match[1]) * (0.001 if unit == "ms" else {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit[0]])


def _schedule(value: str) -> str:
    try:
        trigger(value, "UTC")
    except ValueError as error:
        raise PydanticCustomError("schedule", "{said}", {"said": str(error)}) from None
    return value


def _cron(value: str) -> str:
    try:
        if len(value.split()) != 5:
            raise ValueError
        trigger(value, "UTC")
    except ValueError:
        raise PydanticCustomError("schedule", "expected five fields of cron, such as 0 */2 * * *") from None
    return value


def _timezone(value: str) -> str:
    try:
        local_zone(value)
    except ValueError as error:
        raise PydanticCustomError("timezone", "{said}", {"said": str(error)}) from None
    return value


def _written(*examples: str | float) -> WithJsonSchema:
    """How a value is written that is read into a number."""
    return WithJsonSchema({"type": ["string", "number"], "examples": list(examples)})


SecondsField = Annotated[float, BeforeValidator(_seconds), _written("15 s", "2 minutes")]


class EventTable(Strict):
    """Where an event stands: a table with a row for each time somebody did it."""

    table: str
    user_id: str
    at: str
    name: str | None = None
    """The column that holds the event's name; for `"*"`."""
    properties: str | None = None
    """A JSON column: what rules name and the table has no column for is looked up in it."""
    arrived_at: str | None = None
    """The column that says when the row came into the table. Naming it says, too, that rows once there stay as they
    are, so that a sync need only look at users with new rows or rows that leave a window (docs/incremental.md)."""


class People(Strict):
    """A table with one row a person; its columns are the traits that rules read."""

    table: str
    user_id: str
    traits: str | None = None
    """A JSON column: what rules name and the table has no column for is looked up in it."""


MESSAGES = ("identify", "track", "page", "screen", "group", "alias", "delete")
"""The types of Segment's messages."""


def _message_type(value: object) -> str:
    if value not in MESSAGES:
        raise PydanticCustomError(
            "message_type", "not a type of message; expected some of {known}", {"known": ", ".join(MESSAGES)}
        )
    return str(value)


def _write_key(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-9;-~]{1,200}", value):
        raise PydanticCustomError("write_key", "expected a write key: letters and digits, without blanks and colons")
    return value


def _origin(value: object) -> str:
    if value != "*" and not re.fullmatch(r"https?://[^/\s?#@]+", str(value)):
        raise PydanticCustomError("origin", "expected a web page's origin such as https://shop.example, or *")
    return str(value).lower()


def _synced(value: object) -> object:
    if value not in ("state", "warehouse"):
        raise PydanticCustomError("synced", "expected state, or warehouse")
    return value


class Source(Strict):
    """The database with people and what they did, and where its last snapshots are kept."""

    url: Annotated[str, AfterValidator(_source_url)] = Field(examples=["sqlite:///shop.db"])
    """As SQLAlchemy writes it."""
    synced: Annotated[Literal["state", "warehouse"], BeforeValidator(_synced)] = "state"
    """`warehouse`: snapshots stay in this database, the diff runs there, and only changes come out."""
    schema_: str | None = Field(None, alias="schema", min_length=1)
    """Where the warehouse keeps them, as tables that start with `audience_sync_`; by default its own default schema."""

    @model_validator(mode="after")
    def _can_keep(self) -> Source:
        backend = make_url(self.url).get_backend_name()
        if self.synced == "warehouse" and backend not in WAREHOUSES:
            raise PydanticCustomError(
                "warehouse",
                "synced: warehouse is for {known}, and this source is {name}: leave synced: out",
                {"known": ", ".join(WAREHOUSES), "name": backend},
            )
        if self.synced == "state" and self.schema_ is not None:
            raise PydanticCustomError(
                "warehouse", "schema: is where a warehouse keeps its snapshots: add synced: warehouse, or leave it out"
            )
        return self


def _source(value: object) -> object:
    """A URL alone is the short way to write it."""
    return {"url": _source_url(value)} if isinstance(value, str) else value


class Relay(Strict):
    """The door for Segment's own clients."""

    write_keys: list[Annotated[str, BeforeValidator(_write_key)]] = Field(min_length=1)
    origins: list[Annotated[str, BeforeValidator(_origin)]] = Field(default_factory=list)
    """Web pages whose scripts may call it (CORS); by default none."""


class Workflow(Strict):
    """A Tray workflow, and how hard it may be driven."""

    url: Annotated[str, AfterValidator(_web_url)]
    shared_secret: str | None = None
    rate: Annotated[float, BeforeValidator(calls_a_second), _written("200/s", "5000/min")] | None = None
    """Calls a second."""
    concurrency: int = Field(32, ge=1, le=1000)
    """Calls in flight at once."""
    timeout: SecondsField = 15.0
    """Seconds for one whole attempt."""
    connect_timeout: SecondsField = 5.0
    read_timeout: SecondsField = 10.0
    """Seconds without a byte before an attempt is given up."""
    max_attempts: int = Field(10, ge=1, le=1000)
    """Failed attempts that make a dead letter. Those made while the workflow takes nothing at all do not count."""
    max_age: SecondsField = 86400.0
    """Seconds after its first attempt at which a delivery that fails again is a dead letter."""
    max_wait: SecondsField = 900.0
    """Seconds that one run waits in all for calls to be taken; the rest is left for the next run."""
    ca_file: str | None = None
    messages: list[Annotated[str, BeforeValidator(_message_type)]] | None = None
    """The types of the relay's messages that it is told; by default all."""


class Named(Strict):
    name: str = Field(description="the name; the key is made of it", examples=["Order Completed Last 30days"])
    given_key: str | None = Field(None, alias="key", description="the trait name sent to Tray, instead of the one made")

    @property
    def key(self) -> str:
        return self.given_key or snake_key(self.name)

    @model_validator(mode="after")
    def _has_a_key(self) -> Named:
        if self.given_key is not None and not re.fullmatch(r"[^\s\x00-\x1f\"\\]{1,200}", self.given_key):
            raise PydanticCustomError("key", "expected a key without blanks, such as big_spenders")
        if not self.key:
            raise PydanticCustomError(
                "key",
                "the name {name} holds no letter or digit to make a key of; give it a key:",
                {"name": repr(self.name)},
            )
        return self


class MembershipTable(Strict):
    """A table that lists members: one row of it that meets `where` is enough."""

    name: str
    user_id: str
    where: Tests | None = None


def _select(value: str) -> str:
    problem = problem_of(value) if value else None  # nothing at all is told by what it stands in
    if problem is not None:
        raise PydanticCustomError("sql", "{problem}", {"problem": problem})
    return value


Sql = Annotated[str, AfterValidator(_select)]
ChangedSince = Annotated[
    str | None,
    Field(
        min_length=1,
        description="the column of the SELECT that says when a row came or its value changed: only such are read",
        examples=["updated_at"],
    ),
]


def _only_beside_sql(computed: Audience | Trait) -> None:
    if computed.changed_since is not None and computed.sql is None:
        raise PydanticCustomError(
            "changed_since", "changed_since: stands beside sql: only; for events, name their arrived_at: in events:"
        )


class Audience(Named):
    """Who is in: by a rule, by SQL, or by a table."""

    who: Rule | None = Field(None, description="the rule that says who is in")
    sql: Sql | None = Field(
        None, description="a SELECT of user_id", examples=["select customer_id as user_id from vips"]
    )
    table: MembershipTable | None = Field(None, description="a table that lists who is in")
    changed_since: ChangedSince = None

    @model_validator(mode="after")
    def _one_source(self) -> Audience:
        given = [word for word in ("who", "sql", "table") if getattr(self, word) is not None]
        if len(given) != 1:
            raise PydanticCustomError(
                "audience",
                "{found}; expected exactly one of who:, sql: or table:",
                {"found": "has " + " and ".join(given) if given else "does not say who is in it"},
            )
        if self.sql == "":
            raise PydanticCustomError("sql", "its sql: is empty")
        _only_beside_sql(self)
        return self


class EventProperty(Strict):
    """A property of an event."""

    event: str = Field(description="the event's name", examples=["Order Completed"])
    property: str = Field(description="the column of the event's table", examples=["revenue"])


FUNCTIONS = ("count", "sum", "avg", "min", "max", "most_frequent", "first", "last", "unique_list", "unique_count")


class Trait(Named, Window):
    """A value per user: one function of what they did in a window, or what `sql` gives as user_id and value."""

    count: str | None = Field(None, description="how often they did this event", examples=["Order Completed"])
    sum: EventProperty | None = Field(None, description="the total of a property")
    avg: EventProperty | None = Field(None, description="the average of a property")
    min: EventProperty | None = Field(None, description="the smallest value of a property")
    max: EventProperty | None = Field(None, description="the largest value of a property")
    most_frequent: EventProperty | None = Field(None, description="the value that occurs most; of several the smallest")
    first: EventProperty | None = Field(None, description="the value of the earliest event that has one")
    last: EventProperty | None = Field(None, description="the value of the latest event that has one")
    unique_list: EventProperty | None = Field(None, description="the list of its different values, in order")
    unique_count: EventProperty | None = Field(None, description="how many different values it has")
    where: Tests | None = Field(None, description="tests of the event's properties")
    sql: Sql | None = Field(None, description="a SELECT of user_id and value")
    changed_since: ChangedSince = None

    @property
    def function(self) -> str:
        return next((word for word in FUNCTIONS if getattr(self, word) is not None), "sql")

    @property
    def event(self) -> str:
        """The event it is about; empty for `sql`."""
        found = getattr(self, self.function)
        return found.event if isinstance(found, EventProperty) else self.count or ""

    @property
    def property(self) -> str | None:
        found = getattr(self, self.function)
        return found.property if isinstance(found, EventProperty) else None

    @model_validator(mode="after")
    def _one_function(self) -> Trait:
        given = [word for word in (*FUNCTIONS, "sql") if getattr(self, word) is not None]
        if len(given) != 1:
            raise PydanticCustomError(
                "trait",
                "{found}; expected exactly one of {known} or sql",
                {
                    "found": "has " + " and ".join(given) if given else "does not say what its value is",
                    "known": ", ".join(FUNCTIONS),
                },
            )
        if self.sql == "":
            raise PydanticCustomError("sql", "its sql: is empty")
        if given == ["sql"] and (self.is_bounded or self.where is not None):
            raise PydanticCustomError("trait", "sql: cannot stand beside a window or where: put them into the SELECT")
        _only_beside_sql(self)
        return self


_guard_schema = WithJsonSchema({"anyOf": [{"type": "string", "examples": ["50%", "off"]}, {"const": False}]})


class Job(Strict):
    """Audiences and traits that are synced together, at one schedule."""

    name: str
    schedule: Annotated[str, AfterValidator(_schedule)] | None = Field(
        None, examples=["every 2 hours", "every day at 06:30", "0 */2 * * *"]
    )
    """When it runs; absent: only by hand."""
    cron: Annotated[str, AfterValidator(_cron)] | None = None
    """Another way to write a `schedule` that is cron; code reads `schedule` only."""
    timezone: Annotated[str, AfterValidator(_timezone)] | None = None
    jitter: SecondsField | None = None
    """Each scheduled sync starts up to so many seconds late, at random, so that many jobs do not start at once."""
    timeout: SecondsField = 12 * 3600.0
    """`start` ends a sync that takes longer, in seconds, and tells."""
    ping: Annotated[str, AfterValidator(_web_url)] | None = None
    """A cron monitor's address (healthchecks.io and its like): asked after each sync, with `/fail` after a bad one."""
    workflows: list[str] | None = None
    audiences: list[Audience] = Field(default_factory=list)
    traits: list[Trait] = Field(default_factory=list)
    coalesce: bool = False
    guard: Annotated[float | None, BeforeValidator(_guard), _guard_schema] = 0.5
    """The share of members that may change in one sync; None lets any change pass."""
    full_every: DurationField = Duration(1, "days")
    """What is followed by its events or by `changed_since` is compared as a whole so often."""
    on_remove: Annotated[Literal["keep", "send false"], BeforeValidator(_on_remove)] = "keep"

    @property
    def key(self) -> str:
        return snake_key(self.name)

    @property
    def computed(self) -> list[Audience | Trait]:
        return [*self.audiences, *self.traits]

    @model_validator(mode="after")
    def _is_whole(self) -> Job:
        if not self.key:
            raise PydanticCustomError("key", "the name {name} holds no letter or digit", {"name": repr(self.name)})
        if self.workflows is not None and not self.workflows:
            raise PydanticCustomError("workflows", "workflows: is an empty list; name one, or leave it out for all")
        if self.cron is not None and self.schedule is not None:
            raise PydanticCustomError("schedule", "has schedule: and cron:; keep one of them")
        return self if self.cron is None else self.model_copy(update={"schedule": self.cron, "cron": None})


Alarm = Literal["failed", "held", "late", "undelivered", "dead letters"]


class Alerts(Strict):
    """Whom to tell when a person should look."""

    webhook: Annotated[str, AfterValidator(_web_url)]
    """Takes `{"text": …}` by POST, as Slack's incoming webhooks and those made after them do."""
    on: list[Alarm] = Field(default=list(get_args(Alarm)))
    late_after: SecondsField = 600.0
    """A sync that was due so many seconds ago, and was not started, is late."""


def _most_workflows(value: dict[str, Workflow]) -> dict[str, Workflow]:
    if len(value) > MOST_WORKFLOWS:
        raise PydanticCustomError(
            "workflows", "{n} workflows; at most {most} are served", {"n": len(value), "most": MOST_WORKFLOWS}
        )
    return value


def _version(value: Any) -> int:
    if value not in (1, "1"):
        raise PydanticCustomError("version", "expected version: 1")
    return 1


class Retention(Strict):
    """How long state keeps what is over and done with; what is undelivered or given up on is kept anyway."""

    history: DurationField = Duration(400, "days")
    """Past syncs, with their sizes and results."""
    deliveries: DurationField = Duration(7, "days")
    """Acknowledged changes, and attempts that failed: what `show` tells of a user."""


class _RelayToo:
    """`events: relay` is read before the models are; the schema knows it all the same."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        return {"anyOf": [handler(core), {"const": "relay"}]}


class _OrUrl:
    """A source's URL alone stands for all of it, in the schema too."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        return {"anyOf": [{"type": "string"}, handler(core)]}


class Config(Strict):
    """The whole of jobs.yaml."""

    version: Annotated[int, BeforeValidator(_version), WithJsonSchema({"const": 1})]
    include: str | list[str] | None = Field(None, examples=["audiences/*.yaml"])
    """Files whose jobs and events are added to those here; paths are relative to the file that names them."""
    source: Annotated[Source, BeforeValidator(_source), _OrUrl] = Field(examples=["sqlite:///shop.db"])
    """The database with people and what they did, as a SQLAlchemy URL; only read, unless it keeps the snapshots too."""
    state: Annotated[str, AfterValidator(_state_url)] = "sqlite:///audience_sync.db"
    """The database that holds what was synced."""
    space: str | None = None
    """The space's id in each call, as Segment sends it."""
    alerts: Alerts | None = None
    retention: Retention = Field(default_factory=Retention)
    events: Annotated[dict[str, EventTable], _RelayToo] = Field(default_factory=dict)
    """Where each event stands; `relay`: what came in through the relay."""
    people: People | None = None
    relay: Relay | None = None
    workflows: Annotated[dict[str, Workflow], AfterValidator(_most_workflows), Field(min_length=1)]
    """Whom to tell: at most ten Tray workflows, by name."""
    jobs: Annotated[list[Job], Field(min_length=1)]

    _file: Path = PrivateAttr(default=Path("jobs.yaml"))
    _patterns: list[tuple[Path, str]] = PrivateAttr(default_factory=list)
    _document: Document | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path:
        return self._file

    @property
    def files(self) -> list[Path]:
        """The file and those that it includes, as they stand now."""
        included = {found for folder, pattern in self._patterns for found in folder.glob(pattern)}
        return [self._file, *sorted(included)]

    @property
    def reads_relay(self) -> bool:
        """Whether the rules read what came in through the relay: then the source is the state."""
        return any(event.table == RELAY_EVENTS for event in self.events.values())

    def placed(self, problem: Problem, *path: str | int) -> Problem:
        """A problem found later, with the place in jobs.yaml of what it is about."""
        if self._document is None or problem.file:
            return problem
        place = self._document.place(path)
        return replace(problem, file=place.file or self._document.file, line=place.line, column=place.column)

    def audience(self, name: str) -> Audience | None:
        """An audience of any job, by name or key."""
        named = [a for job in self.jobs for a in job.audiences]
        return next((a for a in named if a.name == name), next((a for a in named if a.key == name), None))

    def workflows_named(self, names: Iterable[str]) -> list[str]:
        """Each of these once; all workflows when none is named. Raises ConfigError for one that is not there."""
        chosen = list(dict.fromkeys(names))
        for name in chosen:
            if name not in self.workflows:
                raise ConfigError(f"there is no workflow {name!r}", did_you_mean(name, self.workflows))
        return chosen or list(self.workflows)

    def job_workflows(self, job: Job) -> list[str]:
        return list(self.workflows) if job.workflows is None else list(dict.fromkeys(job.workflows))
