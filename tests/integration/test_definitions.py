"""A rule that changed is told as such, with who enters and leaves because of it; a new name alone is not."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from support.project import Project

OLD = "{did: Bought, within: 30 days}"
NEW = "{did: Bought, within: 30 days, at_least: 2}"
BUYS = {
    "stays": ["2026-01-20", "2026-01-21"],
    "by time in": ["2026-02-10", "2026-02-11"],
    "by time out": ["2026-01-02", "2026-01-03"],
    "by rule out": ["2026-01-25"],
    "never in": ["2026-02-12"],  # entered by time, but the new rule keeps it out
}


def write(project: Project, audiences: str, *, job: str = "") -> None:
    project.write(
        f"""\
version: 1
source: {project.env.get("SOURCE", "sqlite:///shop.db")}
state: {project.env.get("STATE", "sqlite:///state.db")}
events: {{Bought: {{table: buys, user_id: who, at: at}}}}
workflows: {{w: {{url: "{project.url}/w", shared_secret: s3cret}}}}
jobs:
  - name: J
{job}    audiences:
{audiences}"""
    )


def audience(name: str, who: str, key: str = "") -> str:
    return f"      - {{name: {name}, {f'key: {key}, ' if key else ''}who: {who}}}\n"


def buys(url: str) -> None:
    with sa.create_engine(url, poolclass=sa.pool.NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE buys (who text, at date)")
        for user, days in BUYS.items():
            for day in days:
                connection.exec_driver_sql(f"INSERT INTO buys VALUES ('{user}', '{day}')")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def shop(project: Project, request: pytest.FixtureRequest) -> Project:
    url = f"sqlite:///{project.folder}/shop.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("new_database")()
        project.env |= {"SOURCE": url, "STATE": url}
    buys(url)
    write(project, audience("Buyers", OLD))
    assert project.quick("migrate").code == 0
    return project


def computations(project: Project, *command: str) -> dict[str, Any]:
    ran = project.quick(*command, "--json")
    return {found["key"]: found for found in ran.json["jobs"][0]["computations"]}


def test_who_enters_and_leaves_because_of_the_new_rule(shop: Project) -> None:
    assert computations(shop, "run", "--as-of", "2026-01-30")["buyers"]["size"] == 3
    write(shop, audience("Buyers", NEW))
    planned = computations(shop, "plan", "--as-of", "2026-02-15")["buyers"]
    assert planned["redefined"] is True
    assert (planned["entered"], planned["exited"]) == (1, 2)
    assert planned["by_rule"] == {
        "entered": 0,
        "exited": 2,
        "sample": {"entered": [], "exited": ["by rule out", "never in"]},
    }
    said = shop.quick("plan", "--as-of", "2026-02-15").out
    assert "buyers definition changed: 2 out because of it (by rule out, never in)" in said
    ran = computations(shop, "run", "--as-of", "2026-02-15")["buyers"]
    assert ran["by_rule"] == planned["by_rule"]
    assert "redefined" not in computations(shop, "run", "--as-of", "2026-02-15")["buyers"], "told once"


def test_an_audience_changes_with_one_that_it_names(shop: Project) -> None:
    write(shop, audience("Buyers", OLD) + audience("Others", "{not: {in: Buyers}}"))
    computations(shop, "run", "--as-of", "2026-01-30")
    write(shop, audience("Buyers", NEW) + audience("Others", "{not: {in: Buyers}}"))
    found = computations(shop, "plan", "--as-of", "2026-01-30")["others"]
    assert found["by_rule"]["sample"]["entered"] == ["by rule out"]


def test_renaming_with_the_key_kept_is_silent(shop: Project) -> None:
    write(shop, audience("Buyers", OLD) + audience("Others", "{not: {in: Buyers}}"))
    computations(shop, "run", "--as-of", "2026-01-30")
    shop.receiver.calls.clear()
    write(shop, audience("Customers", OLD, "buyers") + audience("Others", "{not: {in: Customers}}"))
    found = computations(shop, "run", "--as-of", "2026-01-30")
    assert all("redefined" not in one and not one["entered"] and not one["exited"] for one in found.values())
    assert shop.receiver.calls == []


def test_a_changed_key_is_one_removed_and_one_added(shop: Project) -> None:
    computations(shop, "run", "--as-of", "2026-01-30")
    write(shop, audience("Customers", OLD), job="    on_remove: send false\n")
    found = computations(shop, "plan", "--as-of", "2026-01-30")
    assert found["customers"]["formerly"] == "buyers"
    assert (found["buyers"]["removed"], found["buyers"]["exited"]) == (True, 3)
    said = shop.quick("plan", "--as-of", "2026-01-30").out
    assert "until now it was buyers: to go on under that key, write key: buyers" in said
    assert "no longer in jobs.yaml: its members are told false" in said


def test_the_guard_holds_a_change_of_definition_too(shop: Project) -> None:
    computations(shop, "run", "--as-of", "2026-01-30")
    write(shop, audience("Buyers", "{did: Bought, at_least: 9}"))
    held = shop.quick("run", "--as-of", "2026-01-30", "--json")
    assert held.code == 3
    assert held.json["jobs"][0]["computations"][0]["by_rule"]["exited"] == 3
    again = computations(shop, "run", "--as-of", "2026-01-30", "--allow-large-change")["buyers"]
    assert (again["redefined"], again["exited"]) == (True, 3), "what was held is still a change"
