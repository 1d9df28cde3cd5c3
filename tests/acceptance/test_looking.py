"""preview and explain: who is in, and why, with the numbers; on the sample shop, whose figures are counted here too."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from support.project import Project

from audience_sync import sample_shop
from audience_sync.cli.preview import sparkline

T = "2026-03-17"
EXTRA = """\
      - name: Twice
        who: {then: [{did: Order Completed}, {did: Order Completed, within: 3 days}]}
      - name: Fresh
        who: {any: [{first: {did: Order Completed, within: 7 days}}, {last: {did: Order Completed, until: 2026-01-10}}]}
      - name: Given
        sql: select id as user_id from customers where country = 'NL'
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    sample_shop.fill(f"sqlite:///{folder}/shop.db")
    return folder


@pytest.fixture
def looking(project: Project, shop: Path) -> Project:
    (project.folder / "shop.db").symlink_to(shop / "shop.db")
    project.write(sample_shop.JOBS_YAML + EXTRA)
    return project


def orders(project: Project, sql: str) -> list[tuple[str, int, float]]:
    with sa.create_engine(f"sqlite:///{project.folder}/shop.db").connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]  # type: ignore[misc]


def test_preview_counts_and_shows_some_with_their_facts(looking: Project) -> None:
    found = looking.quick("preview", "Big spenders", "--as-of", T, "--days", "3", "--members", "4", "--json").json
    wanted = orders(
        looking,
        "select customer_id, count(*), round(sum(revenue), 6) from orders where ordered_at > '2026-01-16 00:00:00' "
        "and ordered_at <= '2026-03-17 00:00:00' group by 1 having sum(revenue) >= 250 order by 1",
    )
    assert (found["audience"], found["size"], found["everyone"]) == ("big_spenders", len(wanted), 3000)
    assert found["share"] == pytest.approx(len(wanted) / 3000)
    shown = [
        (member["user_id"], member["because"]["facts"]["times"], member["because"]["facts"]["sum of revenue"])
        for member in found["members"]
    ]
    assert shown == [(user, count, pytest.approx(total)) for user, count, total in wanted[:4]]
    assert [day["as_of"] for day in found["days"]] == [f"2026-03-{day}T00:00:00Z" for day in (15, 16, 17)]
    assert found["days"][-1]["size"] == found["size"]
    assert {other["audience"] for other in found["overlap"]} >= {"Order Completed Last 30days", "Twice", "Given"}


@pytest.mark.slow
def test_preview_for_people(looking: Project) -> None:
    ran = looking.quick("preview", "gone_quiet_in_germany", "--as-of", T)
    assert ran.code == 0
    assert "of 3,000 people" in ran.out
    assert "everyone who did Order Completed at least 2 times, and whose country is DE, and who is not in" in ran.out
    assert any(bar in ran.out for bar in "▁▂▃▄▅▆▇█")
    assert "also in" in ran.out
    assert not (looking.folder / "audience_sync.db").exists(), "looking makes no state"


@pytest.mark.slow
@pytest.mark.parametrize("audience", ["Big spenders", "Gone quiet in Germany", "Twice", "Fresh", "Given"])
def test_explain_agrees_with_membership(looking: Project, audience: str) -> None:
    """Of the whole rule, and of each of its parts: a part holds as the audience that is only it would."""
    members = looking.quick("preview", audience, "--as-of", T, "--members", "2", "--days", "0", "--json").json
    inside = {member["user_id"] for member in members["members"]}
    assert inside
    for user in [*sorted(inside)[:1], "c00001", "nobody"]:  # the first of all ids is shown, if it is in
        found = looking.quick("explain", user, audience, "--as-of", T, "--json").json
        assert found["member"] == (user in inside)
        because = found["because"]
        parts = [part["holds"] for part in because.get("parts", [])]
        if because["rule"] == "all of these":
            assert because["holds"] == all(parts)
        if because["rule"] == "at least one of these":
            assert because["holds"] == any(parts)


@pytest.mark.slow
def test_explain_for_people(looking: Project) -> None:
    found = looking.quick("preview", "gone_quiet_in_germany", "--as-of", T, "--members", "1", "--json").json
    user = found["members"][0]["user_id"]
    said = looking.quick("explain", user, "Gone quiet in Germany", "--as-of", T).out
    ((count,),) = orders(looking, f"select count(*) from orders where customer_id = '{user}'")  # type: ignore[misc]
    assert f"{user} is in Gone quiet in Germany as of 2026-03-17T00:00:00Z" in said
    assert f"✓ did Order Completed at least 2 times  {count} times, first " in said
    assert "✓ has country DE  country DE" in said
    assert "✗ did Order Completed in the last 30 days  never" in said


def test_an_audience_that_is_not_there(looking: Project) -> None:
    for command in (["preview", "Big spender"], ["explain", "u", "Big spender"]):
        ran = looking.quick(*command)
        assert ran.code == 2
        assert "did you mean 'Big spenders'?" in ran.err


def test_sparkline() -> None:
    assert sparkline([0, 7, 3]) == "▁█▄"
    assert sparkline([5, 5]) == "▄▄"
