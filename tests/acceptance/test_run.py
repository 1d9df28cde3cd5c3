"""`plan`, `run` and `status`: exit codes, the guard, removed audiences, and what goes wrong around a sync."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from support import members
from support.project import Project

DEADLINE_SECONDS = 60


def shop(project: Project) -> str:
    return f"sqlite:///{project.folder}/shop.db"


def told(project: Project) -> list[tuple[str, object]]:
    found = [(call.body["userId"], value) for call in project.receiver.calls for value in call.body["traits"].values()]
    project.receiver.calls.clear()
    return sorted(found, key=str)


def test_the_documents_of_plan_and_run(project: Project) -> None:
    members.put(shop(project), ["u1", "u2"])
    project.write(members.jobs_yaml(project.url))
    planned = project.cli("plan", "--as-of", "1997-04-01", "--json")
    assert planned.code == 0
    assert not (project.folder / "audience_sync.db").exists()
    assert told(project) == []
    ran = project.cli("run", "--as-of", "1997-04-01", "--json")
    assert ran.code == 0
    document = ran.json  # the whole of stdout is one JSON document
    assert document["as_of"] == planned.json["as_of"] == "1997-04-01T00:00:00Z"
    (job,) = document["jobs"]
    (found,), (delivery,) = job.pop("computations"), job.pop("deliveries")
    assert job == {"job": "j", "status": "succeeded", "error": None}
    assert found.pop("seconds") >= 0
    assert delivery.pop("seconds") >= 0
    assert found == {
        "key": "a",
        "class": "audience",
        "initial": True,
        "held": False,
        "size": 2,
        "entered": 2,
        "exited": 0,
        "changed": 0,
        "skipped_ids": 0,
    }
    assert delivery == {"workflow": "crm", "delivered": 2, "pending": 0, "dead": 0, "superseded": 0}
    planned_job = planned.json["jobs"][0]
    assert (planned_job["status"], planned_job["deliveries"]) == ("succeeded", [])
    assert planned_job["computations"][0]["sample"] == {"entered": ["u1", "u2"]}
    assert told(project) == [("u1", True), ("u2", True)]
    assert "Nothing to do" in project.quick("plan").out
    members.put(shop(project), ["u2", "u3"])
    text = project.quick("plan").out
    assert "u1" in text
    assert "u3" in text
    assert told(project) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--as-of", "yesterday"], "1997-04-01"),
        (["run", "Lifecylce"], "no job 'Lifecylce'"),
        (["rnu"], "did you mean 'run'?"),
        (["run", "--allow-large-changes"], "--allow-large-change"),
        (["plan", "--as-of"], "argument"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_does_nothing(project: Project, arguments: list[str], words: str) -> None:
    members.put(shop(project), ["u1"])
    project.write(members.jobs_yaml(project.url))
    ran = project.quick(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert not (project.folder / "audience_sync.db").exists()
    assert list(project.quick(*arguments, "--json").json) == ["errors"]


def test_as_of_is_taken_in_utc_unless_it_says(project: Project) -> None:
    with sqlite3.connect(project.folder / "shop.db") as connection:
        connection.execute("create table orders (who text, at text)")
        connection.execute("insert into orders values ('u', '2026-03-01 12:00:00')")
    computed = "    audiences:\n      - {name: A, who: {did: Order, within: 1 hour}}\n"
    text = members.jobs_yaml(project.url, computed=computed)
    project.write(text.replace("workflows:", "events: {Order: {table: orders, user_id: who, at: at}}\nworkflows:", 1))

    def size(as_of: str) -> int:
        return int(project.quick("plan", "--as-of", as_of, "--json").json["jobs"][0]["computations"][0]["size"])

    assert [size(f"2026-03-01T{clock}") for clock in ("11:59:59", "12:00:00", "12:59:59", "13:00:00")] == [0, 1, 1, 0]
    assert size("2026-03-01T13:30:00+01:00") == 1
    assert size("2026-03-01 12:30") == 1
    assert size("2026-03-01") == 0


def test_the_guard_holds_a_large_change_until_it_is_allowed(project: Project) -> None:
    users = [f"u{n:04}" for n in range(1200)]
    members.put(shop(project), users)
    project.write(members.jobs_yaml(project.url))
    assert project.quick("run").code == 0  # a first sync is never held
    told(project)
    members.put(shop(project), users[:600])
    assert project.quick("run").code == 0  # half of them is not more than half
    assert len(told(project)) == 600
    members.put(shop(project), users)
    members.put(shop(project), [*users[:600], *(f"n{n}" for n in range(700))])
    project.receiver.calls.clear()
    assert project.quick("run").code == 0  # 600 members are fewer than the guard looks at
    told(project)
    members.put(shop(project), users[:600])
    for command in ("plan", "run"):
        ran = project.quick(command)
        assert ran.code == 3
        assert "54%" in ran.out
        assert "--allow-large-change" in ran.out
    held = project.quick("run", "--json")
    assert held.json["jobs"][0]["status"] == "held"
    assert held.json["jobs"][0]["computations"][0]["held"] is True
    assert told(project) == []
    assert "held" in project.quick("status").out
    assert project.quick("run", "--allow-large-change").code == 0
    assert len(told(project)) == 700
    assert project.quick("run").code == 0
    assert told(project) == []


def test_an_empty_snapshot_is_held_however_small_the_audience(project: Project) -> None:
    members.put(shop(project), ["u1", "u2"])
    project.write(members.jobs_yaml(project.url))
    assert project.quick("run").code == 0
    told(project)
    members.put(shop(project), [])
    ran = project.quick("run")
    assert ran.code == 3
    assert "all 2 would leave" in ran.out
    assert told(project) == []
    members.put(shop(project), ["u1", "u2"])
    assert project.quick("run").code == 0
    assert told(project) == []
    members.put(shop(project), [])
    assert project.quick("run", "--allow-large-change").code == 0
    assert told(project) == [("u1", False), ("u2", False)]


TWO = """\
    audiences:
      - {name: A, table: {name: members, user_id: user_id, where: {audience: a}}}
      - {name: B, table: {name: members, user_id: user_id, where: {audience: b}}}
