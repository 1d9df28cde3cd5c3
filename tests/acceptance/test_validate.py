"""`validate`: every mistake at once, each with its place, its value, what was expected, and what was probably meant."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from support.project import Project

GOOD = """\
version: 1
source: sqlite:///shop.db
events:
  Order Completed: {table: orders, user_id: customer_id, at: ordered_on}
people: {table: customers, user_id: id}
workflows:
  crm:
    url: https://tray.example/hooks/tok3n
jobs:
  - name: Lifecycle
    schedule: every 2 hours
    audiences:
      - name: Order Completed Last 30days
        who: {did: Order Completed, within: 30 days}
      - name: Big spenders
        who: {did: Order Completed, at_least: 3, where: {revenue: {gte: 50}}}
"""


def fill_shop(folder: Path) -> None:
    with sqlite3.connect(folder / "shop.db") as shop:
        shop.execute("create table orders (customer_id text, ordered_on text, revenue real)")
        shop.execute("create table customers (id text, country text)")


def test_a_right_file_is_told_with_keys_rules_and_next_runs(project: Project) -> None:
    project.write(GOOD)
    fill_shop(project.folder)
    ran = project.quick("validate", "--connect", "--json")
    assert (ran.code, ran.err) == (0, "")
    job = ran.json["jobs"][0]
    assert [c["key"] for c in job["computations"]] == ["order_completed_last_30days", "big_spenders"]
    assert job["computations"][0]["rule"] == "everyone who did Order Completed in the last 30 days"
    assert len(job["next_runs"]) == 3
    text = project.quick("validate").out
    assert "order_completed_last_30days" in text
    assert "did Order Completed in the last 30 days" in text
    assert "every 2 hours" in text
    assert {path.name for path in project.folder.iterdir()} == {"jobs.yaml", "shop.db"}


MISTAKES = [
    # what is written instead of what, where the mistake is (line:column), what must be told
    ("within: 30 days", "within: 30 dayz", "14:45", ["'30 dayz'", "expected a number and a unit", "30 days"]),
    ("within: 30", "whithin: 30", "14:37", ["'whithin' is not known", "did you mean 'within'?"]),
    ("at_least: 3", "at_least: some", "16:47", ["'some'", "expected a whole number"]),
    ("at_least: 3", "at_least: 0", "16:47", ["'0'", "at least 1"]),
    ("who: {did: Order Completed, within", "who: {did: Order Complete, within", "14:20", ["did you mean 'Order Compl"]),
    ("schedule: every 2 hours", "schedule: hourly", "11:15", ["'hourly'", "expected every 2 hours"]),
    ("schedule: every 2 hours", "cron: 0 25 * * *", "11:11", ["'0 25 * * *'", "expected five fields of cron"]),
    ("schedule: every 2 hours", "timezone: Berlin", "11:15", ["'Berlin'", "Europe/Berlin"]),
    ("schedule: every 2 hours", "guard: 0.5", "11:12", ["'0.5'", "50%"]),
    ("schedule: every 2 hours", "on_remove: drop", "11:16", ["'drop'", "expected keep, or send false"]),
    ("schedule: every 2 hours", "workflows: [cmr]", "11:17", ["'cmr'", "did you mean 'crm'?"]),
    ("https://tray.example/hooks/tok3n", "ftp://tray.example", "8:10", ["web address"]),
    ("sqlite:///shop.db", "oracel://x", "2:9", ["database"]),
    ("name: Big spenders", "name: '!!!'", "15:9", ["'!!!'", "letter or digit", "key:"]),
    ("name: Big spenders", "name: order-completed LAST 30days", "15:15", ["order_completed_last_30days", "key:"]),
    ("name: Big spenders", "name: 2024", "15:15", ["'2024'", "expected text", "quotes"]),
    ("gte: 50", "gtee: 50", "16:68", ["'gtee'", "did you mean 'gte'?"]),
    ("version: 1", "version: 2", "1:10", ["'2'", "version: 1"]),
    ("people:", "poeple:", "5:1", ["'poeple'", "did you mean 'people'?"]),
    ("people: {table: customers, user_id: id}", "people: customers", "5:9", ["'customers'", "names with values"]),
    (
        "who: {did: Order Completed, within: 30 days}",
        "who: {in: Big spender}",
        "14:19",
        ["did you mean 'Big spenders'?"],
    ),
    ("who: {did: Order Completed, within: 30 days}", "sql: ''\n        who: {has: {a: 1}}", "13:9", ["exactly one of"]),
    ("who: {did: Order Completed, within: 30 days}", "who: {in: Order Completed Last 30days}", "14:14", ["circle"]),
    ("who: {did: Order Completed, within: 30 days}", "who: [{did: Order Completed}]", "14:14", ["all:", "any:"]),
    ("who: {did: Order Completed, within: 30 days}", "who: {dud: Order Completed}", "14:14", ["did you mean 'did'?"]),
    ("  crm:\n", "  crm:\n    rate: fast\n", "8:11", ["'fast'", "200/s"]),
    ("  crm:\n", "  crm:\n    concurrency: 0\n", "8:18", ["'0'", "at least 1"]),
]


@pytest.mark.parametrize(("right", "wrong", "place", "told"), MISTAKES, ids=[mistake[1] for mistake in MISTAKES])
def test_a_mistake_is_told_with_place_value_and_remedy(
    project: Project, right: str, wrong: str, place: str, told: list[str]
) -> None:
    assert right in GOOD
    path = project.write(GOOD.replace(right, wrong, 1))
    ran = project.quick("validate")
    assert (ran.code, ran.out) == (2, "")
    assert f"{path}:{place}: " in ran.err
    for words in told:
        assert words in ran.err


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(project: Project) -> None:
    mistakes = [
        mistake for mistake in MISTAKES if mistake[1] in ("poeple:", "schedule: hourly", "within: 30 dayz", "gtee: 50")
    ]
    text = GOOD
    for right, wrong, _, _ in mistakes:
        text = text.replace(right, wrong, 1)
    project.write(text)
    ran = project.quick("validate", "--json")
    assert ran.code == 2
    places = [f"{error['line']}:{error['column']}" for error in ran.json["errors"]]
    assert places == ["5:1", "11:15", "14:45", "16:68"]
    for error in ran.json["errors"]:
        assert f":{error['line']}:{error['column']}: " in ran.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("jobs: [", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("a:\n\t- b", "not valid YAML"),
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("hello", "expected names with values"),
        ("- a", "expected names with values"),
        ("workflows:\n  crm: {url: ${TRAY_URL}}", 'put a variable in quotes: "${NAME}"'),
        ("a: !python/object:os.system x", "tag"),
        ("a: &a [*a]", "too many values"),
        ("a: " + "[" * 60 + "]" * 60, "nested deeper"),
        ("version: 1\nversion: 1", "a second time (first on line 1)"),
    ],
)
def test_bad_yaml_is_told_in_one_line_with_its_place(project: Project, text: str, told: str) -> None:
    path = project.write(text)
    ran = project.quick("validate")
    assert ran.code == 2
    assert f"{path}:" in ran.err
    assert told in ran.err


def test_a_file_that_is_not_there_or_not_text(project: Project) -> None:
    assert "audience-sync init" in project.quick("validate").err
    (project.folder / "jobs.yaml").write_bytes(GOOD.encode("utf-16"))
    assert "save it as UTF-8" in project.quick("validate").err
    (project.folder / "jobs.yaml").unlink()
    (project.folder / "jobs.yaml").mkdir()
    ran = project.quick("validate")
    assert ran.code == 2
    assert "cannot be read" in ran.err


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(project: Project) -> None:
    text = GOOD.replace("within: 30 days", "within: 30 dayz")
    (project.folder / "jobs.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert ":14:45: " in project.quick("validate").err
    (project.folder / "jobs.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert project.quick("validate").code == 0


def test_variables(project: Project) -> None:
    project.write(
        GOOD.replace("sqlite:///shop.db", "${SHOP_DB}").replace(
            "https://tray.example/hooks/tok3n",
            "'${TRAY_URL}'\n    shared_secret: ${TRAY_SECRET:-}\n    rate: ${RATE:-200/s}",
        )
    )
    ran = project.quick("validate")
    assert ran.code == 2
    assert ":2:9: source: the environment variable SHOP_DB is not set" in ran.err
    assert ":8:10: workflows › crm › url: the environment variable TRAY_URL is not set" in ran.err
    assert ran.err.count("error") == 2
    project.env = {"SHOP_DB": "sqlite:///shop.db", "TRAY_URL": ""}
    assert "TRAY_URL is set to nothing" in project.quick("validate").err
    project.env["TRAY_URL"] = "https://tray.example/hooks/tok3n"  # in single quotes too
    assert project.quick("validate").code == 0


@pytest.mark.parametrize(
    ("right", "wrong", "place", "told"),
    [
        ("table: orders", "table: ordrs", "4:20", ["no table 'ordrs'", "did you mean 'orders'?"]),
        ("customer_id", "costumer_id", "4:20", ["no column 'costumer_id'", "did you mean 'customer_id'?"]),
        ("revenue", "revenu", "15:9", ["no column 'revenu'", "did you mean 'revenue'?"]),
        (
            "who: {did: Order Completed, within: 30 days}",
            "sql: select nobody as user_id from orders",
            "14:14",
            ["no such column: nobody"],
        ),
        ("who: {did: Order Completed, within: 30 days}", "sql: select from", "14:14", ["syntax error"]),
        (
            "who: {did: Order Completed, within: 30 days}",
            "sql: select customer_id from orders",
            "14:14",
            ["must select user_id"],
        ),
    ],
)
def test_what_the_source_lacks(project: Project, right: str, wrong: str, place: str, told: list[str]) -> None:
    fill_shop(project.folder)
    path = project.write(GOOD.replace(right, wrong, 1))
    assert project.quick("validate").code == 0
    for command in (["validate", "--connect"], ["plan"], ["run"]):
        ran = project.quick(*command)
        assert (ran.code, ran.out) == (2, "")
        assert f"{path}:{place}: " in ran.err
        assert ran.err.count("error") - ran.err.count("syntax error") == 1
        for words in told:
            assert words in ran.err
    assert not (project.folder / "audience_sync.db").exists(), "nothing may be half done"


def test_a_source_that_is_not_there_or_no_database(project: Project) -> None:
    project.write(GOOD)
    ran = project.quick("run")
    assert ran.code == 2
    assert "there is no file shop.db" in ran.err
    (project.folder / "shop.db").write_text("not a database " * 100)
    ran = project.quick("run")
    assert ran.code == 2
    assert "file is not a database" in ran.err
