"""An editor's comfort: the schema, files that include others, validate for CI and its warnings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import sqlalchemy as sa
import yaml
from support.project import Project

from audience_sync.cli.init import SAMPLE
from audience_sync.config import load_config
from audience_sync.config.schema import SHIPPED, json_schema
from audience_sync.errors import ConfigError
from audience_sync.sample_shop import JOBS_YAML

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
version: 1
source: sqlite:///shop.db
include: audiences/*.yaml
events: {"*": {table: tracks, user_id: who, at: at, name: event}}
workflows: {crm: {url: "${TRAY_CRM_URL}"}}
"""
TEAM = """\
jobs:
  - name: Team
    audiences:
      - {name: Buyers, who: {did: Bought}}
"""


def complaints(text: str) -> list[Any]:
    return list(jsonschema.Draft202012Validator(json_schema()).iter_errors(yaml.safe_load(text)))


def test_the_shipped_schema_is_the_one_that_is_made() -> None:
    assert json.loads(SHIPPED.read_text()) == json_schema(), "write it: audience-sync schema > " + str(SHIPPED)
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("text", [SAMPLE, JOBS_YAML, (ROOT / "jobs.yaml").read_text(), HEAD + TEAM, TEAM])
def test_what_is_right_is_right_by_the_schema(text: str) -> None:
    assert complaints(text) == []


@pytest.mark.parametrize(
    "audience",
    [
        "{name: A, who: {did: X, wihtin: 30 days}}",
        "{name: A, who: {did: X, at_least: many}}",
        "{name: A, who: {has: {country: {equals: DE}}}}",
        "{name: A, who: {then: [{did: X, at_least: 2}, {did: Y}]}}",
        "{nmae: A, who: {did: X}}",
    ],
)
def test_what_is_wrong_is_wrong_by_the_schema(audience: str) -> None:
    assert complaints(HEAD + f"jobs: [{{name: J, audiences: [{audience}]}}]") != []


def test_init_writes_the_schema_that_its_first_line_names(project: Project) -> None:
    assert project.quick("init").code == 0
    first = (project.folder / "jobs.yaml").read_text().splitlines()[0]
    name = first.rpartition("=")[2]
    assert json.loads((project.folder / name).read_text()) == json_schema()
    assert project.quick("schema").json == json_schema()


def including(folder: Path, **files: str) -> Path:
    (folder / "audiences").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / "audiences" / f"{name}.yaml").write_text(text)
    path = folder / "jobs.yaml"
    path.write_text(HEAD)
    return path


def load(path: Path) -> list[str]:
    config = load_config(path, {"TRAY_CRM_URL": "http://127.0.0.1:1/"})
    return [computed.name for job in config.jobs for computed in job.computed]


def told(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


def test_each_team_owns_a_file(tmp_path: Path) -> None:
    other = TEAM.replace("Team", "Others").replace("Buyers", "Lookers").replace("{did: Bought}", "{in: Buyers}")
    path = including(tmp_path, a=TEAM, b=other + "events: {Seen: {table: seen, user_id: u, at: t}}\n")
    assert load(path) == ["Buyers", "Lookers"]
    assert "Seen" in load_config(path, {"TRAY_CRM_URL": "http://127.0.0.1:1/"}).events


def test_a_mistake_is_told_with_the_included_file_and_its_own_line(tmp_path: Path) -> None:
    said = told(including(tmp_path, a=TEAM, b=TEAM.replace("Team", "T2").replace("{did: Bought}", "{idd: Bought}")))
    assert f"{tmp_path}/audiences/b.yaml:4:" in said
    assert "the key buyers is already that of 'Buyers'" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("include: ../jobs.yaml\n", "goes round in a circle: jobs.yaml → a.yaml → jobs.yaml"),
        ("include: none/*.yaml\n", "no file is named none/*.yaml"),
        ("include: /etc/*.yaml\n", "expected a path relative to this file"),
        ("include: [1, {a: 2}]\n", "expected the names of files"),
        ("source: sqlite:///x.db\n", "'source' cannot stand in an included file"),
        ("jobs: 3\n", "jobs: expected what jobs: holds"),
        ("- 1\n", "expected names with values"),
        ("events: {'*': {table: t, user_id: u, at: a, name: n}}\n", "the event '*' is in another file already"),
    ],
)
def test_what_an_included_file_may_not_say(tmp_path: Path, text: str, said: str) -> None:
    answer = told(including(tmp_path, a=text, b=TEAM))
    assert f"{tmp_path}/audiences/a.yaml:1:" in answer
    assert said in answer


def test_check_needs_no_variables_and_says_only_what_is_wrong(project: Project) -> None:
    path = including(project.folder, a=TEAM)
    ran = project.quick("validate", "--check")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert project.quick("validate").code == 2, "the variable is not set"
    including(project.folder, a=TEAM.replace("did:", "didd:"))
    wrong = project.quick("validate", "--check")
    assert wrong.code == 2
    assert "TRAY_CRM_URL" not in wrong.err
    assert f"{path.parent}/audiences/a.yaml:4:" in wrong.err


def test_an_event_that_never_occurs_is_told_with_the_nearest(project: Project) -> None:
    including(project.folder, a=TEAM)
    with sa.create_engine(f"sqlite:///{project.folder}/shop.db").begin() as connection:
        connection.exec_driver_sql("CREATE TABLE tracks (who text, at text, event text)")
        connection.exec_driver_sql("INSERT INTO tracks VALUES ('u', '2026-01-01', 'bought'), ('u', '', 'Seen')")
    project.env["TRAY_CRM_URL"] = project.url
    ran = project.quick("validate", "--connect")
    assert ran.code == 0
    assert "warning Buyers: nobody ever did 'Bought'; there are bought" in ran.out
    assert project.quick("validate", "--connect", "--json").json["warnings"]
