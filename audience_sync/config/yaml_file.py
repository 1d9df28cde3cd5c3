"""YAML with places: plain Python values, and for each path in them its line and column.

Scalars follow YAML 1.2's core schema, not 1.1, so that the country `NO` stays text; dates stay text too and
are read by whoever knows that a date is meant. `${NAME}` and `${NAME:-default}` come from the environment, in quotes
of either kind too: a secret that stayed `${NAME}` because of its quotes would sign wrongly without a word.
`$${NAME}` stands for `${NAME}` itself.

`include:` names files, relative to the file that it stands in, whose `jobs:` and `events:` are added to the first's.
Each value keeps the place that it has in its own file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from audience_sync.errors import ConfigError, Problem

LARGEST_FILE = 1_000_000
MOST_VALUES = 50_000
MOST_FILES = 200
LONGEST_MESSAGE = 300
INCLUDED = ("jobs", "events", "include")
"""What an included file may say; databases, people and workflows are the first file's to name."""
SLOWLY = 100_000
"""A file of so many characters or fewer may be read by PyYAML itself; libyaml reads ten times as fast."""
_HALVES = re.compile(r"\\u[dD][89abAB]")
DEEPEST = 40
_VARIABLE = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

Path_ = tuple[str | int, ...]


class Located(dict[str, Any]):
    """A mapping that knows its own path, so that a validator that sees only it can say where it stands."""

    path: Path_ = ()


@dataclass
class Place:
    line: int
    column: int
    written: str = ""
    """The scalar as it stands in the file, before variables are filled in: safe to show."""
    file: str = ""


