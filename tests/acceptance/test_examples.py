"""The examples work: against the real Dagster and Airflow where an interpreter that has them is named, and by their own
checkers where those are installed.

Dagster and Airflow live in environments of their own, as the examples say, so neither is in ours:
    DAGSTER_PYTHON=…/bin/python AIRFLOW_PYTHON=…/bin/python pytest tests/acceptance/test_examples.py
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.project import Project
from support.starting import jobs_yaml, join, shop

from audience_sync.config import load_config

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def command(project: Project) -> dict[str, str]:
    """The environment in which the examples find the command, jobs.yaml and a shop with two members."""
    join(shop(project), "u1", "u2")
    project.write(jobs_yaml(project, "every 2 hours"))
    script = project.folder / "audience-sync"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m audience_sync "$@"\n')
    script.chmod(0o755)
    return {
        **os.environ,
        "AUDIENCE_SYNC": str(script),
        "AUDIENCE_SYNC_CONFIG": str(project.folder / "jobs.yaml"),
        "AUDIENCE_SYNC_JOBS": "J",
    }


def python_of(name: str) -> str:
    found = os.environ.get(f"{name.upper()}_PYTHON")
    if found is None:
        pytest.skip(f"{name.upper()}_PYTHON does not name an interpreter that has {name}")
    return found


def test_dagster_materializes_an_asset(project: Project, command: dict[str, str]) -> None:
    code = """
import dagster, definitions
result = dagster.materialize(definitions.assets)
(made,) = result.get_asset_materialization_events()
print("ENTERED", made.materialization.metadata["a entered"].value)
"""
    done = subprocess.run(
        [python_of("dagster"), "-c", code],
        cwd=EXAMPLES / "dagster",
        env={**command, "DAGSTER_HOME": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "ENTERED 2" in done.stdout, done.stderr
    assert len(project.receiver.told) == 2


def test_airflow_runs_the_dag(project: Project, command: dict[str, str]) -> None:
    home = project.folder / "airflow"
    environment = {
        **command,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES / "airflow"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    python = python_of("airflow")
    for arguments in (["db", "migrate"], ["dags", "test", "audience_sync"]):
        done = subprocess.run(
            [python, "-m", "airflow", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(project.receiver.told) == 2


def test_kubernetes_manifests_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [
        document
        for file in (EXAMPLES / "kubernetes").glob("*.yaml")
        for document in yaml.safe_load_all(file.read_text())
    ]
    assert {document["kind"] for document in documents} == {"ConfigMap", "CronJob", "Deployment", "Job", "Service"}
    (config,) = (document for document in documents if document["kind"] == "ConfigMap")
    path = tmp_path / "jobs.yaml"
    path.write_text(config["data"]["jobs.yaml"])
    for name in ("SHOP_DB", "SYNC_STATE"):
        monkeypatch.setenv(name, "postgresql://somebody@localhost/shop")
    monkeypatch.setenv("TRAY_CRM_URL", "https://hooks.example/crm")
    monkeypatch.setenv("TRAY_SECRET", "s3cret")
    assert load_config(path).jobs[0].key == "lifecycle"


def test_the_unit_is_taken_by_systemd(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    unit = (EXAMPLES / "systemd" / "audience-sync.service").read_text()
    unit = unit.replace("/opt/audience-sync/bin/audience-sync", sys.executable)  # it must exist to be verified
    path = tmp_path / "audience-sync.service"
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "audience-sync.service" not in done.stderr, done.stderr


def test_the_image_is_small_and_not_root() -> None:
    text = (EXAMPLES / "docker" / "Dockerfile").read_text()
    assert re.search(r"^USER \d+$", text, re.MULTILINE)
    assert text.count("\nFROM ") + text.startswith("FROM ") == 2
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (EXAMPLES.parent / name).exists(), name


def test_dbt_comes_first(project: Project, command: dict[str, str]) -> None:
    """`dbt` here is a stand-in that fails or not; what it builds is not our matter."""
    script = EXAMPLES / "dbt" / "run-then-sync.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    path = f"{project.folder}{os.pathsep}{command['PATH']}"
    dbt = project.folder / "dbt"
    for code, told in ((1, 0), (0, 2)):
        dbt.write_text(f"#!/bin/sh\nexit {code}\n")
        dbt.chmod(0o755)
        done = subprocess.run([script, "J"], env={**command, "PATH": path}, timeout=60, check=False)
        assert done.returncode == code
        assert len(project.receiver.told) == told
