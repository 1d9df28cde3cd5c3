"""The line of the data flow is the line of the imports: each package knows only what lies before it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import audience_sync

ORDER = (
    *("errors", "clock", "redact", "logs"),
    *("spark", "database", "state", "config", "computations", "snapshot", "diff", "warehouse", "outbox", "delivery"),
    *("relay", "receiver", "sample_shop"),
    *(
        "sync",
        "backfill",
        "forget",
        "history",
        "show",
        "moving",
        "status",
        "alerts",
        "scheduler",
        "web",
        "cli",
        "__main__",
    ),
)
ROOT = Path(audience_sync.__file__).parent


def imported(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "audience_sync":
            inside = (node.module or "").split(".")[1:]
            yield from inside[:1] or (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("audience_sync."))


def test_every_package_imports_only_what_lies_before_it() -> None:
    backwards = []
    for module in sorted(ROOT.rglob("*.py")):
        here = module.relative_to(ROOT).with_suffix("").parts[0]
        if here in ("__init__", "migrations"):
            continue
        for there in imported(module):
            if there not in (here, "__version__") and ORDER.index(there) > ORDER.index(here):
                backwards.append(f"{module.relative_to(ROOT)} imports {there}")
    assert not backwards


def test_the_order_names_what_is_there() -> None:
    there = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    there |= {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert there - {"__init__", "__pycache__", "migrations"} == set(ORDER)
