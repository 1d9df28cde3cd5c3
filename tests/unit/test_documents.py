"""The documents say what the code does."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import pytest

from audience_sync.cli import COMMANDS
from audience_sync.config import load_config
from audience_sync.config.model import Config
from audience_sync.config.strict import Strict

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


whole = pytest.mark.slow
"""Not slow, but for the whole suite: branches under way need not agree on one page before they meet."""


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def normal(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


REQUIREMENTS = sorted(
    {
        normal(requirement)
        for group in (
            PYPROJECT["project"]["dependencies"],
            *PYPROJECT["project"]["optional-dependencies"].values(),
        )
        for requirement in group
    }
)


@whole
@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_dependency_is_explained_and_pinned(name: str) -> None:
    assert re.search(rf"^\| `{re.escape(name)}` \| \S.* \|$", text("docs/dependencies.md"), re.MULTILINE), name
    if name != "audience-sync":
        pinned = {normal(line): line for line in text("constraints.txt").splitlines() if line}
        assert re.fullmatch(r"[\w.-]+==[\w.]+", pinned[name])


@whole
def test_no_dependency_is_explained_that_is_not_there() -> None:
    assert sorted(re.findall(r"^\| `([a-z0-9-]+)` \|", text("docs/dependencies.md"), re.MULTILINE)) == REQUIREMENTS


@whole
def test_the_help_of_every_command_is_in_the_documents() -> None:
    """`make docs` mends this."""
    spec = importlib.util.spec_from_file_location("write_commands", ROOT / "docs" / "write_commands.py")
    assert spec is not None
    assert spec.loader is not None
    write_commands = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(write_commands)
    page = text("docs/commands.md")
    assert write_commands.filled(page) == page, "run `make docs`"
    for name in COMMANDS:
        assert f"\n## {name}\n" in page


def models(kind: Any, seen: set[type[Strict]]) -> Iterator[type[Strict]]:
    """Every model that a field of this type may hold."""
    if isinstance(kind, type) and issubclass(kind, Strict) and get_origin(kind) is None:
        if kind not in seen:
            seen.add(kind)
            yield kind
            for field in kind.model_fields.values():
                yield from models(field.annotation, seen)
    elif get_origin(kind) is not None or isinstance(kind, UnionType):
        for inner in get_args(kind):
            yield from models(inner, seen)


@whole
def test_every_key_of_jobs_yaml_is_in_the_documents() -> None:
    page = text("docs/jobs-yaml.md")
    found = list(models(Config, set()))
    assert len(found) > 12
    for model in found:
        for name, field in model.model_fields.items():
            key = field.alias or name
            assert re.search(rf"`[^`]*\b{key}\b[^`]*`", page), f"{model.__name__}: {key}"


def test_the_example_at_the_top_is_right() -> None:
    assert load_config(ROOT / "jobs.yaml", {}).jobs


def test_the_first_jobs_yaml_of_the_readme_is_right(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", text("README.md"), re.DOTALL)
    (tmp_path / "jobs.yaml").write_text(example)
    config = load_config(tmp_path / "jobs.yaml", {})
    assert [audience.key for audience in config.jobs[0].audiences] == [
        "order_completed_last_30days",
        "gone_quiet_in_germany",
    ]


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text(page)):
        assert (folder / target).exists(), target
