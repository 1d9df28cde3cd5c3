"""`init`, `migrate`, `listen`, and what holds of every command."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from support import members
from support.project import Project

from audience_sync.cli import COMMANDS

DEADLINE_SECONDS = 30


def test_init_then_validate_then_run(project: Project) -> None:
    assert project.quick("init").code == 0
    path = project.folder / "jobs.yaml"
    written = path.read_text()
    validated = project.quick("validate")
    assert validated.code == 0, validated.err
    assert "order_completed_last_30days" in validated.out
    again = project.quick("init")
    assert again.code == 2
    assert "--force" in again.err
    path.write_text("mine")
    assert project.quick("init", "--force").code == 0
    assert path.read_text() == written


def test_every_part_of_inits_comments_is_valid_too(project: Project) -> None:
    """What a newcomer uncomments must work as it stands."""
    assert project.quick("init").code == 0
    path = project.folder / "jobs.yaml"
    lines = []
    for line in path.read_text().splitlines():
        bare = line.lstrip()
        indent = line[: len(line) - len(bare)]
        is_yaml = bare.startswith("# ") and any(
            bare[2:].lstrip().startswith(word)
            for word in (
                '"*":',
                "people:",
                "rate:",
                "concurrency:",
                "- name:",
                "- {",
                "- not:",
                "who:",
                "all:",
                "traits:",
                "sql:",
            )
        )
        lines.append(indent + bare[2:] if is_yaml else line)
    text = "\n".join(lines)
    assert "\n      - name: Big spenders" in text
    path.write_text(text)
    ran = project.quick("validate", "--json")
    assert ran.code == 0, ran.err
    keys = [found["key"] for found in ran.json["jobs"][0]["computations"]]
    assert keys == ["order_completed_last_30days", "big_spenders", "lifetime_value"]


def test_migrate_says_what_it_did(project: Project) -> None:
    members.put(f"sqlite:///{project.folder}/shop.db", ["u1"])
    project.write(members.jobs_yaml(project.url))
    first = project.quick("migrate", "--json").json
    assert first["before"] is None
    assert project.quick("migrate", "--json").json == {"before": first["after"], "after": first["after"]}
    assert "already" in project.quick("migrate").out


def test_a_newer_state_is_refused(project: Project) -> None:
    import sqlite3

    members.put(f"sqlite:///{project.folder}/shop.db", ["u1"])
    project.write(members.jobs_yaml(project.url))
    assert project.quick("run").code == 0
    with sqlite3.connect(project.folder / "audience_sync.db") as state:
        state.execute("update audience_sync_version set version_num = '9999'")
    for command in ("run", "plan", "status", "migrate"):
        ran = project.quick(command)
        assert ran.code == 2
        assert "newer" in ran.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(project: Project, name: str) -> None:
    ran = project.quick(name, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: audience-sync {name}")
    assert len(ran.out.splitlines()) > 4


def test_help_lists_every_command(project: Project) -> None:
    out = project.quick("--help").out
    for name, what in COMMANDS.items():
        assert f"  {name} " in out
        assert what in out


def listening(project: Project, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    process = project.start("listen", "--port", "0", "--json", *arguments)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "listening on http://" in line, line
    return process, next(word for word in line.replace(",", " ").split() if word.startswith("http://"))


def end(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert "Traceback" not in err
    return out


def test_listen_checks_signatures_prints_and_records(project: Project) -> None:
    record = project.folder / "calls.jsonl"
    process, url = listening(project, "--shared-secret", "s3cret", "--record", str(record))
    members.put(f"sqlite:///{project.folder}/shop.db", ["u1", "u2"])
    project.write(members.jobs_yaml(url))
    assert project.quick("run").code == 0
    wrong = httpx.post(f"{url}/crm", json={"type": "identify"}, headers={"X-Signature": "0" * 40})
    assert wrong.status_code == 401
    assert httpx.post(f"{url}/crm", content=b"nonsense").status_code == 400
    assert httpx.get(f"{url}/crm").status_code == 405
    calls = [json.loads(line) for line in end(process).splitlines()]
    assert [(call["path"], call["signature"], call["status"]) for call in calls] == [
        ("/crm", "ok", 200),
        ("/crm", "ok", 200),
        ("/crm", "wrong", 401),
    ]
    assert sorted(call["body"]["userId"] for call in calls[:2]) == ["u1", "u2"]
    assert [json.loads(line) for line in record.read_text().splitlines()] == calls


def test_listen_fails_and_delays_on_demand(project: Project) -> None:
    process, url = listening(project, "--fail", "1", "--status", "418", "--delay", "0.3")
    started = time.monotonic()
    assert httpx.post(f"{url}/x", json={"type": "identify"}).status_code == 418
    assert time.monotonic() - started >= 0.3
    end(process)


def test_listen_on_a_port_that_is_taken_or_a_file_that_cannot_be(project: Project) -> None:
    port = project.url.rpartition(":")[2]
    ran = project.quick("listen", "--port", port)
    assert ran.code == 2
    assert "--port" in ran.err
    ran = project.quick("listen", "--port", "0", "--record", str(project.folder / "no" / "file"))
    assert ran.code == 2
    assert "file" in ran.err


@pytest.mark.slow
def test_output_on_a_terminal_that_knows_no_unicode(project: Project) -> None:
    members.put(f"sqlite:///{project.folder}/shop.db", ["Ünï", "名"])
    project.write(members.jobs_yaml(project.url))
    project.env["PYTHONIOENCODING"] = "latin-1"
    done = subprocess.run(
        project.command("plan", "--json"), capture_output=True, env=project.environment(), timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["jobs"][0]["computations"][0]["sample"]["entered"] == ["Ünï", "名"]
    done = subprocess.run(
        project.command("run"), capture_output=True, env=project.environment(), timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"2 delivered" in done.stdout


@pytest.mark.slow
def test_a_reader_that_leaves_early_gets_no_traceback(project: Project) -> None:
    members.put(f"sqlite:///{project.folder}/shop.db", ["u1"])
    project.write(members.jobs_yaml(project.url))
    words = " ".join(project.command("status", "--json"))
    done = subprocess.run(
        ["bash", "-c", f"{words} | true"],
        capture_output=True,
        text=True,
        env=project.environment(),
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.slow
def test_the_wheel_works_installed_alone(tmp_path: Path, project: Project) -> None:
    """Migrations ship inside it: a first run makes its state far from the source tree."""
    import sys

    root = Path(__file__).resolve().parents[2]
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=root, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv = tmp_path / "venv"
    # The dependencies are those of this environment; the package itself only from the wheel.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=120)
    (site,) = venv.glob("lib/python*/site-packages")
    ours = Path(httpx.__file__).resolve().parents[1]
    env = {**project.environment(), "PYTHONPATH": f"{site}:{ours}", "PYTHONSAFEPATH": "1"}
    members.put(f"sqlite:///{tmp_path}/shop.db", ["u1"])
    (tmp_path / "jobs.yaml").write_text(members.jobs_yaml(project.url))
    script = str(venv / "bin" / "audience-sync")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    where = subprocess.run(
        [str(venv / "bin" / "python"), "-c", "import audience_sync; print(audience_sync.__file__)"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.startswith(str(venv))
    assert call("migrate").returncode == 0
    ran = call("run", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["jobs"][0]["deliveries"][0]["delivered"] == 1


@pytest.mark.slow
def test_state_moves_through_files(project: Project) -> None:
    members.put(f"sqlite:///{project.folder}/shop.db", ["u1", "u2"])
    path = project.write(members.jobs_yaml(project.url))
    assert project.quick("run").code == 0
    folder = project.folder / "moved"
    assert project.cli("export", str(folder), "--format", "csv").code == 0
    again = project.quick("import", str(folder))
    assert again.code == 2
    assert "in use already" in again.err
    (project.folder / "audience_sync.db").unlink()
    project.receiver.calls.clear()
    imported = project.cli("import", str(folder), "--json")
    assert imported.code == 0, imported.err
    assert imported.json["rows"]["synced"] == 2
    assert project.quick("run").code == 0
    assert project.receiver.calls == []
    assert path.exists()