@dataclass
class Document:
    file: str
    data: Any = None
    places: dict[Path_, Place] = field(default_factory=dict)
    keys: dict[Path_, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    patterns: list[tuple[Path, str]] = field(default_factory=list)
    """What `include:` asks for: a folder, and what is looked for in it."""

    def place(self, path: Path_, *, of_key: bool = False) -> Place:
        """The place of a path, or of the nearest thing around it that stands in the file."""
        for end in range(len(path), -1, -1):
            table = self.keys if of_key and end == len(path) else self.places
            if path[:end] in table:
                return table[path[:end]]
        return Place(1, 1, file=self.file)

    def problem(self, path: Path_, message: str, hint: str = "", *, of_key: bool = False) -> Problem:
        place = self.place(path, of_key=of_key)
        shown = message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + "…"
        return Problem(
            shown, hint, place.file or self.file, place.line, place.column, self.title(path)[:LONGEST_MESSAGE]
        )

    def title(self, path: Path_) -> str:
        """`jobs › Lifecycle › audiences › VIP › sql`: list positions are shown by the name of what stands there."""
        parts: list[str] = []
        value = self.data
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                value = None
            if isinstance(step, str):
                parts.append(step)
            elif isinstance(value, dict) and isinstance(value.get("name"), str):
                parts.append(value["name"])
            else:
                parts.append(f"no. {step + 1}")
        return " › ".join(parts)


def read_yaml(path: Path, environ: Mapping[str, str]) -> Document:
    """Read a file and what it includes; raises ConfigError when one of them cannot be read as YAML at all."""
    document = Document(file=str(path))
    builder = _Builder(document, environ)
    document.data = builder.build(_compose(path), ())
    if isinstance(document.data, dict) and "include" in document.data:
        _include(builder, path, document.data.pop("include"), document.places[("include",)], [path.resolve()], set())
    return document


def _include(builder: _Builder, path: Path, named: Any, place: Place, trail: list[Path], seen: set[Path]) -> None:
    """Add what the files of `include:` say. `trail` leads from the first file here; `seen` were read already."""
    document = builder.document

    def problem(message: str, hint: str = "") -> None:
        document.problems.append(Problem(message, hint, place.file or str(path), place.line, place.column, "include"))

    patterns = [named] if isinstance(named, str) else named
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        return problem("expected the names of files, such as audiences/*.yaml")
    for pattern in patterns:
        if Path(pattern).is_absolute() or "**" in pattern:
            problem(f"{pattern!r}: expected a path relative to this file, without **", "write audiences/*.yaml")
            continue
        document.patterns.append((path.parent, pattern))
        found = sorted(path.parent.glob(pattern))
        if not found:
            problem(f"no file is named {pattern}", f"it is looked for in {path.parent.resolve().name}/")
        for file in found:
            real = file.resolve()
            if real in trail:
                names = [step.name for step in [*trail[trail.index(real) :], real]]
                problem("goes round in a circle: " + " → ".join(names), "take one of these out")
            elif real not in seen:
                seen.add(real)
                if len(seen) > MOST_FILES:
                    raise ConfigError([Problem(f"more than {MOST_FILES} files are included", "", document.file)])
                _add(builder, file, [*trail, real], seen)


def _add(builder: _Builder, file: Path, trail: list[Path], seen: set[Path]) -> None:
    document, outer = builder.document, builder.file
    builder.file = str(file)
    root = _compose(file)
    if not isinstance(root, yaml.MappingNode):
        document.problems.append(builder.problem_at(root, "expected names with values, such as jobs:"))
    else:
        for key_node, value in root.value:
            key = str(key_node.value)
            if key not in INCLUDED:
                hint = f"write it in {Path(document.file).name}; here may stand {', '.join(INCLUDED)}"
                document.problems.append(
                    builder.problem_at(key_node, f"{key!r} cannot stand in an included file", hint)
                )
            elif key == "include":
                here = Place(value.start_mark.line + 1, value.start_mark.column + 1, file=builder.file)
                _include(builder, file, builder.plain(value), here, trail, seen)
            elif key == "jobs" and isinstance(value, yaml.SequenceNode):
                jobs = document.data.setdefault("jobs", [])
                for node in value.value if isinstance(jobs, list) else ():
                    jobs.append(builder.build(node, ("jobs", len(jobs))))
            elif key == "events" and isinstance(value, yaml.MappingNode):
                _add_events(builder, value)
            else:
                document.problems.append(
                    builder.problem_at(value, f"{key}: expected what {key}: holds in the first file")
                )
    builder.file = outer


def _add_events(builder: _Builder, node: yaml.MappingNode) -> None:
    document = builder.document
    events = document.data.setdefault("events", Located())
    for key_node, value in node.value:
        name = str(key_node.value)
        if not isinstance(events, dict) or name in events:
            document.problems.append(builder.problem_at(key_node, f"the event {name!r} is in another file already"))
        else:
            events[name] = builder.build(value, ("events", name))


def _compose(path: Path) -> yaml.Node:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError([Problem(f"larger than {LARGEST_FILE:,} bytes", "split it with include:", str(path))])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            [Problem("there is no such file", "write one with `audience-sync init`", str(path))]
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(f"not UTF-8 text (byte {error.start})", "save it as UTF-8", str(path))]) from None
    except OSError as error:
        raise ConfigError([Problem(f"cannot be read: {error.strerror}", "", str(path))]) from None
    try:
        _check_size(text, str(path))
        root = yaml.compose(text, Loader=_loader(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        hint = "check the indentation, the colons and the quotes on this line and the one above it"
        if any("${" in written for written in text.splitlines()[line - 1 : line]):
            hint = 'inside { } and [ ], put a variable in quotes: "${NAME}"'
        raise ConfigError(
            [
                Problem(
                    f"not valid YAML: {error.problem or error.context}",
                    hint,
                    str(path),
                    line,
                    column,
                )
            ]
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError([Problem(f"not valid YAML: {str(error).splitlines()[0]}", "", str(path))]) from None
    if root is None:
        raise ConfigError([Problem("the file is empty", "write one with `audience-sync init`", str(path), 1, 1)])
    return root


def _loader(text: str) -> Any:
    """libyaml's, where it is there; it refuses JSON's `\\ud83d\\udc4b`, which PyYAML reads as two halves."""
    if _HALVES.search(text) and len(text) <= SLOWLY:
        return yaml.SafeLoader
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _check_size(text: str, file: str) -> None:
    depth = count = 0
    for event in yaml.parse(text, Loader=_loader(text)):
        if isinstance(event, yaml.NodeEvent):
            count += 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST or count > MOST_VALUES:
            said = (
                f"nested deeper than {DEEPEST} levels" if depth > DEEPEST else f"holds more than {MOST_VALUES:,} values"
            )
            mark = event.start_mark
            assert mark is not None
            raise ConfigError([Problem(said, "split it with include:", file, mark.line + 1, mark.column + 1)])


class _Builder:
    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = environ
        self.file = document.file
        self.count = 0

    def problem_at(self, node: yaml.Node, message: str, hint: str = "") -> Problem:
        return Problem(message, hint, self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def plain(self, node: yaml.Node) -> Any:
        """A text, or a list of texts, that becomes no part of the document."""
        if isinstance(node, yaml.SequenceNode):
            return [str(child.value) if isinstance(child, yaml.ScalarNode) else None for child in node.value]
        return str(node.value) if isinstance(node, yaml.ScalarNode) else None

    def build(self, node: yaml.Node, path: Path_) -> Any:
        mark = node.start_mark
        place = Place(mark.line + 1, mark.column + 1, file=self.file)
        self.document.places[path] = place
        self.count += 1
        if self.count > MOST_VALUES or len(path) > DEEPEST:
            raise ConfigError(
                [
                    Problem(
                        "unfolds to too many values (anchors that repeat each other?)",
                        "write it without anchors",
                        self.file,
                        place.line,
                        place.column,
                    )
                ]
            )
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self.document.problems.append(
                self.document.problem(path, f"the tag {node.tag} is not known here", "write the value without it")
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        place.written = node.value
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> Located:
        result = Located()
        result.path = path
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            if not isinstance(key_node, yaml.ScalarNode):
                self.document.problems.append(
                    Problem(
                        "a name was expected before the colon",
                        "",
                        self.file,
                        mark.line + 1,
                        mark.column + 1,
                    )
                )
                continue
            key = self._text(key_node)
            here = (*path, key)
            if key in result:
                first = self.document.keys[here]
                self.document.problems.append(
                    Problem(
                        f"{key!r} stands here a second time (first on line {first.line})",
                        "remove one of them",
                        self.file,
                        mark.line + 1,
                        mark.column + 1,
                    )
                )
                continue
            self.document.keys[here] = Place(mark.line + 1, mark.column + 1, file=self.file)
            result[key] = self.build(value_node, here)
        return result

    def _scalar(self, node: yaml.ScalarNode, path: Path_) -> Any:
        text = self._text(node)
        if node.style not in (None, "") or "${" in text:
            return self._fill(text, path)
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE"):
            return True
        if text in ("false", "False", "FALSE"):
            return False
        if _INTEGER.fullmatch(text):
            # 007 and twenty digits are identifiers that lost their quotes; as text they still equal themselves
            return int(text) if len(text) < 19 and str(int(text)) == text.lstrip("+") else text
        if _FLOAT.fullmatch(text):
            return float(text)
        return text

    def _text(self, node: yaml.ScalarNode) -> str:
        """PyYAML reads JSON's `\\ud83d\\udc4b`, which is one character, as two halves that no encoding takes."""
        text = str(node.value)
        if text.isascii():
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            mark = node.start_mark
            said = "holds half a character (\\ud800 to \\udfff stand in pairs)"
            self.document.problems.append(Problem(said, "", self.file, mark.line + 1, mark.column + 1))
            return text.encode("utf-8", "replace").decode()

    def _fill(self, text: str, path: Path_) -> str:
        def value(match: re.Match[str]) -> str:
            if match[0].startswith("$$"):
                return match[0][1:]
            found = self.environ.get(match[1])
            if found:
                return found
            if match[2] is not None:
                return match[2]
            state = "is set to nothing" if found == "" else "is not set"
            problem = self.document.problem(
                path,
                f"the environment variable {match[1]} {state}",
                f"set {match[1]}, or give a default: ${{{match[1]}:-…}}",
            )
            self.document.problems.append(replace(problem, of_environment=True))
            return ""

        return _VARIABLE.sub(value, text)
