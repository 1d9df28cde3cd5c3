"""What the rules mean, said a second time: every rule asked of every user, row by row, in plain Python.

Nothing here is fast and nothing is shared with the code under test but the models of jobs.yaml. `Oracle` holds rows as
dictionaries, by table; values are what the tables hold, times may be dates, datetimes, ISO texts or seconds.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from typing import Any

from dateutil.parser import isoparse
from dateutil.relativedelta import relativedelta

from audience_sync.config.model import Config
from audience_sync.config.rules import All, Any_, Did, First, Has, In, Last, Not, Then

Row = dict[str, Any]


@cache
def instant(value: Any) -> datetime | None:
    if value is None or isinstance(value, datetime):
        found = value
    elif isinstance(value, date):
        found = datetime(value.year, value.month, value.day)
    elif isinstance(value, (int, float)):
        found = datetime(1970, 1, 1) + timedelta(seconds=value)
    else:
        try:
            found = isoparse(value.replace(" +", "+").replace(" -", "-").replace(" ", "T", 1))
        except ValueError:
            found = None
    if found is None:
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


@cache
def back(moment: datetime, duration: Any) -> datetime:
    return moment - relativedelta(**{duration.unit: duration.number})


def six(number: Any) -> Decimal:
    """To six decimals, halves away from zero, after what is beyond the ninth is gone."""
    nine = Decimal(str(number)).quantize(Decimal("1e-9"), ROUND_HALF_UP)
    return nine.quantize(Decimal("1e-6"), ROUND_HALF_UP)


class Oracle:
    def __init__(self, config: Config, tables: dict[str, list[Row]], as_of: datetime) -> None:
        self.config, self.tables, self.as_of = config, tables, as_of
        self.grouped: dict[tuple[str, str], dict[str, list[Row]]] = {}
        self.known_members: dict[str, set[str]] = {}
        self.done: dict[tuple[str, str], list[tuple[datetime, Row]]] = {}

    def rows(self, table: str, column: str, user: str) -> list[Row]:
        """A user's rows of a table; the table is sorted out by users once."""
        if (table, column) not in self.grouped:
            groups = self.grouped[table, column] = {}
            for row in self.tables[table]:
                groups.setdefault(self.user(row, column), []).append(row)
        return self.grouped[table, column].get(user, [])

    # -- audiences ------------------------------------------------------------------------------------------------

    def members(self, name: str) -> set[str]:
        if name not in self.known_members:
            self.known_members[name] = self.compute(name)
        return self.known_members[name]

    def compute(self, name: str) -> set[str]:
        audience = self.config.audience(name)
        assert audience is not None
        if audience.table is not None:
            rows = self.tables[audience.table.name]
            tests = audience.table.where or {}
            users = {self.user(row, audience.table.user_id) for row in rows if self.meets_all(row, tests)}
            return {user for user in users if user}
        return {user for user in self.everybody() if self.holds(audience.who, user)}

    def everybody(self) -> set[str]:
        """All that any table names, up to whatever time."""
        listed = [a.table for job in self.config.jobs for a in job.audiences if a.table is not None]
        places = [(e.table, e.user_id) for e in self.config.events.values()] + [(t.name, t.user_id) for t in listed]
        for table, column in places:
            self.rows(table, column, "")
        users = {user for place in places for user in self.grouped[place]}
        return {user for user in users if user} | self.people()

    def people(self) -> set[str]:
        source = self.config.people
        users = {self.user(row, source.user_id) for row in self.tables[source.table]} if source else set()
        return {user for user in users if user}

    def known(self, user: str) -> bool:
        if self.config.people is not None:
            return user in self.people()
        return any(
            (at := instant(row[e.at])) is not None and at <= self.as_of
            for e in self.config.events.values()
            for row in self.rows(e.table, e.user_id, user)
        )

    def user(self, row: Row, column: str) -> str:
        return "" if row[column] is None else str(row[column])

    # -- rules ----------------------------------------------------------------------------------------------------

    def holds(self, rule: Any, user: str) -> bool:
        if isinstance(rule, All):
            return all(self.holds(part, user) for part in rule.all_)
        if isinstance(rule, Any_):
            return any(self.holds(part, user) for part in rule.any_)
        if isinstance(rule, Not):
            return self.known(user) and not self.holds(rule.not_, user)
        if isinstance(rule, In):
            return user in self.members(rule.in_)
        if isinstance(rule, Has):
            source = self.config.people
            assert source is not None
            return any(self.meets_all(row, rule.has) for row in self.rows(source.table, source.user_id, user))
        if isinstance(rule, Then):
            return self.in_order(rule.then, user)
        if isinstance(rule, (First, Last)):
            wanted = rule.first if isinstance(rule, First) else rule.last
            edge = min if isinstance(rule, First) else max
            times = [at for at, row in self.events(wanted.did, user) if self.meets_all(row, wanted.where or {})]
            return bool(times) and self.in_window(wanted, edge(times))
        assert isinstance(rule, Did)
        return self.did(rule, user)

    def did(self, rule: Did, user: str) -> bool:
        rows = [row for _, row in self.occurrences(rule, user)]
        if rule.exactly is not None or rule.at_most is not None:
            count = len(rows)
            if rule.exactly is not None:
                return count == rule.exactly and (count > 0 or self.known(user))
            if rule.at_least is not None:
                return rule.at_least <= count <= rule.at_most  # type: ignore[operator]
            return count <= rule.at_most and self.known(user)  # type: ignore[operator]
        if len(rows) < (rule.at_least or 1):
            return False
        for word in ("sum", "avg", "min", "max"):
            for name, test in (getattr(rule, word) or {}).items():
                numbers = [Decimal(str(row[name])) for row in rows if row[name] is not None]
                if not numbers:
                    total = None
                else:
                    total = {"sum": sum(numbers), "min": min(numbers), "max": max(numbers)}.get(word)
                    total = six(sum(numbers) / len(numbers) if word == "avg" else total)
                if not self.meets(total, test):
                    return False
        return True

    def in_order(self, steps: list[Any], user: str) -> bool:
        reached = [at for at, _ in self.occurrences(steps[0], user)]
        for step in steps[1:]:
            anywhere = step.model_copy(update={"within": None})
            reached = [
                at
                for at, _ in self.occurrences(anywhere, user)
                if any(b < at and (step.within is None or back(at, step.within) < b) for b in reached)
            ]
        return bool(reached)

    def events(self, event: str, user: str) -> list[tuple[datetime, Row]]:
        """What a user did of an event up to T, with when."""
        if (event, user) not in self.done:
            self.done[event, user] = self.look(event, user)
        return self.done[event, user]

    def look(self, event: str, user: str) -> list[tuple[datetime, Row]]:
        source = self.config.events[event if event in self.config.events else "*"]
        found = []
        for row in self.rows(source.table, source.user_id, user):
            at = instant(row[source.at])
            named = source.name is None or row[source.name] == event
            if named and at is not None and at <= self.as_of:
                found.append((at, row))
        return found

    def occurrences(self, rule: Any, user: str) -> list[tuple[datetime, Row]]:
        return [
            (at, row)
            for at, row in self.events(rule.did, user)
            if self.in_window(rule, at) and self.meets_all(row, rule.where or {})
        ]

    def in_window(self, window: Any, at: datetime) -> bool:
        if window.within is not None and not back(self.as_of, window.within) < at <= self.as_of:
            return False
        if window.between is not None:
            early, late = sorted(back(self.as_of, duration) for duration in window.between)
            if not early < at <= late:
                return False
        if window.since is not None and at < window.since:
            return False
        return window.until is None or at <= window.until

    # -- tests ----------------------------------------------------------------------------------------------------

    def meets_all(self, row: Row, tests: dict[str, Any]) -> bool:
        return all(self.meets(row[name], test) for name, test in tests.items())

    def meets(self, value: Any, test: Any) -> bool:
        given = {word: getattr(test, word) for word in test.model_fields_set if getattr(test, word) is not None}
        return all(self.meets_one(value, word, operand) for word, operand in given.items())

    def meets_one(self, value: Any, word: str, operand: Any) -> bool:
        if word == "exists":
            return (value is not None) == operand
        if value is None:
            return False
        if word in ("before", "after", "within", "anniversary"):
            at = instant(value)
            if at is None:
                return False
            if word == "before":
                return at < operand
            if word == "after":
                return at > operand
            if word == "within":
                return back(self.as_of, operand) < at <= self.as_of
            return self.anniversary(at, operand)
        if word == "contains":
            return operand in str(value)
        if word == "starts_with":
            return str(value).startswith(operand)
        if word == "ends_with":
            return str(value).endswith(operand)
        if word in ("in_", "not_in"):
            return any(self.compare(value, "eq", item) for item in operand) == (word == "in_")
        return self.compare(value, word, operand)

    def compare(self, value: Any, word: str, operand: Any) -> bool:
        left, right = self.alike(value, operand)
        return {
            "eq": left == right,
            "ne": left != right,
            "gt": left > right,
            "gte": left >= right,
            "lt": left < right,
            "lte": left <= right,
        }[word]

    def alike(self, value: Any, operand: Any) -> tuple[Any, Any]:
        """Both in the terms of the value's type."""
        if isinstance(value, bool):
            return value, operand
        if isinstance(value, (int, float, Decimal)):
            return Decimal(str(value)), Decimal(str(int(operand) if isinstance(operand, bool) else operand))
        if isinstance(value, date):
            return instant(value), instant(operand)
        if isinstance(operand, bool):
            operand = "true" if operand else "false"
        # by code points, as UTF-8 sorts
        return str(value), str(operand)

    def anniversary(self, at: datetime, duration: Any) -> bool:
        today = self.as_of.date()
        end = self.as_of + relativedelta(**{duration.unit: duration.number})
        for ahead in range(366):
            day = today + timedelta(days=ahead)
            if datetime(day.year, day.month, day.day, tzinfo=UTC) >= end:
                return False
            last_of_february = (day + timedelta(days=1)).day == 1 and day.month == 2
            if (at.month, at.day) in ((day.month, day.day), (2, 29) if last_of_february else (day.month, day.day)):
                return True
        return True

    # -- traits ---------------------------------------------------------------------------------------------------

    def values(self, trait: Any) -> dict[str, Any]:
        """The trait's value of each user who has one."""
        found = {}
        for user in self.everybody():
            rows = [
                (at, row)
                for at, row in self.events(trait.event, user)
                if self.in_window(trait, at) and self.meets_all(row, trait.where or {})
            ]
            if trait.function == "count":
                if rows:
                    found[user] = len(rows)
                continue
            pairs = [(at, row[trait.property]) for at, row in rows if row[trait.property] is not None]
            if pairs:
                found[user] = self.value(trait.function, pairs)
        return found

    def value(self, function: str, pairs: list[tuple[datetime, Any]]) -> Any:
        values = [value for _, value in pairs]
        if function == "sum":
            return as_json(sum(Decimal(str(v)) for v in values))
        if function == "avg":
            return as_json(sum(Decimal(str(v)) for v in values) / len(values))
        if function == "min":
            return as_json(min(values))
        if function == "max":
            return as_json(max(values))
        if function == "first":
            return as_json(min(pairs)[1])
        if function == "last":
            return as_json(max(pairs)[1])
        if function == "unique_count":
            return len(set(values))
        if function == "unique_list":
            return [as_json(value) for value in sorted(set(values))]
        assert function == "most_frequent"
        most = max(Counter(values).values())
        return as_json(min(value for value, count in Counter(values).items() if count == most))


def as_json(value: Any) -> Any:
    """A value as the JSON that is sent: numbers to six decimals, times in ISO 8601."""
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float, Decimal)):
        number = six(value)
        return int(number) if number == number.to_integral_value() else float(number)
    if isinstance(value, date):
        at = instant(value)
        assert at is not None
        text = at.strftime("%Y-%m-%dT%H:%M:%S.%f")
        return text.rstrip("0").rstrip(".") + "Z"
    raise TypeError(value)
