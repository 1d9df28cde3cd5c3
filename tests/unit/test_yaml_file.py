"""Scalars as YAML 1.2 reads them, and variables filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audience_sync.config.yaml_file import Document, read_yaml


def read(folder: Path, text: str, **environ: str) -> Document:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path, environ)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("NO", "NO"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("12", 12),
        ("+12", 12),
        ("-0", "-0"),
        ("007", "007"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("12345678901234567890", "12345678901234567890"),
        ("'12'", "12"),
        ('"12"', "12"),
        ('"\\ud83d\\udc4b"', "👋"),
        ("= 1", "= 1"),
    ],
)
def test_scalars(tmp_path: Path, written: str, value: Any) -> None:
    found = read(tmp_path, f"a: {written}\n").data["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${A}", "x: [y"),
        ("'${A}'", "x: [y"),
        ('"${A}"', "x: [y"),
        ("p${A}s", "px: [ys"),
        ("${B:-d}", "d"),
        ("${E:-d}", "d"),
        ("${B:-}", ""),
        ("${B:-a:b-c}", "a:b-c"),
        ("$${A}", "${A}"),
        ("$A", "$A"),
        ("|\n  ${A}\n", "x: [y\n"),
    ],
)
def test_variables(tmp_path: Path, written: str, value: str) -> None:
    document = read(tmp_path, f"a: {written}\n", A="x: [y", E="")
    assert document.data["a"] == value
    assert document.problems == []


def test_a_filled_in_value_is_never_shown_by_its_place(tmp_path: Path) -> None:
    document = read(tmp_path, "a: {b: '${A}'}", A="s3cret")
    assert document.place(("a", "b")).written == "${A}"


def test_places(tmp_path: Path) -> None:
    document = read(tmp_path, "a:\n  - name: first\n    x: 1\n  - [7, {y: 2}]\n")
    place = document.place(("a", 0, "x"))
    assert (place.line, place.column) == (3, 8)
    key = document.place(("a", 0, "x"), of_key=True)
    assert (key.line, key.column) == (3, 5)
    deep = document.place(("a", 1, 1, "y"))
    assert (deep.line, deep.column) == (4, 13)
    assert document.title(("a", 0, "x")) == "a › first › x"
    assert document.title(("a", 1, 0)) == "a › no. 2 › no. 1"
    nearest = document.place(("a", 0, "missing"))
    assert (nearest.line, nearest.column) == (2, 5)
