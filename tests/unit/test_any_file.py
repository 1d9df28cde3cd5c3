"""Whatever stands in jobs.yaml, it is either right or told as mistakes with places: never another exception."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audience_sync.cli.init import SAMPLE
from audience_sync.config import load_config
from audience_sync.errors import ConfigError

WHOLE = """
version: 1
source: sqlite:///shop.db
state: sqlite:///s.db
space: spa_x
events:
  Order: {table: orders, user_id: c, at: t}
  "*": {table: tracks, user_id: u, name: event, at: t}
people: {table: customers, user_id: id}
workflows:
  crm: {url: "http://h/x", shared_secret: s, rate: 200/s, concurrency: 8, timeout: 5 s}
jobs:
  - name: J
    schedule: every 2 hours
    timezone: UTC
    workflows: [crm]
    guard: 20%
    on_remove: keep
    audiences:
      - name: A
        who: {did: Order, within: 30 days, at_least: 2, where: {x: {gte: 50}, y: [a, b], z: null}}
      - name: B
        key: b
        who: {all: [{has: {country: DE}}, {not: {in: A}}, {any: [{did: Other, exactly: 0}]}]}
      - {name: C, sql: select 1 as user_id}
      - {name: D, table: {name: m, user_id: u, where: {a: b}}}
    traits:
      - {name: T, sql: "select 1 as user_id, 2 as value"}
"""

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["${X}", "${X:-y}", "A", "crm", "Order", "*", "30 days", "99999999999 years", "who", "9999-12-31"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "did", "in", "x", "all"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(found for step, inner in steps for found in paths(inner, (*here, step)))]


BASE = yaml.safe_load(WHOLE)
PLACES = paths(BASE)


def load(text: str, folder: Path) -> None:
    path = folder / "jobs.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        load_config(path, {})
    except ConfigError as error:
        assert error.problems()
        for problem in error.problems():
            assert problem.message
            assert str(path) in str(problem)
            assert len(problem.message) < 2000


def test_the_whole_file_is_right(tmp_path: Path) -> None:
    (tmp_path / "jobs.yaml").write_text(WHOLE.replace(", z: null", ""))
    load_config(tmp_path / "jobs.yaml", {})


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), junk), min_size=1, max_size=3))
@example(changes=[(("jobs", 0, "workflows"), [["a"]])])
def test_anything_anywhere(tmp_path: Path, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    data = copy.deepcopy(BASE)
    for path, value in changes:
        if not path:
            data = value
            continue
        around = data
        try:
            for step in path[:-1]:
                around = around[step]
            around[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue
    load(json.dumps(data), tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, len(WHOLE)), cut=st.integers(0, 20), text=st.text(max_size=6))
def test_any_edit(tmp_path: Path, at: int, cut: int, text: str) -> None:
    load(WHOLE[:at] + text.encode("utf-8", "replace").decode() + WHOLE[at + cut :], tmp_path)


def test_every_prefix_of_the_sample(tmp_path: Path) -> None:
    for end in range(0, len(SAMPLE), 37):
        load(SAMPLE[:end], tmp_path)
