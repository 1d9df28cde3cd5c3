"""The rule language of `who` (DESIGN, "Rules"), as types. What a rule means is defined in `computations`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from audience_sync.config.durations import DurationField, MomentField
from audience_sync.config.strict import Strict

Scalar = bool | int | float | str


class Test(Strict):
    """What a property must be. Several given together must all hold; a missing value meets only `exists: false`."""

    __test__ = False  # not a pytest class

    eq: Scalar | None = None
    ne: Scalar | None = None
    gt: Scalar | None = None
    gte: Scalar | None = None
    lt: Scalar | None = None
    lte: Scalar | None = None
    in_: list[Scalar] | None = Field(None, alias="in")
    not_in: list[Scalar] | None = None
    contains: str | None = None
    starts_with: str | None = None
    ends_with: str | None = None
    exists: bool | None = None
    before: MomentField | None = None
    after: MomentField | None = None
    within: DurationField | None = None

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


TestField = Annotated[Test, BeforeValidator(_as_test)]
Tests = Annotated[dict[str, TestField], Field(min_length=1)]


class Did(Strict):
    """People who did an event, so often, in a window."""

    did: str
    within: DurationField | None = None
    between: tuple[DurationField, DurationField] | None = None
    since: MomentField | None = None
    until: MomentField | None = None
    at_least: int | None = Field(None, ge=1)
    at_most: int | None = Field(None, ge=0)
    exactly: int | None = Field(None, ge=0)
    where: Tests | None = None
    sum: Tests | None = None
    avg: Tests | None = None
    min: Tests | None = None
    max: Tests | None = None

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
        if len(given & {"within", "between"}) == 2:
            raise PydanticCustomError("window", "within and between cannot stand together: keep one of them")
        return self


class Has(Strict):
    """People with these traits, in the table named by `people`."""

    has: Tests


class In(Strict):
    """The members of another audience."""

    in_: str = Field(alias="in")


class All(Strict):
    """Those in every one of the rules."""

    all_: list[Rule] = Field(alias="all", min_length=1)


class Any_(Strict):
    """Those in at least one of the rules."""

    any_: list[Rule] = Field(alias="any", min_length=1)


class Not(Strict):
    """Everyone known who is not in the rule."""

    not_: Rule = Field(alias="not")


RULE_WORDS = ("did", "has", "in", "all", "any", "not")
_MODELS = {"did": Did, "has": Has, "in": In, "all": All, "any": Any_, "not": Not}


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
    | Annotated[All, Tag("rule all")]
    | Annotated[Any_, Tag("rule any")]
    | Annotated[Not, Tag("rule not")],
    Discriminator(_which),
    BeforeValidator(_is_a_mapping),
]

for _model in (All, Any_, Not):
    _model.model_rebuild()
