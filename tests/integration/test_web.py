"""The page and what machines ask for, against a real state: what is shown, who may see it, and who may do what."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from audience_sync.config import Config, load_config
from audience_sync.delivery.sender import Patience
from audience_sync.receiver import Receiver
from audience_sync.sync import run
from audience_sync.web import make_app
from audience_sync.web.access import Access
from audience_sync.web.charts import Point, changes, short, sizes
from audience_sync.web.source import Source

HOSTILE = "<script>alert('x')</script>"
TOKEN = "a-token-long-enough"


def synced(folder: Path, receiver: Receiver, url: str) -> Config:
    """Three syncs of an audience with a hostile name; one workflow refuses a hostile user."""
    engine = sa.create_engine(f"sqlite:///{folder}/shop.db", poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table members (user_id text)")
        connection.exec_driver_sql("insert into members values ('u1'), ('u2'), (?)", (HOSTILE,))
    path = folder / "jobs.yaml"
    path.write_text(f"""\
version: 1
source: sqlite:///shop.db
workflows:
  w1: {{url: '{url}/w1', shared_secret: s3cret}}
  w2: {{url: '{url}/w2/tok3n?key=tok3n', shared_secret: s3cret}}
jobs:
  - name: J
    schedule: every 2 hours
    guard: off
    audiences:
      - {{name: "{HOSTILE}", key: a, table: {{name: members, user_id: user_id}}}}