"""


def test_a_removed_audience_is_kept_and_told_about(project: Project) -> None:
    members.put(shop(project), ["u1"])
    members.put(shop(project), ["u1", "u2"], audience="b")
    project.write(members.jobs_yaml(project.url, computed=TWO))
    assert project.quick("run").code == 0
    told(project)
    project.write(members.jobs_yaml(project.url))
    members.put(shop(project), ["u1"], audience="b")
    for command in ("plan", "run", "plan"):
        ran = project.quick(command)
        assert ran.code == 0
        assert "no longer in jobs.yaml" in ran.out
        assert told(project) == []
    status = project.quick("status")
    assert "b is no longer in jobs.yaml; its 2 members are kept" in status.out
    project.write(members.jobs_yaml(project.url, computed=TWO))  # back again: only what changed meanwhile
    assert project.quick("run").code == 0
    assert told(project) == [("u2", False)]


def test_on_remove_send_false_tells_the_members_of_a_removed_audience_once(project: Project) -> None:
    members.put(shop(project), ["u1"])
    members.put(shop(project), ["u1", "u2"], audience="b")
    job = "    on_remove: send false\n"
    project.write(members.jobs_yaml(project.url, job=job, computed=TWO))
    assert project.quick("run").code == 0
    told(project)
    project.write(members.jobs_yaml(project.url, job=job))
    plan = project.quick("plan")
    assert "its members are told false" in plan.out
    assert told(project) == []
    assert project.quick("run").code == 0
    assert told(project) == [("u1", False), ("u2", False)]
    assert project.quick("run").code == 0
    assert told(project) == []
    assert "no longer" not in project.quick("status").out
    project.write(members.jobs_yaml(project.url, job=job, computed=TWO))
    assert project.quick("run").code == 0
    assert told(project) == [("u1", True), ("u2", True)]


def test_a_removed_job_is_told_about(project: Project) -> None:
    members.put(shop(project), ["u1"])
    text = members.jobs_yaml(project.url)
    project.write(text)
    assert project.quick("run").code == 0
    told(project)
    project.write(text.replace("name: J", "name: K").replace("name: A,", "name: Other,"))
    for command in ("plan", "status"):
        ran = project.quick(command)
        assert ran.code == 0
        assert "no longer in jobs.yaml" in ran.out, command
    assert told(project) == []


def test_a_new_name_with_the_same_key_changes_nothing(project: Project) -> None:
    members.put(shop(project), ["u1"])
    project.write(members.jobs_yaml(project.url))
    assert project.quick("run").code == 0
    told(project)
    project.write(members.jobs_yaml(project.url).replace("name: A,", "name: The first ones, key: a,"))
    assert project.quick("run").code == 0
    assert told(project) == []


def test_sql_with_everything_in_it(project: Project) -> None:
    members.put(shop(project), ["50%", "x:y", "late"])
    sql = """
          -- those of today; nobody at 12:30
          select user_id /* who */ from members
          where user_id like '%:%' or user_id like '50\\%' escape '\\' and :as_of > '2026-01-01 00:00:00' -- and no more
          ;
