"""Whether a user's `sql:` is one SELECT by itself. The databases refuse writes too; this says it sooner."""

from __future__ import annotations

import re

# What may hold a semicolon or a bracket that means nothing: comments and quoted texts, PostgreSQL's $tag$ … $tag$ too.
_QUIET = re.compile(
    r"--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*(?:'|\Z)|\"(?:[^\"]|\"\")*(?:\"|\Z)|`[^`]*(?:`|\Z)"
    r"|\$([A-Za-z_]\w*)?\$.*?(?:\$\1\$|\Z)",
    re.DOTALL,
)


def problem_of(sql: str) -> str | None:
    """Why this text cannot stand as a computation's SQL, or None."""
    bare = _QUIET.sub(" ", sql).strip()
    bare = re.sub(r"[\s;]+\Z", "", bare)
    if not bare:
        return "is empty"
    if not re.match(r"\(*\s*(select|with|values|from|table)\b", bare, re.IGNORECASE):
        return "expected a SELECT; nothing else can be computed from"
    if ";" in bare:
        return "holds more than one statement; expected one SELECT"
    depth = 0
    for bracket in re.findall(r"[()]", bare):
        depth += 1 if bracket == "(" else -1
        if depth < 0:
            break
    if depth:
        return "its brackets do not match"
    return None
