"""The rule language of `who` (DESIGN, "Rules"), as types. What a rule means is defined in `computations`."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from audience_sync.config.durations import DurationField, MomentField
from audience_sync.config.strict import Strict

Scalar = bool | int | float | str


def _finite(value: Scalar) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("number", "expected a number that is not endless")
    return value


Operand = Annotated[Scalar, AfterValidator(_finite)]


class Test(Strict):
    """What a property must be. Several given together must all hold; a missing value meets only `exists: false`."""

    __test__ = False  # not a pytest class

    eq: Operand | None = Field(None, description="equal to this value", examples=["DE"])
    ne: Operand | None = Field(None, description="there, and not this value")
    gt: Operand | None = Field(None, description="more than this", examples=[50])
    gte: Operand | None = Field(None, description="this or more", examples=[50])
    lt: Operand | None = Field(None, description="less than this", examples=[50])
    lte: Operand | None = Field(None, description="this or less", examples=[50])
    in_: list[Operand] | None = Field(None, alias="in", description="one of these values", examples=[["DE", "AT"]])
    not_in: list[Operand] | None = Field(None, description="there, and none of these values")
    contains: str | None = Field(None, description="text that holds this, to the letter")
    starts_with: str | None = Field(None, description="text that starts with this, to the letter")
    ends_with: str | None = Field(
        None, description="text that ends with this, to the letter", examples=["@example.com"]
    )
    exists: bool | None = Field(None, description="true: there; false: missing")
    before: MomentField | None = Field(None, description="a time earlier than this date or time")
    after: MomentField | None = Field(None, description="a time later than this date or time")
    within: DurationField | None = Field(None, description="a time in the last so long")
    anniversary: DurationField | None = Field(
        None, description="a date whose day of the year is today or comes in less than so long", examples=["7 days"]
    )

    @model_validator(mode="after")
    def _says_something(self) -> Test:
        if not self.model_fields_set:
            raise PydanticCustomError("empty", "expected a value, a list of values, or a test such as {{gte: 50}}")
        return self


def _as_test(value: Any) -> Any:
    if isinstance(value, list):
        return {"in": value}
    if isinstance(value, (str, int, float, bool)):
        return {"eq": value}
    if value is None:
        raise PydanticCustomError("empty", "expected a value, a list of values, or a test such as {{gte: 50}}")
    return value


class _ShortForms:
    """A test may be written as the value that it equals, or as the list of values of which it is one."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        scalar = {"type": ["string", "number", "boolean"], "description": "equal to this value"}
        several = {"type": "array", "items": scalar, "description": "one of these values"}
        return {"anyOf": [scalar, several, handler(core)]}


TestField = Annotated[Test, BeforeValidator(_as_test), _ShortForms]
Tests = Annotated[dict[str, TestField], Field(min_length=1)]


class Window(Strict):
    """When: an event at t is within W of T when T − W < t ≤ T. Nothing after T is ever seen."""

    within: DurationField | None = Field(None, description="in the last so long", examples=["30 days"])
    between: tuple[DurationField, DurationField] | None = Field(
        None, description="between two times ago", examples=[["30 days", "60 days"]]
    )
    since: MomentField | None = Field(None, description="at this date or time, or later")
    until: MomentField | None = Field(None, description="at this date or time, or earlier")

    @property
    def is_bounded(self) -> bool:
        return bool(self.model_fields_set & {"within", "between", "since", "until"})

    @model_validator(mode="after")
    def _one_window(self) -> Window:
        if len(self.model_fields_set & {"within", "between"}) == 2:
            raise PydanticCustomError("window", "within and between cannot stand together: keep one of them")
        return self


class Occurrence(Window):
    """An event in a window, of which `where` holds."""

    did: str = Field(description='the event\'s name, as it stands under events: or in the column of "*"')
    where: Tests | None = Field(
        None, description="tests of the event's properties", examples=[{"revenue": {"gte": 50}}]
    )


