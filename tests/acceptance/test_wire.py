"""What goes over the wire (DESIGN, "On the wire"), read byte by byte by a server that knows nothing of the product."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa
from support import members
from support.project import Project

from audience_sync import __version__

IDS = [
    "007",
    "7",
    " a",
    "a ",
    "a",
    "A",
    "É",
    "E\u0301",
    "é",
    "👩‍👩‍👧",
    'quote " backslash \\ slash /',
    "tab\tline\nreturn\rend",
    "null",
    "None",
    "NaN",
    "0",
    "true",
    "\\.",
    "x,y;z",
    "%s %d :id",
    "x" * 512,
    "名" * 170 + "ab",
    "\u2028",
    "\ufeffbom",
]


class Wire:
    """Takes POST requests; `answers` gives the status of each next one, then 200."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.requests]


@pytest.fixture
def wire() -> Iterator[tuple[Wire, str]]:
    made = Wire()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(made.answers.pop(0) if made.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_every_byte_of_the_identify_call(project: Project, wire: tuple[Wire, str]) -> None:
    made, url = wire
    source = f"sqlite:///{project.folder}/shop.db"
    members.put(source, ["00001"])
    project.write(
        f"""\
version: 1
source: sqlite:///shop.db
workflows:
  crm: {{url: "{url}/hook?token=t0ken", shared_secret: "s€cret"}}
jobs:
  - name: J
    audiences:
      - {{name: Order Completed Last 30days, table: {{name: members, user_id: user_id}}}}
    traits:
      - {{name: Lifetime value, sql: "select user_id, 12.5 as value from members"}}
"""
    )
    assert project.quick("run", "--as-of", "1997-04-01").code == 0
    assert [path for path, _, _ in made.requests] == ["/hook?token=t0ken"] * 2
    for _, headers, raw in made.requests:
        assert headers["content-type"] == "application/json"
        assert headers["user-agent"] == f"audience-sync/{__version__}"
        assert headers["x-signature"] == hmac.new("s€cret".encode(), raw, hashlib.sha1).hexdigest()
        assert int(headers["content-length"]) == len(raw)
    bodies = {body["context"]["personas"]["computation_class"]: body for body in made.bodies()}
    audience, trait = bodies["audience"], bodies["computed_trait"]
    personas = audience["context"]["personas"]
    assert re.fullmatch(r"aud_\w+", personas["computation_id"])
    assert re.fullmatch(r"spa_\w+", personas["space_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", audience["sentAt"])
    assert audience == {
        "type": "identify",
        "userId": "00001",
        "traits": {"order_completed_last_30days": True},
        "context": {
            "personas": {
                "computation_class": "audience",
                "computation_key": "order_completed_last_30days",
                "computation_id": personas["computation_id"],
                "namespace": personas["space_id"],
                "space_id": personas["space_id"],
            },
            "library": {"name": "audience-sync", "version": __version__},
        },
        "integrations": {"All": False, "tray.io": True},
        "messageId": audience["messageId"],
        "timestamp": "1997-04-01T00:00:00.000Z",
        "originalTimestamp": "1997-04-01T00:00:00.000Z",
        "sentAt": audience["sentAt"],
        "version": 2,
        "channel": "server",
    }
    assert trait["traits"] == {"lifetime_value": 12.5}
    assert trait["context"]["personas"]["computation_key"] == "lifetime_value"
    assert trait["context"]["personas"]["space_id"] == personas["space_id"]
    assert trait["messageId"] != audience["messageId"]


def test_space_is_taken_from_jobs_yaml_and_no_secret_means_no_signature(
    project: Project, wire: tuple[Wire, str]
) -> None:
    made, url = wire
    members.put(f"sqlite:///{project.folder}/shop.db", ["u"])
    text = members.jobs_yaml(url).replace("s3cret", '""').replace("version: 1", "version: 1\nspace: spa_mine")
    project.write(text)
    assert project.quick("run").code == 0
    ((_, headers, raw),) = made.requests
    assert "x-signature" not in headers
    personas = json.loads(raw)["context"]["personas"]
    assert (personas["namespace"], personas["space_id"]) == ("spa_mine", "spa_mine")


def test_a_repeat_carries_the_same_message_id(project: Project, wire: tuple[Wire, str]) -> None:
    made, url = wire
    members.put(f"sqlite:///{project.folder}/shop.db", ["u"])
    project.write(members.jobs_yaml(url))
    made.answers = [503, 500]
    assert project.quick("run").code == 0
    assert len(made.requests) == 3
    first, *others = made.bodies()
    for body in others:
        assert {**body, "sentAt": 0} == {**first, "sentAt": 0}
    members.put(f"sqlite:///{project.folder}/shop.db", [])
    members.put(f"sqlite:///{project.folder}/shop.db", ["other"])
    assert project.quick("run", "--allow-large-change").code == 0
    assert len({body["messageId"] for body in made.bodies()}) == 3


def topologies() -> list[Any]:
    slow = pytest.mark.slow
    return [
        pytest.param("sqlite", "sqlite"),
        pytest.param("sqlite", "postgres", marks=slow),
        pytest.param("postgres", "sqlite", marks=slow),
        pytest.param("postgres", "postgres", marks=slow),
        pytest.param("postgres", "same", marks=slow),
    ]


@pytest.mark.parametrize(("source", "state"), topologies())
def test_ids_arrive_to_the_letter_and_come_and_go_alone(
    project: Project, request: pytest.FixtureRequest, source: str, state: str
) -> None:
    """`A` and `a`, `É` composed and not, `7` and `007` are people of their own, in every database."""
    new_database = request.getfixturevalue("new_database") if "postgres" in (source, state) else None
    sources = f"sqlite:///{project.folder}/shop.db" if source == "sqlite" else new_database()
    states = {"sqlite": f"sqlite:///{project.folder}/state.db", "same": sources}.get(state) or new_database()
    members.put(sources, [*IDS, None, "", None])
    project.write(members.jobs_yaml(project.url, source=sources, state=states))
    assert project.quick("migrate").code == 0
    ran = project.quick("run", "--json")
    assert ran.code == 0, ran.err
    found = ran.json["jobs"][0]["computations"][0]
    assert (found["size"], found["entered"], found["skipped_ids"]) == (len(IDS), len(IDS), 3)
    assert "3 rows without a user id" in project.quick("plan").out
    assert sorted(call.body["userId"] for call in project.receiver.calls) == sorted(IDS)
    for user in ("a", "É", "007"):
        project.receiver.calls.clear()
        members.put(sources, [other for other in IDS if other != user])
        assert project.quick("run").code == 0
        assert [(call.body["userId"], call.body["traits"]) for call in project.receiver.calls] == [(user, {"a": False})]
        members.put(sources, IDS)
        assert project.quick("run").code == 0
        assert len(project.receiver.calls) == 2


@pytest.mark.parametrize("server", ["sqlite", "postgres"])
def test_user_ids_of_other_types_are_sent_as_text(
    project: Project, request: pytest.FixtureRequest, server: str
) -> None:
    url = f"sqlite:///{project.folder}/shop.db" if server == "sqlite" else request.getfixturevalue("new_database")()
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table members (user_id bigint, audience text)")
        for user in ("9223372036854775807", "-1", "0"):
            connection.exec_driver_sql(f"insert into members values ({user}, 'a'), ({user}, 'a')")
    project.write(members.jobs_yaml(project.url, source=url, state="sqlite:///state.db"))
    assert project.quick("run").code == 0
    assert sorted(call.body["userId"] for call in project.receiver.calls) == ["-1", "0", "9223372036854775807"]


VALUES = [
    # SQL on SQLite, SQL on PostgreSQL, the JSON that must arrive (None: not told)
    ("1", "1", "1"),
    ("9223372036854775807", "9223372036854775807", "9223372036854775807"),
    ("12345678901234567890.12", "12345678901234567890.12::numeric", None),
    ("-0.5", "-0.5::float8", "-0.5"),
    ("'007'", "'007'::text", '"007"'),
    ("'NaN'", "'NaN'::text", '"NaN"'),
    ("9e999", "'Infinity'::float8", "nothing"),
    ("-9e999", "'-Infinity'::float8", "nothing"),
    ("null", "'NaN'::float8", "nothing"),
    ("null", "'NaN'::numeric", "nothing"),
    ("null", "null", "nothing"),
    ("'É \"x\" \\ \n 👋'", "'É \"x\" \\ ' || chr(10) || ' 👋'", '"É \\"x\\" \\\\ \\n 👋"'),
    ("''", "''::text", '""'),
    ("'2026-01-31'", "date '2026-01-31'", '"2026-01-31"'),
]


@pytest.mark.parametrize("server", ["sqlite", "postgres"])
def test_trait_values_are_json_to_the_digit(project: Project, request: pytest.FixtureRequest, server: str) -> None:
    """And the calls are valid JSON, whatever the value: no NaN, no Infinity."""
    url = f"sqlite:///{project.folder}/shop.db" if server == "sqlite" else request.getfixturevalue("new_database")()
    members.put(url, ["u"])
    column = 0 if server == "sqlite" else 1
    traits = "".join(
        f"      - name: t{n}\n        sql: {json.dumps(f'select user_id, {value[column]} as value from members')}\n"
        for n, value in enumerate(VALUES)
    )
    project.write(
        members.jobs_yaml(project.url, source=url, state="sqlite:///state.db", computed="    traits:\n" + traits)
    )
    ran = project.quick("run", "--json")
    assert ran.code == 0, ran.out
    told = {key: value for call in project.receiver.calls for key, value in call.body["traits"].items()}
    for n, (*_, expected) in enumerate(VALUES):
        if expected == "nothing":
            assert f"t{n}" not in told, VALUES[n]
        elif expected is not None:
            assert told[f"t{n}"] == json.loads(expected), VALUES[n]
    big = next(call.body["traits"]["t2"] for call in project.receiver.calls if "t2" in call.body["traits"])
    assert big == pytest.approx(12345678901234567890.12)
    project.receiver.calls.clear()
    assert project.quick("run").code == 0
    assert project.receiver.calls == []


def test_a_trait_that_gives_a_user_two_values_is_told_and_nothing_is_sent(project: Project) -> None:
    members.put(f"sqlite:///{project.folder}/shop.db", ["u", "u"], value=1)
    both = "select user_id, 1 as value from members union all select user_id, 2 from members"
    once = "select user_id, value from members"
    traits = f"    traits:\n      - {{name: two, sql: {both}}}\n      - {{name: one, sql: '{once}'}}\n"
    project.write(members.jobs_yaml(project.url, computed=traits.replace(f"sql: {both}", f"sql: '{both}'")))
    ran = project.quick("run", "--json")
    assert ran.code == 1
    job = ran.json["jobs"][0]
    assert job["status"] == "failed"
    assert "two values, 1 and 2" in job["error"]
    assert [call.body["traits"] for call in project.receiver.calls] == [{"one": 1.0}]
