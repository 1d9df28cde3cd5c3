"""The base of every model of jobs.yaml: unknown keys are told with what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from audience_sync.config.yaml_file import Document, Located

LONGEST_WORD = 100
MOST_UNKNOWN = 50
"""So many unknown keys of one mapping are told."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'? ` or what is known, when nothing is near."""
    names = list(known)
    folded = {name.lower(): name for name in names}
    # a name of a thousand letters is a mistake of another kind, and takes long to compare
    near = difflib.get_close_matches(str(word)[:LONGEST_WORD].lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    if not names:
        return ""
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"known here: {shown}"


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Located) or not isinstance(info.context, Document):
            return data
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [key for key in data if key not in known][:MOST_UNKNOWN]
        for key, value in data.items():
            if key in unknown:
                cut_off = value is None and " " in str(key)
                hint = (
                    'a comma inside { } ends the value before it: put such a value in "quotes"'
                    if cut_off
                    else did_you_mean(key, known)
                )
                info.context.problems.append(
                    info.context.problem((*data.path, key), f"{key!r} is not known here", hint, of_key=True)
                )
        # a key left blank is a key not given
        return {key: value for key, value in data.items() if key in known and value is not None}