class Did(Occurrence):
    """People who did an event, so often, in a window."""

    at_least: int | None = Field(None, ge=1, description="so many times or more (1 when nothing is said)")
    at_most: int | None = Field(None, ge=0, description="so many times or fewer, of everyone known")
    exactly: int | None = Field(None, ge=0, description="so many times; 0: of everyone known, who did not")
    sum: Tests | None = Field(
        None, description="a test of the properties' totals", examples=[{"revenue": {"gte": 250}}]
    )
    avg: Tests | None = Field(None, description="a test of the properties' averages")
    min: Tests | None = Field(None, description="a test of the properties' smallest values")
    max: Tests | None = Field(None, description="a test of the properties' largest values")

    @model_validator(mode="after")
    def _one_count(self) -> Did:
        given = self.model_fields_set
        if "exactly" in given and given & {"at_least", "at_most"}:
            raise PydanticCustomError("count", "exactly cannot stand beside at_least or at_most: keep one of them")
        totals = given & {"sum", "avg", "min", "max"}
        if totals and given & {"exactly", "at_least", "at_most"}:
            raise PydanticCustomError(
                "count",
                "a count and a {total} cannot stand in one rule: put two rules under all:",
                {"total": min(totals)},
            )
        return self


def _when(value: Occurrence) -> Occurrence:
    if not value.is_bounded:
        raise PydanticCustomError("window", "does not say when: give it within, between, since or until")
    return value


class First(Strict):
    """People whose first occurrence of all is in the window."""

    first: Annotated[Occurrence, AfterValidator(_when)]


class Last(Strict):
    """People whose last occurrence up to T is in the window."""

    last: Annotated[Occurrence, AfterValidator(_when)]


def _steps(steps: list[Occurrence]) -> list[Occurrence]:
    for step in steps[1:]:
        if step.between is not None:
            raise PydanticCustomError("then", "only the first step can have between: a later one is within of the last")
    return steps


class Then(Strict):
    """People who did these in this order, each later than the one before and within of it."""

    then: Annotated[list[Occurrence], Field(min_length=2), AfterValidator(_steps)]


class Has(Strict):
    """People with these traits, in the table named by `people`."""

    has: Tests = Field(description="tests of the person's traits", examples=[{"country": ["DE", "AT"]}])


class In(Strict):
    """The members of another audience."""

    in_: str = Field(alias="in", description="the name or key of an audience of any job")


class All(Strict):
    """Those in every one of the rules."""

    all_: list[Rule] = Field(alias="all", min_length=1)


class Any_(Strict):
    """Those in at least one of the rules."""

    any_: list[Rule] = Field(alias="any", min_length=1)


class Not(Strict):
    """Everyone known who is not in the rule."""

    not_: Rule = Field(alias="not")


_MODELS = {
    "did": Did,
    "has": Has,
    "in": In,
    "then": Then,
    "first": First,
    "last": Last,
    "all": All,
    "any": Any_,
    "not": Not,
}
RULE_WORDS = tuple(_MODELS)


def _which(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((f"rule {word}" for word in RULE_WORDS if word in value), None)
    return next((f"rule {word}" for word, model in _MODELS.items() if isinstance(value, model)), None)


def _is_a_mapping(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, list):
        raise PydanticCustomError("rule", "a list of rules needs a word before it: all: […] or any: […]")
    return value


Rule = Annotated[
    Annotated[Did, Tag("rule did")]
    | Annotated[Has, Tag("rule has")]
    | Annotated[In, Tag("rule in")]
    | Annotated[Then, Tag("rule then")]
    | Annotated[First, Tag("rule first")]
    | Annotated[Last, Tag("rule last")]
    | Annotated[All, Tag("rule all")]
    | Annotated[Any_, Tag("rule any")]
    | Annotated[Not, Tag("rule not")],
    Discriminator(_which),
    BeforeValidator(_is_a_mapping),
]

for _model in (All, Any_, Not):
    _model.model_rebuild()


def parts_of(rule: Rule) -> list[Rule]:
    """The rules that a rule is made of; empty for one that stands by itself."""
    if isinstance(rule, All):
        return rule.all_
    if isinstance(rule, Any_):
        return rule.any_
    return [rule.not_] if isinstance(rule, Not) else []


def audiences_named(rule: Rule) -> set[str]:
    """What stands after `in:` anywhere in the rule."""
    if isinstance(rule, In):
        return {rule.in_}
    return set().union(*(audiences_named(part) for part in parts_of(rule)))


def events_named(rule: Rule) -> set[str]:
    """The events that the rule asks of."""
    if isinstance(rule, Did):
        return {rule.did}
    if isinstance(rule, First):
        return {rule.first.did}
    if isinstance(rule, Last):
        return {rule.last.did}
    if isinstance(rule, Then):
        return {step.did for step in rule.then}
    return set().union(*(events_named(part) for part in parts_of(rule)))