"""
    computed = f"    audiences:\n      - name: A\n        sql: |{sql}"
    project.write(members.jobs_yaml(project.url, computed=computed))
    assert project.quick("run", "--as-of", "2026-02-01").code == 0
    assert told(project) == [("50%", True), ("x:y", True)]


@pytest.mark.slow
def test_two_runs_at_once(project: Project) -> None:
    members.put(shop(project), [f"u{n}" for n in range(64)])
    project.write(members.jobs_yaml(project.url))
    project.receiver.delay = 0.7
    first = project.start("run", "--json")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not project.quick("status", "--json").json["workflows"] and time.monotonic() < deadline:
        time.sleep(0.05)
    ran = project.quick("run", "--json")
    project.receiver.delay = 0
    assert ran.code == 1
    assert (ran.json["jobs"][0]["status"], ran.json["jobs"][0]["computations"]) == ("skipped", [])
    assert "another sync" in ran.json["jobs"][0]["error"]
    out, err = first.communicate(timeout=DEADLINE_SECONDS)
    assert first.returncode == 0, err
    assert json.loads(out)["jobs"][0]["deliveries"][0]["delivered"] == 64
    assert len(told(project)) == 64


def test_a_workflow_whose_address_is_wrong_is_told_at_once_and_nothing_is_lost(project: Project) -> None:
    members.put(shop(project), ["u1", "u2"])
    project.write(members.jobs_yaml(project.url))
    project.receiver.answer = lambda _path, _body: 404
    ran = project.quick("run", "--json")
    assert ran.code == 1
    job = ran.json["jobs"][0]
    assert job["status"] == "undelivered"
    assert "404" in job["error"]
    assert job["deliveries"][0]["pending"] == 2
    status = project.quick("status")
    assert "crm" in status.out
    assert "2" in status.out
    project.receiver.answer = None
    project.receiver.calls.clear()
    assert project.quick("run").code == 0
    assert [user for user, _ in told(project)] == ["u1", "u2"]


@pytest.mark.slow
def test_a_workflow_that_cannot_be_reached(project: Project) -> None:
    members.put(shop(project), ["u1"])
    project.write(members.jobs_yaml("http://127.0.0.1:1").replace("s3cret}", "s3cret, max_wait: 1 s}"))
    ran = project.cli("run", "--json")
    assert ran.code == 1
    job = ran.json["jobs"][0]
    assert (job["status"], job["deliveries"][0]["pending"]) == ("undelivered", 1)
    assert "could not be reached" in job["error"]
    assert "the next run goes on" in ran.err
    project.write(members.jobs_yaml(project.url))
    assert project.cli("run").code == 0
    assert told(project) == [("u1", True)]


@pytest.mark.parametrize("which", ["source", "state"])
def test_a_wrong_password(project: Project, new_database: Callable[[], str], which: str) -> None:
    url = sa.make_url(new_database()).set(password="wr0ng-secret").render_as_string(hide_password=False)
    members.put(shop(project), ["u1"])
    project.write(members.jobs_yaml(project.url, **{"source": shop(project), which: url}))
    commands = [["run"], ["plan"], ["validate", "--connect"]] + ([["status"], ["migrate"]] if which == "state" else [])
    for command in commands:
        ran = project.quick(*command)
        assert (ran.code, ran.out) == (2, ""), command
        assert ran.err.startswith(f"error {which}: postgresql")
        assert "password authentication failed" in ran.err
        assert "wr0ng-secret" not in ran.err
    assert told(project) == []


def test_a_server_that_is_not_there(project: Project) -> None:
    members.put(shop(project), ["u1"])
    nowhere = "postgresql://u:s3cr3t@127.0.0.1:1/x"
    for which in ("source", "state"):
        project.write(members.jobs_yaml(project.url, **{"source": shop(project), which: nowhere}))
        ran = project.quick("run")
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith(f"error {which}: postgresql")
        assert "refused" in ran.err
        assert "s3cr3t" not in ran.err
        assert len(ran.err.strip().splitlines()) == 1


@pytest.mark.parametrize("kilobytes", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_a_full_outbox_disk(project: Project, kilobytes: int) -> None:
    """The limit on file size makes writes fail as a full disk does, for root too."""
    members.put(shop(project), [f"user-{n:08}" for n in range(20_000)])
    project.write(members.jobs_yaml(project.url))
    ran = subprocess.run(
        ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash", *project.command("run", "--json")],
        capture_output=True,
        text=True,
        env=project.environment(),
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "state: sqlite" in ran.stderr
    assert "disk" in ran.stderr
    assert isinstance(json.loads(ran.stdout), dict)
    assert told(project) == []
    members.put(shop(project), ["u1"])
    assert project.quick("run").code == 0
    assert told(project) == [("u1", True)]


def test_a_source_is_never_written(project: Project) -> None:
    members.put(shop(project), ["u1"])
    before = (project.folder / "shop.db").read_bytes()
    (project.folder / "shop.db").chmod(0o444)
    project.write(members.jobs_yaml(project.url))
    for command in (["validate", "--connect"], ["plan"], ["run"], ["status"], ["run"]):
        assert project.quick(*command).code == 0
    assert (project.folder / "shop.db").read_bytes() == before
    assert not list(project.folder.glob("shop.db-*"))


def test_a_folder_that_cannot_hold_state(project: Project) -> None:
    members.put(shop(project), ["u1"])
    project.write(members.jobs_yaml(project.url, state="sqlite:///nowhere/state.db"))
    ran = project.quick("run")
    assert (ran.code, ran.out) == (2, "")
    assert "there is no folder nowhere/" in ran.err


SECRETS = ["p4th-tok3n", "qu3ry-tok3n", "us3r-p4ss", "sh4red-s3cret", "db-p4ss"]


def test_no_secret_is_shown_or_kept_anywhere(project: Project, new_database: Callable[[], str]) -> None:
    """DESIGN, rule 9: in no output of any command, in no error, and not in state."""
    url = new_database()
    members.put(url, ["u1"])
    project.write(
        f"""\
