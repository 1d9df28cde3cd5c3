"""The JSON Schema of jobs.yaml, made from the models, for editors to complete and check it.

https://json-schema.org/draft/2020-12. Shipped as `jobs.schema.json` beside this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audience_sync.config.model import Config
from audience_sync.config.yaml_file import INCLUDED

SHIPPED = Path(__file__).with_name("jobs.schema.json")
_VARIABLE = {"type": "string", "pattern": r"^\$\{.+\}$", "description": "from the environment"}


def json_schema() -> dict[str, Any]:
    """A file that other files include, and one that is included, are both right by it."""
    made = Config.model_json_schema(by_alias=True)
    definitions = {name: _strict(_readable(part)) for name, part in made.pop("$defs").items()}
    whole = _strict(_readable(made))
    part = {
        "type": "object",
        "description": "a file that another names under include:",
        "properties": {name: whole["properties"][name] for name in INCLUDED},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "jobs.yaml of audience-sync",
        "if": {"anyOf": [{"required": [name]} for name in ("version", "workflows", "source")]},
        "then": whole,
        "else": part,
        "$defs": definitions,
    }


def _strict(part: dict[str, Any]) -> dict[str, Any]:
    if "properties" in part:
        part["additionalProperties"] = False
        # a key left blank is a key not given
    return part


def _readable(part: Any) -> Any:
    """Without pydantic's titles, and with `${NAME}` wherever a number or a switch may stand."""
    if isinstance(part, list):
        return [_readable(item) for item in part]
    if not isinstance(part, dict):
        return part
    kept = {
        key: {name: _readable(value) for name, value in found.items()} if key == "properties" else _readable(found)
        for key, found in part.items()
        if not (key == "title" and isinstance(found, str))
    }
    if kept.get("type") in ("integer", "number", "boolean"):
        outer = {word: kept.pop(word) for word in ("description", "default", "examples") if word in kept}
        return {**outer, "anyOf": [kept, _VARIABLE]}
    return kept