""")
    receiver.answer = lambda where, body: 400 if where.startswith("/w2") and body["userId"] == HOSTILE else None
    config = load_config(path)
    for day in range(3):
        run(config, [], datetime.now(UTC) - timedelta(days=3 - day), patience=Patience(silent=0.0))
        with engine.begin() as connection:
            connection.exec_driver_sql("insert into members values (?)", (f"v{day}",))
    return config


@pytest.fixture
def config(tmp_path: Path, receiver: tuple[Receiver, str]) -> Config:
    return synced(tmp_path, *receiver)


def client(config: Config, access: Access, run_now: Callable[[str], bool] | None = None) -> TestClient:
    app = make_app(Source(lambda: config, run_now=run_now), access)
    return TestClient(app, base_url="http://127.0.0.1:8787", follow_redirects=False)


def test_what_is_shown_is_escaped_and_strict(config: Config) -> None:
    web = client(config, Access(None, loopback=True))
    hostile = "/users?id=" + quote(HOSTILE)
    for path in ("/", "/jobs/j", "/audiences/a", "/workflows/w2", "/dead-letters", "/users", "/users?id=u1", hostile):
        page = web.get(path)
        assert page.status_code == 200, path
        assert HOSTILE not in page.text
        assert "tok3n" not in page.text and "s3cret" not in page.text
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", page.text)
        assert not re.search(r"(src|href|action)=\"(https?:)?//", page.text), "nothing from elsewhere"
    assert "&lt;script&gt;" in web.get("/dead-letters").text
    assert "answered 400" in web.get("/workflows/w2").text
    assert "w2 has 1 dead letter" in web.get("/").text
    assert web.get("/audiences/nosuch").status_code == 404
    assert web.get("/workflows/../../etc/passwd").status_code == 404
    assert web.get("/static/../app.py").status_code == 404


def test_only_loopback_names_are_answered_on_loopback(config: Config) -> None:
    web = client(config, Access(None, loopback=True))
    assert web.get("/", headers={"Host": "rebound.example:8787"}).status_code == 421
    assert web.get("/", headers={"Host": "localhost:8787"}).status_code == 200
    assert web.get("/", headers={"Host": "[::1]:8787"}).status_code == 200


def test_elsewhere_the_token_is_asked_for(config: Config) -> None:
    web = client(config, Access(TOKEN, loopback=False))
    assert web.get("/").headers["location"] == "/login"
    assert web.get("/metrics").status_code == 401
    assert web.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert web.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert web.get("/healthz").status_code == web.get("/readyz").status_code == web.get("/login").status_code == 200
    assert web.post("/login", data={"token": "wrong"}).status_code == 403
    entered = web.post("/login", data={"token": TOKEN})
    assert entered.status_code == 303
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert web.get("/").status_code == 200
    forged = client(config, Access(TOKEN, loopback=False))
    forged.cookies.set("audience_sync_session", "1999999999.aa." + "0" * 64)
    assert forged.get("/").is_redirect


def test_doing_something_needs_a_session_and_a_form_of_the_page(config: Config) -> None:
    asked: list[str] = []

    def run_now(key: str) -> bool:
        asked.append(key)
        return True

    web = client(config, Access(TOKEN, loopback=True), run_now)
    assert web.post("/jobs/j/run").status_code == 403
    assert "Sync now" not in web.get("/").text
    web.post("/login", data={"token": TOKEN})
    assert web.post("/jobs/j/run").status_code == 403, "no CSRF value"
    found = re.search(r'name="csrf" value="(\w+)"', web.get("/").text)
    assert found
    form = {"csrf": found[1]}
    assert web.post("/jobs/j/run", data=form, headers={"Origin": "https://evil.example"}).status_code == 403
    assert web.post("/jobs/j/run", data=form, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert web.post("/jobs/j/run", json=form).status_code == 403
    assert web.get("/jobs/j/run").status_code == 405
    assert asked == []
    assert web.post("/jobs/j/run", data=form).status_code == 303
    assert web.post("/jobs/nosuch/run", data=form).status_code == 404
    assert asked == ["j"]
    other = client(config, Access("another-token-as-long", loopback=True), run_now)
    other.cookies = web.cookies
    assert other.post("/jobs/j/run", data=form).status_code == 403, "a new token ends all sessions"


def test_a_dead_letter_is_retried_and_discarded(config: Config, receiver: tuple[Receiver, str]) -> None:
    asked: list[str] = []
    app = make_app(Source(lambda: config, deliver_now=lambda: asked.append("now")), Access(TOKEN, loopback=True))
    web = TestClient(app, base_url="http://127.0.0.1:8787", follow_redirects=False)
    assert web.post("/dead-letters/retry").status_code == 403
    web.post("/login", data={"token": TOKEN})
    page = web.get("/dead-letters").text
    found = re.search(r'name="csrf" value="(\w+)"', page)
    assert found and "Retry all" in page
    other = {"csrf": found[1], "workflow": "w1"}
    assert web.post("/dead-letters/retry", data=other).status_code == 303
    assert "One dead letter" in web.get("/dead-letters").text
    theirs = {"csrf": found[1], "workflow": "w2", "key": "a", "user": HOSTILE}
    assert web.post("/dead-letters/nonsense", data=theirs).status_code == 404
    assert web.post("/dead-letters/retry", data=theirs).status_code == 303
    assert "No dead letters" in web.get("/dead-letters").text
    assert asked == ["now", "now"]
    assert "waiting" in web.get("/users?id=" + quote(HOSTILE)).text
    receiver[0].answer = None
    run(config, [], datetime.now(UTC))
    assert receiver[0].told["/w2/tok3n", HOSTILE, "a"] is True
    receiver[0].answer = lambda _path, body: 400 if body["userId"] == "late" else None
    engine = sa.create_engine(config.source.url, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("insert into members values ('late')")
    run(config, [], datetime.now(UTC), patience=Patience(silent=0.0))
    assert web.post("/dead-letters/discard", data={"csrf": found[1]}).status_code == 303
    assert "No dead letters" in web.get("/dead-letters").text
    assert "discarded" in web.get("/users?id=late").text


def test_metrics_are_prometheus_own(config: Config) -> None:
    text = client(config, Access(None, loopback=True)).get("/metrics").text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["audience_sync_size_users", "j", "a"] == 5
    assert found["audience_sync_dead_letters", "w2"] == 1
    assert found["audience_sync_pending_deliveries", "w1"] == 0
    assert found["audience_sync_job_late", "j"] == 0
    assert found["audience_sync_workflow_paused", "w1"] == found["audience_sync_breaker_open", "w1"] == 0
    assert found["audience_sync_state_up",] == 1
    assert "s3cret" not in text and "tok3n" not in text
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    ours = set(re.findall(r"^# TYPE (audience_sync_\w+)", text, re.MULTILINE)) - {"audience_sync_build_info"}
    short = {name for name in ours if name not in page and "…" + name.removeprefix("audience_sync_") not in page}
    assert {name for name in short if "relay" not in name} == set(), "docs/operations.md does not tell of them"


def test_ready_only_while_state_can_be_read(config: Config) -> None:
    web = client(config, Access(None, loopback=True))
    assert web.get("/readyz").json() == {"status": "ok", "problems": []}
    engine = sa.create_engine(config.state, poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("update audience_sync_version set version_num = '9999'")
    web = client(config, Access(None, loopback=True))
    assert web.get("/readyz").status_code == 503
    assert web.get("/healthz").status_code == 200
    assert web.get("/").status_code == 503
    assert "audience_sync_state_up 0.0" in web.get("/metrics").text


def test_charts_of_little_and_of_much() -> None:
    start = datetime(2026, 1, 1)
    assert sizes([], "x") == changes([], "x") == ""
    for count, size in ((1, 0), (1, 5), (2, 10_000_000), (300, 7)):
        points = [Point(start + timedelta(hours=n), size + n, n, 2 * n) for n in range(count)]
        for chart in (sizes(points, "a & b"), changes(points, "a & b")):
            assert "NaN" not in chart and "inf" not in chart and "a &amp; b" in chart
            assert chart.count("<title>") == count
    assert [short(n) for n in (0, 950, 9_999, 12_000, 3_400_000)] == ["0", "950", "9,999", "12k", "3.4M"]