version: 1
source: {url}
state: sqlite:///state.db
workflows:
  gone: {{url: "http://user:us3r-p4ss@127.0.0.1:1/p4th-tok3n/x?t=qu3ry-tok3n", shared_secret: sh4red-s3cret}}
  crm: {{url: "{project.url}/p4th-tok3n?t=qu3ry-tok3n", shared_secret: sh4red-s3cret}}
  bad: {{url: "${{BAD}}", shared_secret: "${{SECRET}}"}}
jobs:
  - name: J
    workflows: [crm]
    audiences:
      - {{name: A, table: {{name: members, user_id: user_id}}}}
  - name: K
    workflows: [crm, bad]
    audiences:
      - {{name: B, sql: "select nothing as user_id"}}
"""
    )
    project.env = {"BAD": "no address p4th-tok3n", "SECRET": "sh4red-s3cret"}
    project.receiver.answer = lambda _path, _body: 401
    shown = []

    def show(*arguments: str) -> None:
        ran = project.quick(*arguments)
        shown.append(ran.out + ran.err)

    everything = [["validate"], ["validate", "--connect"], ["plan"], ["run"], ["run", "J"], ["status"], ["migrate"]]
    everything += [["history"], ["plan", "J"]]
    for command in everything:
        show(*command)
        show(*command, "--json")
    project.env["BAD"] = "http://127.0.0.1:1/p4th-tok3n"
    for command in everything:
        show(*command)
        show(*command, "--json")
    password = str(sa.make_url(url).password)
    assert any("answered 401" in text for text in shown)
    for text in shown:
        for secret in [*SECRETS, password]:
            assert secret not in text
    for file in project.folder.iterdir():
        if file.is_file() and file.name != "jobs.yaml":
            for secret in [*SECRETS, password]:
                assert secret.encode() not in file.read_bytes(), file.name
